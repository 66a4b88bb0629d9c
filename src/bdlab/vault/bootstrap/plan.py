"""What the first set-up is given, and what it reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from bdlab.settings import KafkaSettings, PostgresSettings, Secret, VaultSettings

Outcome = Literal["done", "unchanged", "would do"]


class Step(msgspec.Struct, frozen=True):
    """What became of one step; `details` names what was changed, or would be."""

    name: str
    outcome: Outcome
    details: tuple[str, ...] = ()


Report = Callable[[Step], None]


class Seeds(msgspec.Struct, frozen=True, kw_only=True):
    """What `.env` says. `kafka_username` is empty where each service gets generated users of its own.

    `kafka_authority` and `postgres_authority`: Vault itself is the authority that signs their certificates.

    Times are in seconds, None where `.env` does not say.
    """

    postgres_user: str
    postgres_password: Secret
    postgres: PostgresSettings
    postgres_ca_pem: str = ""
    postgres_authority: bool = False
    kafka: KafkaSettings
    kafka_ca_pem: str = ""
    kafka_authority: bool = False
    kafka_username: str = ""
    kafka_password: Secret = Secret("")
    cidrs: tuple[str, ...] | None = None
    token_period_s: int | None = None
    lease_ttl_s: int | None = None
    lease_max_ttl_s: int | None = None


class DatabaseManager(Protocol):
    """The database role through which Vault makes users; bootstrap itself does not reach the database."""

    def exists(self) -> bool:
        """Whether the manager is there. Reads only."""
        ...

    def missing(self) -> tuple[str, ...]:
        """What `prepare` would make or change but the manager's password, a line each. Reads only."""
        ...

    def prepare(self, password: Secret | None) -> str:
        """Make what is missing, give the manager this password if there is one, and return its name."""
        ...


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`token` is an administrator's token of a Vault initialised elsewhere; it is used and left alone.

    `seeds` and `manager` are None where `.env` is gone; they are needed where the database or the key-value
    engine is not set up yet. `ask_key` gets the number of the key that is needed and gives it, None where
    nobody can be asked. `timeout_s` is how long an unreachable or sealed Vault is waited for, `wrap_ttl_s`
    how long a wrapped secret id waits for its receiver. `authorities` names the certificate authorities that
    Vault is to be (`pki.AUTHORITIES`), beside the one that `.env` asks for. `renew` names identities that get
    another secret id though theirs is good; the former ones end. Into `broker_folder` goes the certificate of
    a broker on this machine, good for `broker_ttl_s` seconds (None: a year), unless there is one.
    """

    vault: VaultSettings
    keys_file: Path
    seeds: Seeds | None = None
    manager: DatabaseManager | None = None
    token: Secret | None = None
    shares: int = 1
    threshold: int = 1
    ask_key: Callable[[int], Secret | None] | None = None
    timeout_s: float = 60.0
    wrap_ttl_s: int = 24 * 3600
    authorities: tuple[str, ...] = ()
    renew: tuple[str, ...] = ()
    broker_folder: Path | None = None
    broker_ttl_s: int | None = None
    dry_run: bool = False

    @property
    def identity_dir(self) -> Path:
        return Path(self.vault.identity_dir).expanduser()
