"""The logins of a service, and the Protocols of their source.

In a running pipeline `bdlab.vault` is the source, and renews logins in the background. Whoever uses one compares it, by
identity, with what the source returns now, and connects with the new one before it closes the old one's connection."""

from typing import Protocol, Self

import msgspec

from bdlab.errors import SettingsInvalid
from bdlab.settings import KafkaSettings, PostgresSettings, Secret


class DatabaseLogin(msgspec.Struct, frozen=True, kw_only=True):
    """A PostgreSQL user of one lease. `lease_id` is for messages, and no secret."""

    server: PostgresSettings
    user: str
    password: Secret
    lease_id: str = ""


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate with its issuers', its private key, and its authority's certificate, all as PEM texts. The key is
    PKCS#8 without a passphrase."""

    pem: str
    key: Secret
    ca_pem: str


#: The subjects of a secured broker's `super.users`, as Kafka writes them.
BROKER_NAME, ADMIN_NAME = "bdlab-broker", "bdlab-admin"
SUPER_USERS = (f"CN={BROKER_NAME}", f"CN={ADMIN_NAME}")


class KafkaLogin(msgspec.Struct, frozen=True, kw_only=True):
    """The broker's address and a user. `username` is empty if the broker asks for none. `version` is the version of the
    secret in which the source first saw this user; 0 if it has none. `ca_pem` is the PEM text of the authority that
    signed the brokers' certificates; `certificate` is the client's own, for an administrator who logs in with one."""

    server: KafkaSettings
    username: str = ""
    password: Secret = Secret("")
    ca_pem: str = ""
    certificate: Certificate | None = None
    version: int = 0


class Connecting:
    """A context manager that connects at its beginning, and closes at its end."""

    def open(self) -> None:
        """Connect."""

    def close(self) -> None:
        """End all connections."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DatabaseCredentials(Protocol):
    def database(self) -> DatabaseLogin:
        """Return the login to use now; a new one if the lease of the former is about to end. Raises VaultError."""

    def replace_database(self, refused: DatabaseLogin) -> DatabaseLogin:
        """Return a new login in place of `refused`, which the server no longer accepts. If the source has replaced
        `refused` already, that is the newer one. Raises VaultError."""


class KafkaCredentials(Protocol):
    def kafka(self) -> KafkaLogin:
        """Return the login to use now. Raises VaultError if none was ever read."""

    def refresh_kafka(self) -> KafkaLogin:
        """Read the login again; return the same object if nothing changed. Raises VaultError."""

    def using(self, client: str, login: KafkaLogin | None) -> None:
        """Note with which login `client` connects from now on, None if it ends: a rotation waits for that."""


class GivenKafkaLogin:
    """Implements `KafkaCredentials` with a login that does not change, such as an administrator's."""

    def __init__(self, login: KafkaLogin) -> None:
        self._login = login

    def kafka(self) -> KafkaLogin:
        return self._login

    refresh_kafka = kafka

    def using(self, client: str, login: KafkaLogin | None) -> None:
        """Do nothing: no rotation waits for this login."""


class FeedbackTopic:
    """Implements `KafkaCredentials` with the logins of another, for the topic and the group of the feedback."""

    def __init__(self, credentials: KafkaCredentials) -> None:
        self._credentials = credentials
        self._known: tuple[KafkaLogin, KafkaLogin] | None = None

    def kafka(self) -> KafkaLogin:
        return self._of(self._credentials.kafka())

    def refresh_kafka(self) -> KafkaLogin:
        return self._of(self._credentials.refresh_kafka())

    def using(self, client: str, login: KafkaLogin | None) -> None:
        self._credentials.using(client, login)

    def _of(self, login: KafkaLogin) -> KafkaLogin:
        """Return the same object for the same login, since that is how users of one see whether it changed."""
        if self._known is None or self._known[0] is not login:
            server = login.server
            if server.topic == server.feedback_topic:
                why = f"kafka.topic and kafka.feedback_topic are both {server.topic!r}"
                raise SettingsInvalid(why, hint="Name another topic with BDLAB_KAFKA_FEEDBACK_TOPIC.")
            there = msgspec.structs.replace(server, topic=server.feedback_topic, group=server.feedback_group)
            self._known = login, msgspec.structs.replace(login, server=there)
        return self._known[1]
