"""Administers a secured broker: the services' users, their ACLs, and the brokers' certificates."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import admin as api
from confluent_kafka.admin import AclBinding, AclOperation, AdminClient, ResourcePatternType, ResourceType

from bdlab import services
from bdlab.credentials import KafkaLogin
from bdlab.errors import BrokerRefused, BrokerUnavailable
from bdlab.kafka.connection import at_each_broker, await_results, broker_error, client_config, metadata_of
from bdlab.retry import seconds_left, tries

_TIMEOUT_S = 15.0
#: With any change of its settings, even to the value that they have, a broker looks whether the files of its
#: certificates have changed. This setting is given the value that it has anyway.
_RELOAD = "listener.name.internal.ssl.keystore.type", "PEM"
#: The least that Kafka takes. The passwords are long and random, so that more would not help.
_ITERATIONS = 4096
_MECHANISMS = {"SCRAM-SHA-256": api.ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": api.ScramMechanism.SCRAM_SHA_512}


class Change(NamedTuple):
    """What was done to what: ("created", "user bdlab-serve-a")."""

    action: str
    subject: str


def grants(service: str, login: KafkaLogin) -> set[AclBinding]:
    """Return the ACLs of a service's user: all that it may do at the broker, as `bdlab.services` lists it. The rights
    to write and to read include the right to describe, which is granted as well, so that a list of ACLs shows it. An
    idempotent producer needs WRITE alone (Kafka 2.8 and later)."""
    resources = {
        "topic": (ResourceType.TOPIC, login.server.topic),
        "group": (ResourceType.GROUP, login.server.group),
        "feedback": (ResourceType.TOPIC, login.server.feedback_topic),
        "feedback-group": (ResourceType.GROUP, login.server.feedback_group),
        # librdkafka's name for the cluster as a resource is BROKER.
        "cluster": (ResourceType.BROKER, "kafka-cluster"),
    }
    literal, user, allow = ResourcePatternType.LITERAL, f"User:{login.username}", api.AclPermissionType.ALLOW
    allowed = [operation.split() for operation in services.find(service).kafka or ()]
    return {
        AclBinding(*resources[what], literal, user, "*", AclOperation[verb.upper()], allow) for verb, what in allowed
    }


def ensure_users_and_acls(admin_login: KafkaLogin, users: Mapping[str, Sequence[KafkaLogin]]) -> list[Change]:
    """Bring users, passwords and ACLs to the wanted state, and return what was changed. `users` has for each service
    the logins that it may use. A user that exists is tried with its password, and the password is set again if it is
    refused. What one of these users is allowed beyond its service's grants is taken away; a denial that somebody added
    is left. On return every broker knows all of it. Raises BrokerRefused if `admin_login` may not do this, and
    BrokerUnavailable."""
    admin = _open_admin(admin_login)
    by_name = {login.username: login for of_service in users.values() for login in of_service}
    known = _await("listing the broker's users", admin.describe_user_scram_credentials)
    tried = [login for name, login in by_name.items() if name in known]
    with ThreadPoolExecutor(max_workers=max(1, len(tried))) as threads:
        refused = [login for login, good in zip(tried, threads.map(accepts, tried), strict=True) if not good]
    wrong = [login for name, login in by_name.items() if name not in known or login in refused]
    _set_passwords(admin, wrong)
    done = {name: "set the password of" if name in known else "created" for name in by_name}
    changes = [Change(done[login.username], f"user {login.username}") for login in wrong]
    wanted = {acl for service in users for login in users[service] for acl in grants(service, login)}
    present = _allowed(admin, by_name)
    missing, excess = sorted(wanted - present), sorted(present - wanted)
    changes += _change_acls(admin, missing, excess)
    # The last change is enough: a broker takes over all of them in their order. To try a dozen users costs a
    # broker that has just started half a second of processor time.
    there = metadata_of(admin, server=admin_login.server, timeout_s=_TIMEOUT_S).topics if missing else ()
    if missing and (login := by_name[_user(missing[-1])]).server.topic in there:
        _await_known(login, login.server.topic)
    elif wrong:
        _await_known(wrong[-1])
    return changes


def accepts(login: KafkaLogin) -> bool:
    """Whether the broker accepts this user with this password. Raises BrokerUnavailable, BrokerRefused."""
    return _metadata_for(login) is not None


def _metadata_for(login: KafkaLogin, timeout_s: float = _TIMEOUT_S) -> Any:
    """Return the broker's metadata as this user sees it, None if the broker does not accept the user."""
    try:
        return _open(login, timeout_s)[1]
    except BrokerRefused as error:
        cause = error.__cause__
        if isinstance(cause, KafkaException) and cause.args[0].code() == KafkaError._AUTHENTICATION:
            return None
        raise


def reload_certificates(admin_login: KafkaLogin) -> list[int]:
    """Have every broker read its certificate files again if they have changed; return the brokers' node ids. Open
    connections stay. A broker takes only a certificate of the same subject that names all hosts of the one before.
    Raises BrokerRefused if `admin_login` may not do this, and BrokerUnavailable."""
    client = AdminClient(client_config(admin_login, client_id="bdlab-certificates"))
    brokers = sorted(metadata_of(client, server=admin_login.server, timeout_s=_TIMEOUT_S).brokers)
    entry = api.ConfigEntry(*_RELOAD, incremental_operation=api.AlterConfigOpType.SET)
    brokers_own = partial(api.ConfigResource, ResourceType.BROKER, incremental_configs=[entry])
    ask = partial(client.incremental_alter_configs, [brokers_own(str(broker)) for broker in brokers])
    await_results("reloading the certificates of broker {0.name}".format, ask, _TIMEOUT_S)
    return brokers


def _open_admin(login: KafkaLogin) -> AdminClient:
    """Return a client, after a check that it may change users and ACLs. Without that right confluent_kafka's list of
    ACLs is empty without an error, and its list of users ends the process with a broken heap (2.16)."""
    client, _ = _open(login, _TIMEOUT_S)
    ask = partial(client.describe_cluster, include_authorized_operations=True)
    found = _await("asking what the administrator may do", ask)
    if AclOperation.ALTER not in (found.authorized_operations or ()):
        lets = f"the broker at {login.server.bootstrap_servers} lets {login.username or 'this certificate'} in"
        hint = "Log in with a certificate whose subject is one of the broker's super.users."
        raise BrokerRefused(f"{lets}, and does not let it change users and ACLs", hint=hint)
    return client


def _open(login: KafkaLogin, timeout_s: float) -> tuple[AdminClient, Any]:
    """Return a client that the broker has logged in, and the broker's metadata. librdkafka repeats a refused login, and
    answers only when its time is over, without the reason, which comes earlier, as an event. So this asks with short
    time-outs, and looks for the event in between. It asks for the list of topics, which needs one connection; an
    administrative request needs a second log-in. Raises BrokerRefused with its cause, or BrokerUnavailable."""
    events: list[KafkaError] = []
    # Short, so that a broker that is just starting is found at once.
    config = client_config(login, client_id="bdlab-migrate") | {"reconnect.backoff.max.ms": 100}
    client = AdminClient(config | {"error_cb": events.append})
    doing = f"logging in at {login.server.bootstrap_servers} as {login.username or 'administrator'}"
    deadline, answer_s = time.monotonic() + timeout_s, 0.05
    while True:
        try:
            return client, client.list_topics(timeout=min(answer_s, seconds_left(deadline)))
        except KafkaException as error:
            client.poll(0)
            for event in events:
                if event.code() == KafkaError._AUTHENTICATION:
                    raise broker_error(event, doing) from KafkaException(event)
                if event.code() == KafkaError._SSL:
                    hint = "Check the certificates: the broker's, the authority's, the administrator's own."
                    raise BrokerRefused(f"{doing}: {event.str()}", hint=hint) from KafkaException(event)
            if time.monotonic() >= deadline:
                last = f" (last: {events[-1].str()})" if events else ""
                found = broker_error(error, doing)
                raise type(found)(f"{found.message}{last}", hint=found.hint) from error
            answer_s *= 2


def _await(doing: str, ask: Callable[..., Any]) -> Any:
    return await_results(str, lambda **timeout: {doing: ask(**timeout)}, _TIMEOUT_S)[0]


def _set_passwords(admin: AdminClient, logins: Sequence[KafkaLogin]) -> None:
    upsertions: list[api.UserScramCredentialAlteration] = []
    for login in logins:
        if (mechanism := _MECHANISMS.get(login.server.sasl_mechanism)) is None:
            why = f"users can be made at a broker for SCRAM, and the mechanism is {login.server.sasl_mechanism}"
            named = "BDLAB_KAFKA_USERNAME and BDLAB_KAFKA_PASSWORD"
            raise BrokerRefused(why, hint=f"Name a user that the broker has in .env of the first set-up: {named}.")
        info, password = api.ScramCredentialInfo(mechanism, _ITERATIONS), login.password.reveal().encode()
        upsertions.append(api.UserScramCredentialUpsertion(login.username, info, password))
    if upsertions:
        ask = partial(admin.alter_user_scram_credentials, upsertions)
        await_results("setting the password of user {!r}".format, ask, _TIMEOUT_S)


def _await_known(login: KafkaLogin, topic: str = "") -> None:
    """Wait until every broker accepts the user, and shows it `topic` if one is named. A broker learns of a password or
    an ACL a moment after the controller, and if that is lost, seconds later. One that does not answer is waited for as
    long as the others count on it: it may be back, and behind."""

    def shows(seen: Any) -> bool:
        return seen is not None and (not topic or topic in seen.topics)

    def look(alone: KafkaLogin) -> bool | None:
        with suppress(BrokerUnavailable):
            return shows(_metadata_for(alone, 2.0))
        return None

    known: dict[str, bool | None] = {}
    for _ in tries(_TIMEOUT_S):
        found = _metadata_for(login)
        if found is None or len(found.brokers) == 1:  # it has just answered: no further log-in is needed
            known = {login.server.bootstrap_servers: shows(found)}
        else:
            singly = [*at_each_broker(login, found)]
            with ThreadPoolExecutor(max_workers=len(singly)) as threads:
                addresses = (alone.server.bootstrap_servers for alone in singly)
                known = dict(zip(addresses, threads.map(look, singly), strict=True))
        if all(known.values()):
            return
    if behind := [address for address, answer in known.items() if answer is False]:
        took = f"the controller took a change of user {login.username!r}, and after {_TIMEOUT_S:g} s"
        why = f"{took} the broker at {', '.join(behind)} does not know of it"
        raise BrokerRefused(why, hint="Read that broker's log.")


def _change_acls(admin: AdminClient, missing: Sequence[AclBinding], excess: Sequence[AclBinding]) -> list[Change]:
    def change(action: str, doing: str, acls: Sequence[AclBinding], ask: Callable[..., Any]) -> list[Change]:
        if acls:
            await_results(lambda acl: f"{doing} {_in_words(acl)}", ask, _TIMEOUT_S)
        return [Change(action, _in_words(acl)) for acl in acls]

    filters = [api.AclBindingFilter(*acl._to_tuple()) for acl in excess]
    return [
        *change("allowed", "allowing", missing, partial(admin.create_acls, list(missing))),
        *change("took away", "taking away", excess, partial(admin.delete_acls, filters)),
    ]


def _allowed(admin: AdminClient, names: Iterable[str]) -> set[AclBinding]:
    """Return the ACLs that allow these users something; the broker is asked for all ACLs at once."""
    anyone: Any = None
    everything = api.AclBindingFilter(
        ResourceType.ANY, anyone, ResourcePatternType.ANY, anyone, anyone, AclOperation.ANY, api.AclPermissionType.ALLOW
    )
    found = _await("listing what users may do", partial(admin.describe_acls, everything))
    principals = {f"User:{name}" for name in names}
    return {acl for acl in found if acl.principal in principals}


def _in_words(acl: AclBinding) -> str:
    """ "bdlab-serve-a: WRITE on topic predictions"."""
    resource, operation = ResourceType(acl.restype), AclOperation(acl.operation)
    kind = "cluster" if resource == ResourceType.BROKER else resource.name.lower()
    return f"{_user(acl)}: {operation.name} on {kind} {acl.name}"


def _user(acl: AclBinding) -> str:
    return str(acl.principal).removeprefix("User:")
