"""What a service logs in with, and the Protocol of the place it comes from.

In a running pipeline `bdlab.vault` is the source. A source
renews in the background: a holder compares what it holds with what the source says now, by identity, and
connects anew with the newer one before it closes the older.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from bdlab.settings import KafkaSettings, PostgresSettings, Secret


class DatabaseLogin(msgspec.Struct, frozen=True, kw_only=True):
    """A Postgres user of one lease. `lease_id` is for messages; it is no secret."""

    server: PostgresSettings
    user: str
    password: Secret
    lease_id: str = ""


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """What one side of a TLS connection shows: its certificate, then its issuers', and its private key.

    Both are PEM texts; the key is PKCS#8 without a passphrase.
    """

    pem: str
    key: Secret


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A new certificate with its key, and the authority's own that others check it with."""

    certificate: Certificate
    ca_pem: str


#: The subjects that are all-powerful at a secured broker (`super.users`), as Kafka writes them.
BROKER_NAME, ADMIN_NAME = "bdlab-broker", "bdlab-admin"
SUPER_USERS = (f"CN={BROKER_NAME}", f"CN={ADMIN_NAME}")


class KafkaLogin(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the broker, and as whom. `username` is empty where the broker asks for none.

    `version` is the version of the secret in which the source first saw this user; 0 where it has none.
    `ca_pem` is the PEM text of the authority that signed the brokers' certificates; `certificate` is the
    client's own, for an administrator who logs in with one.
    """

    server: KafkaSettings
    username: str = ""
    password: Secret = Secret("")
    ca_pem: str = ""
    certificate: Certificate | None = None
    version: int = 0


class DatabaseCredentials(Protocol):
    def database(self) -> DatabaseLogin:
        """The login to use now: the one that is held, or a fresh one where its lease is about to end.

        Raises VaultError where there is none to be had.
        """
        ...

    def replace_database(self, refused: DatabaseLogin) -> DatabaseLogin:
        """A fresh login in place of `refused`, which the server no longer takes.

        Where the source has moved on from `refused` already, that newer one. Raises VaultError.
        """
        ...


class KafkaCredentials(Protocol):
    def kafka(self) -> KafkaLogin:
        """The login to use now. Raises VaultError where none was ever read."""
        ...

    def refresh_kafka(self) -> KafkaLogin:
        """Read it from the source again; the same object where nothing changed. Raises VaultError."""
        ...

    def using(self, client: str, login: KafkaLogin | None) -> None:
        """Be told that `client` makes its connections with `login` from now on; None: it makes none any more.

        Whoever replaces a user waits for that before the older one ends.
        """
        ...
