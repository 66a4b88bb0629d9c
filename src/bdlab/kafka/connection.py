"""What all clients share: librdkafka's configuration, its errors, and a broker's answers to questions."""

import logging
import socket
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import msgspec
import structlog
from confluent_kafka import KafkaError, KafkaException, libversion

from bdlab import errors
from bdlab.credentials import KafkaCredentials, KafkaLogin
from bdlab.errors import BrokerError, BrokerUnavailable, SettingsInvalid, TopicMissing, VaultError
from bdlab.reachability import speaks_tls
from bdlab.retry import LEAST_S, tries
from bdlab.settings import KafkaSettings

_K = TypeVar("_K")
_T = TypeVar("_T")
log = structlog.get_logger()


def _table(name: str) -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text("utf-8"))


CLIENTS = _table("clients")
"""What librdkafka is told of each kind of client, always the same."""
LIBRDKAFKA = libversion()[0]
RETRIABLE = {what: {getattr(KafkaError, code) for code in codes} for what, codes in _table("retriable").items()}
"""What is asked for -> the codes of errors after which it is asked for again."""
#: Servers that have answered once: if they no longer do, their address is not the reason.
_answered: set[str] = set()
_MEANINGS: dict[int, tuple[type[BrokerError], str]] = {
    getattr(KafkaError, code): (getattr(errors, kind), meant["hint"])
    for kind, meant in _table("errors").items()
    for code in meant["codes"]
}


def client_config(
    login: KafkaLogin, *, client_id: str, kind: Literal["admin", "producer", "consumer", "reader"] = "admin"
) -> dict[str, Any]:
    """Return librdkafka's settings for a client of this kind that reaches the broker as `login` says. Raises
    BrokerUnavailable if the login names no broker."""
    server = login.server
    if not server.bootstrap_servers:
        hint = "Set BDLAB_KAFKA_BOOTSTRAP_SERVERS, or store it in Vault with `bdlab vault-init`."
        raise BrokerUnavailable("no Kafka broker is configured: kafka.bootstrap_servers is empty", hint=hint)
    try:
        server.servers()
    except SettingsInvalid as error:
        raise BrokerUnavailable(error.message, hint=error.hint) from error
    config: dict[str, Any] = {**CLIENTS["all"], **CLIENTS.get(kind, {}), "client.id": client_id}
    config |= {"bootstrap.servers": server.bootstrap_servers, "security.protocol": server.security_protocol}
    config["logger"] = logging.getLogger("bdlab.librdkafka")
    if server.security_protocol.startswith("SASL"):
        config |= {"sasl.mechanism": server.sasl_mechanism, "sasl.username": login.username}
        config["sasl.password"] = login.password.reveal()
    if server.security_protocol.endswith("SSL") and login.ca_pem:
        config["ssl.ca.pem"] = login.ca_pem
    if login.certificate:
        config |= {"ssl.certificate.pem": login.certificate.pem, "ssl.key.pem": login.certificate.key.reveal()}
    return config


def current_login(credentials: KafkaCredentials, *, refresh: bool = True) -> KafkaLogin:
    """Return the login to use now; with `refresh` it is read from Vault again, if Vault answers."""
    if refresh:
        try:
            return credentials.refresh_kafka()
        except VaultError as error:
            log.debug("Kafka login not refreshed", problem=error.message)
    return credentials.kafka()


def broker_error(error: KafkaError | KafkaException, doing: str) -> BrokerError:
    """Return the bdlab error for librdkafka's; its text begins with `doing` ("reading topic 'x'")."""
    cause = error.args[0] if isinstance(error, KafkaException) else error
    unavailable = BrokerUnavailable, "Check that the broker runs and that its address is right."
    kind, hint = _MEANINGS.get(cause.code(), unavailable)
    return kind(f"{doing}: {cause.str()}", hint=hint)


def copied(error: BrokerError) -> BrokerError:
    """Return a new instance to raise, so that callers share no traceback."""
    return type(error)(error.message, hint=error.hint)


def partitions_of(metadata: Any, server: KafkaSettings) -> Mapping[int, Any]:
    """Return the partitions of the server's topic in the broker's `metadata`. Raises TopicMissing."""
    if server.topic not in metadata.topics:
        why = f"topic {server.topic!r} is not at {server.bootstrap_servers}, or this user may not see it"
        raise TopicMissing(why, hint="Create it with `bdlab migrate`.")
    return cast("Mapping[int, Any]", metadata.topics[server.topic].partitions)


def no_answer(
    server: KafkaSettings, refused: BrokerError | None, last_problem: str, error: BrokerUnavailable
) -> BrokerError:
    """Return the error of a client that reaches no broker: that it was `refused`, or what librdkafka told last."""
    why = f": {last_problem}" if last_problem else ""
    return refused or BrokerUnavailable(f"no broker answers at {server.bootstrap_servers}{why}", hint=error.hint)


def metadata_of(client: Any, *, server: KafkaSettings, timeout_s: float) -> Any:
    """Return confluent_kafka's ClusterMetadata with all topics. Raises BrokerError. It asks for all topics, never for
    one by name: a broker may create a topic that is asked for by name."""
    try:
        found = client.list_topics(timeout=timeout_s)
    except KafkaException as error:
        refusal = broker_error(error, f"no answer from the broker at {server.bootstrap_servers}")
        if isinstance(refusal, BrokerUnavailable) and server.bootstrap_servers not in _answered:
            refusal.hint = unreachable_hint(server) or refusal.hint
        raise refusal from error
    _answered.add(server.bootstrap_servers)
    return found


def at_each_broker(login: KafkaLogin, metadata: Any) -> Iterator[KafkaLogin]:
    """Yield the login once for each broker in `metadata`, with the address of that broker alone. Metadata that a new
    client is given with it is that broker's: it has opened no other connection yet."""
    for at in metadata.brokers.values():
        place = f"[{at.host}]:{at.port}" if ":" in at.host else f"{at.host}:{at.port}"
        yield msgspec.structs.replace(login, server=msgspec.structs.replace(login.server, bootstrap_servers=place))


def unreachable_hint(server: KafkaSettings) -> str:
    """Return why no server is reached, as far as names and ports tell; empty if they do not."""
    for host, port in server.servers():
        try:
            tls = speaks_tls(host, port)
        except socket.gaierror:
            return f"The name {host} cannot be resolved: check kafka.bootstrap_servers."
        except OSError:
            continue
        if tls is not None and tls != server.security_protocol.endswith("SSL"):
            spoken = "TLS" if tls else "no TLS"
            return f"{host}:{port} speaks {spoken}, and kafka.security_protocol is {server.security_protocol}."
    return ""


def await_results(
    doing: Callable[[_K], str],
    ask: Callable[..., Mapping[_K, Future[_T]]],
    timeout_s: float,
    *,
    retriable: Collection[int] = (),
) -> list[_T]:
    """Return the results, within `timeout_s` seconds, of the requests that `ask` sends. `ask` gets the seconds that are
    left as `request_timeout`, and gives each request a key, of which `doing` makes an error's text ("creating topic
    'x'"). It is called again if the broker went away before it answered, and after an error whose code is in
    `retriable`; so the requests have to be idempotent. Raises BrokerError."""

    def results(wait_s: float) -> list[_T]:
        return [_result(future, wait_s, doing(key)) for key, future in ask(request_timeout=wait_s).items()]

    return repeated(results, timeout_s, {*RETRIABLE["requests"], *retriable})


def repeated(ask: Callable[[float], _T], timeout_s: float, retriable: Collection[int]) -> _T:
    """Return what `ask` returns, which gets the seconds that are left of `timeout_s`. It is called again while it
    raises a BrokerError of librdkafka's codes in `retriable`. Raises the last one, and any other at once."""
    last: BrokerError  # there is at least one try
    for left_s in tries(timeout_s):
        try:
            return ask(max(LEAST_S, left_s))
        except BrokerError as error:
            cause = error.__cause__
            if not (isinstance(cause, KafkaException) and cause.args[0].code() in retriable):
                raise
            last = error
    try:
        raise last
    finally:
        del last  # else it and this frame hold each other, and with them the clients that `ask` made


def _result(future: Future[_T], timeout_s: float, doing: str) -> _T:
    try:
        return future.result(timeout_s + 1)
    except KafkaException as error:
        # Without its traceback: the future keeps the error, and with it would keep its callers' clients.
        raise broker_error(error, doing) from error.with_traceback(None)
    except FutureTimeout as error:
        raise BrokerUnavailable(f"{doing}: no answer within {timeout_s:g} s") from error
