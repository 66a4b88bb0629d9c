"""The state of a server as its adapter sees it, for /health, the status routes and `bdlab status`.

A probe reads only. It does not raise if the server is away, but sets `connected` and `problem`."""

from collections.abc import Mapping
from typing import Protocol

import msgspec


class VaultState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of Vault. `credentials_valid`: the token and the lease of the service are still valid. `hint` says what
    to do about `problem`; `unaudited` how to get an audit log, if there is none."""

    connected: bool
    authenticated: bool = False
    sealed: bool | None = None
    secrets_engine: str = ""
    unaudited: str = ""
    token_ttl_s: float | None = None
    policies: tuple[str, ...] = ()
    lease_ttl_s: float | None = None
    credentials_valid: bool = False
    problem: str = ""
    hint: str = ""


#: The prefix of the cluster id that `bdlab.stack` gives to a broker whose log is in memory, and its warning.
MEMORY_ONLY_ID = "tansu-"
MEMORY_ONLY = "in memory only: what is not stored yet is lost when it ends"


class BrokerState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the broker. `consumer_lag` is in events, over all partitions; None if it is not known."""

    connected: bool
    bootstrap_servers: str = ""
    cluster_id: str = ""
    brokers: int = 0
    topic: str = ""
    partitions: int = 0
    consumer_lag: int | None = None
    problem: str = ""


class DatabaseState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the database. `schema_expected` is the schema version of this bdlab; `rows`, which are predictions,
    and `feedback` are exact. `open_dead_letters` are those that nobody has replayed or discarded. `compatible_from` is
    the lowest version whose release may run on the schema; None: only its own. `ended_logins` are users of ended leases
    that still exist, each with its number of sessions."""

    connected: bool
    server_version: str = ""
    schema_version: int | None = None
    schema_expected: int = 0
    compatible_from: int | None = None
    rows: int | None = None
    feedback: int | None = None
    open_dead_letters: int | None = None
    ended_logins: Mapping[str, int] | None = None
    problem: str = ""

    @property
    def schema_fits(self) -> bool:
        """Whether this version of bdlab may run on the schema."""
        found = self.schema_version
        return found is not None and (self.compatible_from or found) <= self.schema_expected <= found


class VaultProbe(Protocol):
    def state(self) -> VaultState: ...

    def expiries(self) -> dict[str, float]:
        """Return when each credential ends, unless it is renewed, in seconds since 1970; 0 if there is none."""


class BrokerProbe(Protocol):
    def state(self) -> BrokerState: ...
