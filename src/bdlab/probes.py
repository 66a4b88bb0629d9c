"""What an adapter finds when it looks at its server, for /health, the status routes and `bdlab status`.

A probe reads only. It never raises for a server that is away: it says so in `connected` and `problem`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class VaultState(msgspec.Struct, frozen=True, kw_only=True):
    """`token_ttl_s` is in seconds. `held_valid`: what the service holds (token, leases) is still valid.

    `hint` says what to do about `problem`.
    """

    connected: bool
    authenticated: bool = False
    sealed: bool | None = None
    secrets_engine: str = ""
    token_ttl_s: float | None = None
    policies: tuple[str, ...] = ()
    lease_ttl_s: float | None = None
    held_valid: bool = False
    problem: str = ""
    hint: str = ""


class BrokerState(msgspec.Struct, frozen=True, kw_only=True):
    """`consumer_lag` is in events over all partitions; None where it cannot be told."""

    connected: bool
    bootstrap_servers: str = ""
    cluster_id: str = ""
    brokers: int = 0
    topic: str = ""
    partitions: int = 0
    consumer_lag: int | None = None
    problem: str = ""


class LogRange(msgspec.Struct, frozen=True, order=True):
    """The offsets of a partition: `start` is the first there is, `end` the next to be written."""

    cluster_id: str
    topic: str
    partition: int
    start: int
    end: int


class DatabaseState(msgspec.Struct, frozen=True, kw_only=True):
    """`rows` of the predictions table, exact; `schema_version` applied, and the one this version wants."""

    connected: bool
    server_version: str = ""
    schema_version: int | None = None
    schema_expected: int = 0
    rows: int | None = None
    problem: str = ""


class VaultProbe(Protocol):
    def state(self) -> VaultState: ...


class BrokerProbe(Protocol):
    def state(self) -> BrokerState: ...


class DatabaseProbe(Protocol):
    def state(self) -> DatabaseState: ...
