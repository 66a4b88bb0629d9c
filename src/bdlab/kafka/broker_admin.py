"""Administers a secured broker: the services' users, their ACLs, and the brokers' certificates."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, cast

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stub does not re-export all of them
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)

from bdlab import services
from bdlab.credentials import KafkaLogin
from bdlab.errors import BrokerRefused
from bdlab.kafka.admin_futures import await_results, seconds_left
from bdlab.kafka.connection import AUTHENTICATION, broker_error, client_config, fetch_metadata
from bdlab.retry import tries
from bdlab.settings import KafkaSettings

# librdkafka's own codes begin with an underscore; they are not private.
_SSL = KafkaError._SSL  # noqa: SLF001

_CLIENT_ID = "bdlab-migrate"
_TIMEOUT_S = 15.0
_POLL_S = 0.05
#: With any change of its settings, even to the value that they have, a broker looks whether the files of its
#: certificates have changed. This setting is given the value that it has anyway.
_RELOAD_SETTING, _RELOAD_VALUE = "listener.name.internal.ssl.keystore.type", "PEM"

#: The least that Kafka takes. The passwords are long and random, so that more would not help.
_ITERATIONS = 4096
_MECHANISMS = {
    "SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256,
    "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512,
}
_CLUSTER = "kafka-cluster"


class Change(NamedTuple):
    """What was done to what: ("created", "user bdlab-serve-a")."""

    action: str
    subject: str


class Grant(NamedTuple):
    """One operation on one resource: (WRITE, TOPIC, "predictions")."""

    operation: AclOperation
    kind: ResourceType
    resource: str


def grants(service: str, server: KafkaSettings) -> frozenset[Grant]:
    """Return all that a service may do at the broker, as `bdlab.services` lists it.

    The rights to write and to read include the right to describe, which is granted as well, so that a list of
    ACLs shows it. An idempotent producer needs WRITE alone (Kafka 2.8 and later).
    """
    resources = {
        "topic": (ResourceType.TOPIC, server.topic),
        "group": (ResourceType.GROUP, server.group),
        # librdkafka's name for the cluster as a resource is BROKER.
        "cluster": (ResourceType.BROKER, _CLUSTER),
    }
    allowed = [operation.split() for operation in services.find(service).kafka or ()]
    return frozenset(Grant(AclOperation[verb.upper()], *resources[what]) for verb, what in allowed)


def ensure_users_and_acls(admin_login: KafkaLogin, users: Mapping[str, Sequence[KafkaLogin]]) -> list[Change]:
    """Bring users, passwords and ACLs to the wanted state, and return what was changed.

    `users` has for each service the logins that it may use. A user that exists is tried with its password,
    and the password is set again if it is refused. What one of these users is allowed beyond its service's
    grants is taken away; a denial that somebody added is left. On return the broker knows all of it.

    Raises BrokerRefused if `admin_login` may not do this, and BrokerUnavailable.
    """
    admin = _open_admin(admin_login)
    logins = [login for of_service in users.values() for login in of_service]
    changes = _ensure_users(admin, logins)
    wanted = {
        _binding(login.username, grant)
        for service, of_service in users.items()
        for login in of_service
        for grant in grants(service, login.server)
    }
    return changes + _ensure_acls(admin, wanted, {login.username for login in logins})


def accepts(login: KafkaLogin) -> bool:
    """Whether the broker accepts this user with this password. Raises BrokerUnavailable, BrokerRefused."""
    try:
        _open(login)
    except BrokerRefused as error:
        cause = error.__cause__
        if isinstance(cause, KafkaException) and cause.args[0].code() == AUTHENTICATION:
            return False
        raise
    return True


def reload_certificates(admin_login: KafkaLogin) -> list[int]:
    """Have every broker read its certificate files again if they have changed; return the brokers' node ids.

    Open connections stay. A broker takes only a certificate of the same subject that names all hosts of the
    one before. Raises BrokerRefused if `admin_login` may not do this, and BrokerUnavailable.
    """
    client = AdminClient(client_config(admin_login, client_id="bdlab-certificates"))
    brokers = sorted(fetch_metadata(client, server=admin_login.server, timeout_s=_TIMEOUT_S).brokers)
    entry = ConfigEntry(_RELOAD_SETTING, _RELOAD_VALUE, incremental_operation=AlterConfigOpType.SET)
    resources = [
        ConfigResource(ResourceType.BROKER, str(broker), incremental_configs=[entry]) for broker in brokers
    ]

    def ask(left: float) -> dict[str, Future[Any]]:
        futures = client.incremental_alter_configs(resources, request_timeout=left)
        return {
            f"reloading the certificates of broker {resource.name}": answer
            for resource, answer in futures.items()
        }

    await_results(ask, _TIMEOUT_S)
    return brokers


def _open_admin(login: KafkaLogin) -> AdminClient:
    """Return a client, after a check that it may change users and ACLs.

    Without that right confluent_kafka's list of ACLs is empty without an error, and its list of users ends
    the process with a broken heap (2.16).
    """
    client = _open(login)

    def ask(left: float) -> dict[str, Future[Any]]:
        answer = client.describe_cluster(include_authorized_operations=True, request_timeout=left)
        return {"asking what the administrator may do": answer}

    (found,) = await_results(ask, _TIMEOUT_S)
    if AclOperation.ALTER not in (found.authorized_operations or ()):
        raise BrokerRefused(
            f"the broker at {login.server.bootstrap_servers} lets {login.username or 'this certificate'} in, "
            "and does not let it change users and ACLs",
            hint="Log in with a certificate whose subject is one of the broker's super.users.",
        )
    return client


def _open(login: KafkaLogin) -> AdminClient:
    """Return a client that the broker has logged in.

    librdkafka repeats a refused login, and answers only when its time is over, without the reason, which
    comes earlier, as an event. So this asks with short time-outs, and looks for the event in between. It asks
    for the list of topics, which needs one connection; an administrative request needs a second log-in.

    Raises BrokerRefused with a KafkaException as its cause, or BrokerUnavailable.
    """
    events: list[KafkaError] = []
    # Short, so that a broker that is just starting is found at once.
    config = client_config(login, client_id=_CLIENT_ID) | {"reconnect.backoff.max.ms": 100}
    client = AdminClient(config | {"error_cb": events.append})
    doing = f"logging in at {login.server.bootstrap_servers} as {login.username or 'administrator'}"
    deadline, answer_s = time.monotonic() + _TIMEOUT_S, _POLL_S
    while True:
        try:
            client.list_topics(timeout=min(answer_s, seconds_left(deadline)))
        except KafkaException as error:
            client.poll(0)
            for event in events:
                _raise_refusal(event, doing)
            if time.monotonic() >= deadline:
                last = f" (last: {events[-1].str()})" if events else ""
                found = broker_error(error, doing)
                raise type(found)(f"{found.message}{last}", hint=found.hint) from error
            answer_s *= 2
        else:
            return client


def _raise_refusal(event: KafkaError, doing: str) -> None:
    if event.code() == AUTHENTICATION:
        raise broker_error(event, doing) from KafkaException(event)
    if event.code() == _SSL:
        raise BrokerRefused(
            f"{doing}: {event.str()}",
            hint="Check the certificates: the broker's, the authority's, the administrator's own.",
        ) from KafkaException(event)


def _ensure_users(admin: AdminClient, logins: Sequence[KafkaLogin]) -> list[Change]:
    def ask(left: float) -> dict[str, Future[Any]]:
        # Without names there is one future for all users.
        found = cast("Future[Any]", admin.describe_user_scram_credentials(request_timeout=left))
        return {"listing the broker's users": found}

    (known,) = await_results(ask, _TIMEOUT_S)
    refused = _refused([login for login in logins if login.username in known])
    wrong = [login for login in logins if login.username not in known or login in refused]
    _set_passwords(admin, wrong)
    # One is enough: a broker takes over all changes of one request at once. To try a dozen costs a broker
    # that has just started half a second of processor time.
    _await_accepted(wrong[-1:])
    return [
        Change("set the password of" if login.username in known else "created", f"user {login.username}")
        for login in wrong
    ]


def _refused(logins: Sequence[KafkaLogin]) -> list[KafkaLogin]:
    """Return the logins that the broker does not accept; all are tried at once."""
    with ThreadPoolExecutor(max_workers=max(1, len(logins))) as threads:
        return [login for login, good in zip(logins, threads.map(accepts, logins), strict=True) if not good]


def _set_passwords(admin: AdminClient, logins: Sequence[KafkaLogin]) -> None:
    upsertions: list[UserScramCredentialAlteration] = []
    for login in logins:
        name = login.server.sasl_mechanism
        mechanism = _MECHANISMS.get(name)
        if mechanism is None:
            raise BrokerRefused(
                f"users can be made at a broker for SCRAM, and the mechanism is {name}",
                hint="Name a user that the broker has in .env of the first set-up: BDLAB_KAFKA_USERNAME and "
                "BDLAB_KAFKA_PASSWORD.",
            )
        credential = ScramCredentialInfo(mechanism, _ITERATIONS)
        password = login.password.reveal().encode()
        upsertions.append(UserScramCredentialUpsertion(login.username, credential, password))

    def ask(left: float) -> dict[str, Future[Any]]:
        futures = admin.alter_user_scram_credentials(upsertions, request_timeout=left)
        return {f"setting the password of user {name!r}": future for name, future in futures.items()}

    if upsertions:
        await_results(ask, _TIMEOUT_S)


def _await_accepted(logins: Sequence[KafkaLogin]) -> None:
    """Wait until the broker accepts them: it learns of a password a moment after the controller."""
    for _ in tries(_TIMEOUT_S):
        logins = _refused(logins)
        if not logins:
            return
    login = logins[0]
    raise BrokerRefused(
        f"the broker at {login.server.bootstrap_servers} took a password for user "
        f"{login.username!r}, and still refuses it after {_TIMEOUT_S:g} s",
        hint="ReadRecords into the broker's log.",
    )


def _ensure_acls(admin: AdminClient, wanted: set[AclBinding], names: Iterable[str]) -> list[Change]:
    present = _allowed(admin, names)
    missing, excess = sorted(wanted - present), sorted(present - wanted)

    def create(left: float) -> dict[str, Future[Any]]:
        created = admin.create_acls(missing, request_timeout=left)
        return {f"allowing {_in_words(acl)}": created[acl] for acl in missing}

    def remove(left: float) -> dict[str, Future[Any]]:
        filters = {acl: AclBindingFilter(*acl._to_tuple()) for acl in excess}  # noqa: SLF001
        removed = admin.delete_acls(list(filters.values()), request_timeout=left)
        return {f"taking away {_in_words(acl)}": removed[filters[acl]] for acl in excess}

    if missing:
        await_results(create, _TIMEOUT_S)
    if excess:
        await_results(remove, _TIMEOUT_S)
    return [Change("allowed", _in_words(acl)) for acl in missing] + [
        Change("took away", _in_words(acl)) for acl in excess
    ]


def _allowed(admin: AdminClient, names: Iterable[str]) -> set[AclBinding]:
    """Return the ACLs that allow these users something; the broker is asked for all ACLs at once."""
    anything: Any = None
    everything = AclBindingFilter(
        ResourceType.ANY,
        anything,
        ResourcePatternType.ANY,
        anything,
        anything,
        AclOperation.ANY,
        AclPermissionType.ALLOW,
    )

    def ask(left: float) -> dict[str, Future[Any]]:
        return {"listing what users may do": admin.describe_acls(everything, request_timeout=left)}

    (found,) = await_results(ask, _TIMEOUT_S)
    principals = {f"User:{name}" for name in names}
    return {acl for acl in found if acl.principal in principals}


def _binding(name: str, grant: Grant) -> AclBinding:
    return AclBinding(
        grant.kind,
        grant.resource,
        ResourcePatternType.LITERAL,
        f"User:{name}",
        "*",
        grant.operation,
        AclPermissionType.ALLOW,
    )


def _in_words(acl: AclBinding) -> str:
    """ "bdlab-serve-a: WRITE on topic predictions"."""
    resource, operation = ResourceType(acl.restype), AclOperation(acl.operation)
    kind = "cluster" if resource == ResourceType.BROKER else resource.name.lower()
    return f"{acl.principal.removeprefix('User:')}: {operation.name} on {kind} {acl.name}"
