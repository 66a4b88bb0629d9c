"""What a session logs in with: its token and database login, which are leased, when to renew them, and its stored Kafka
login; and the state of Vault as it sees it, for /health, /vault-status and `bdlab status`.

Nothing here knows of threads: the session makes sure that one of them asks Vault at a time."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import msgspec
import structlog

from bdlab.credentials import DatabaseLogin, KafkaLogin
from bdlab.errors import PolicyDenied, SecretMissing, TokenRefused, VaultError, VaultUnavailable
from bdlab.probes import VaultState
from bdlab.settings import KafkaSettings, PostgresSettings, Secret
from bdlab.vault.client import VaultClient
from bdlab.vault.identity import Identity
from bdlab.vault.responses import refusal

#: Section of the settings -> the fields of it that Vault holds, by these names.
ADDRESS_FIELDS = {
    "postgres": ("host", "port", "dbname", "sslmode"),
    "kafka": ("bootstrap_servers", "security_protocol", "sasl_mechanism"),
}
_Answer = TypeVar("_Answer")
_log = structlog.get_logger()


def now() -> float:
    """Return the seconds since the machine was started, by a clock that also runs while it sleeps, as Vault's does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Ttl(msgspec.Struct, frozen=True):
    """A time to live of `ttl_s` seconds from `since` on; it was `initial_s` when first granted. `since` is when Vault
    was asked, as its own clock started later."""

    since: float
    ttl_s: float
    initial_s: float
    renewable: bool = True

    @classmethod
    def granted(cls, since: float, ttl_s: float | None, *, renewable: bool = True) -> Self:
        """Return that which Vault grants with `ttl_s` seconds; with 0 or None it never ends."""
        return cls(since, ttl_s or math.inf, ttl_s or math.inf, renewable)

    def renewed(self, since: float, ttl_s: float | None) -> Self:
        return type(self)(since, ttl_s or math.inf, self.initial_s, self.renewable)

    @property
    def remaining_s(self) -> float:
        return self.since + self.ttl_s - now()

    @property
    def valid(self) -> bool:
        return self.remaining_s > 0

    @property
    def due_at(self) -> float:
        """When to renew: after two thirds of the time."""
        return self.since + self.ttl_s * 2 / 3

    @property
    def capped(self) -> bool:
        """Whether the last renewal was cut short by the lease's maximum, so that a new one is to be got."""
        return self.ttl_s < 0.7 * self.initial_s


class DatabaseLease(msgspec.Struct, frozen=True):
    login: DatabaseLogin
    ttl: Ttl


@dataclass
class LeasedToken:
    """The token of one identity. `replaced` is called after each log-in but the first, with the former token if that is
    still valid. `secret_id` is the accessor of the secret id that it was made with; empty if it is not known."""

    client: VaultClient
    identity: Identity
    replaced: Callable[[Secret | None], None]
    ttl: Ttl | None = None
    secret_id: str = ""

    @property
    def valid(self) -> bool:
        return self.ttl is not None and self.ttl.valid

    def log_in(self, *, former_lives: bool = False) -> None:
        """Log in with the newest secret id. Raises VaultError."""
        role_id, secret_id = self.identity.obtain(self.client)
        accessor, asked = self.identity.accessor, now()
        token = self.client.log_in(role_id, secret_id)
        first, former = self.ttl is None, self.client.token
        self.client.token, self.ttl = token.token, Ttl.granted(asked, token.ttl_s)
        self.secret_id = accessor
        _log.debug("logged in to Vault", service=self.identity.service, ttl_s=token.ttl_s)
        if not first:
            self.replaced(former if former_lives else None)

    def use(self, ask: Callable[[], _Answer]) -> _Answer:
        """Return what `ask` returns; if the token is no longer accepted, log in and ask again."""
        try:
            return ask()
        except TokenRefused as error:
            _log.warning("the token is dead; logging in again", service=self.identity.service, problem=error.message)
        self.log_in()
        return ask()

    def keep(self) -> float:
        """Renew it if two thirds of its time are over; return when that is due next."""
        asked = now()
        if self.ttl is None or not self.ttl.valid:
            self.log_in()
        elif asked >= self.ttl.due_at:
            self.ttl = self.ttl.renewed(asked, self.use(self.client.renew_self).ttl_s)
            if self.ttl.capped:
                self.log_in()
        return self.due_at

    @property
    def due_at(self) -> float:
        return self.ttl.due_at if self.ttl else now()

    def revoke(self, *, timeout_s: float) -> None:
        """Revoke it. If that fails, it runs out by itself."""
        lived, self.ttl = self.ttl, None
        try:
            if lived:
                self.client.revoke_self(timeout_s=timeout_s)
        except VaultError as error:
            _log.debug("the token was not given back and will run out", problem=error.message)


@dataclass
class LeasedDatabaseLogin:
    """A login from a role of the database engine; `server` makes settings of what Vault says of it. Without a role
    there is never a login."""

    client: VaultClient
    role: str | None
    server: Callable[[Mapping[str, str]], PostgresSettings]
    lease: DatabaseLease | None = None

    @property
    def valid(self) -> bool:
        return self.lease is not None and self.lease.ttl.valid

    @property
    def due_at(self) -> float:
        return self.lease.ttl.due_at if self.lease else now()

    @property
    def login(self) -> DatabaseLogin:
        """The login of the lease. Raises VaultUnavailable if there was never one."""
        if self.lease is None:
            raise VaultUnavailable(f"{self.client} has given no database login yet")
        return self.lease.login

    def fetch(self) -> None:
        """Get a new login, and the server's address, which may have changed. Raises VaultError."""
        if not self.role:
            raise VaultError("this session with Vault was made without a database role")
        server, asked = self.server(self.client.read_kv("database/credentials")[0]), now()
        answer = self.client.request("get", f"{self.client.settings.database_mount}/creds/{self.role}")
        user, password = str(answer["data"]["username"]), Secret(str(answer["data"]["password"]))
        login = DatabaseLogin(server=server, user=user, password=password, lease_id=str(answer["lease_id"]))
        ttl = Ttl.granted(asked, answer.get("lease_duration"), renewable=bool(answer.get("renewable")))
        self.lease = DatabaseLease(login, ttl)
        _log.debug("new database login", user=login.user, ttl_s=ttl.ttl_s)

    def keep(self) -> None:
        """Renew the lease if two thirds of its time are over; get a new login if it cannot be renewed."""
        lease, asked = self.lease, now()
        if lease and lease.ttl.valid and asked < lease.ttl.due_at:
            return
        if lease and lease.ttl.valid and lease.ttl.renewable:
            body = {"lease_id": lease.login.lease_id, "increment": round(lease.ttl.initial_s)}
            try:
                answer = self.client.request("post", "sys/leases/renew", body)
            except (VaultUnavailable, TokenRefused, PolicyDenied):
                raise
            except VaultError as error:
                _log.info("the database lease is gone; taking a new one", problem=error.message)
            else:
                renewed = lease.ttl.renewed(asked, answer.get("lease_duration"))
                if not renewed.capped:
                    self.lease = DatabaseLease(lease.login, renewed)
                    return
        self.fetch()


@dataclass
class StoredKafkaLogin:
    """The broker's address and the service's user, from the newest versions in the key-value engine. `server` makes
    settings of what Vault says of the broker."""

    client: VaultClient
    service: str
    server: Callable[[Mapping[str, str]], KafkaSettings]
    login: KafkaLogin | None = None

    def fetch(self) -> KafkaLogin:
        """Read the login; return the same object as before if nothing changed. Raises VaultError."""
        broker, _ = self.client.read_kv("kafka/credentials")
        secret, version = self.client.read_kv(f"kafka/{self.service}")
        server = self.server(broker)
        login = KafkaLogin(server=server, ca_pem=broker.get("ca_pem", ""), version=version)
        if server.security_protocol.startswith("SASL"):
            if not (secret.get("username") and secret.get("password")):
                raise refusal(SecretMissing, "no_login", login=self, server=server)
            login = msgspec.structs.replace(login, username=secret["username"], password=Secret(secret["password"]))
        # The rest of the secret is about the idle user, and no reason to connect anew.
        if self.login and msgspec.structs.replace(login, version=self.login.version) == self.login:
            return self.login
        if self.login:
            _log.info("another Kafka login", bootstrap_servers=server.bootstrap_servers)
        self.login = login
        return login


def probe_vault(token: LeasedToken, database: LeasedDatabaseLogin, *, kv_path: str, audit: bool = False) -> VaultState:
    """Ask Vault, and read a real secret: with a full audit disk Vault calls itself healthy and serves nothing. With
    `audit` it is also asked whether it has an audit log."""
    client, lease = token.client, database.lease
    found: dict[str, Any] = {
        "connected": False,
        "token_ttl_s": max(0.0, token.ttl.remaining_s) if token.ttl else None,
        "lease_ttl_s": max(0.0, lease.ttl.remaining_s) if lease else None,
        "credentials_valid": token.valid and (database.valid or not database.role),
    }
    kv_mount, at_most = client.settings.kv_mount, 2.0
    try:
        health = client.health(timeout_s=at_most)
        found["sealed"] = health.sealed
        if not health.serves:
            raise VaultUnavailable(f"{client} is {health.state}", hint=health.advice)
        found["connected"] = True
        own = client.request("get", "auth/token/lookup-self", timeout_s=at_most)["data"]
        policies = tuple(own.get("policies") or ())
        found |= {"authenticated": True, "policies": policies, "token_ttl_s": float(own["ttl"])}
        client.request("get", f"{kv_mount}/data/{kv_path}", timeout_s=at_most)
        found["secrets_engine"] = f"kv v2 at {kv_mount}/"
        found["unaudited"] = client.audit_missing() if audit else ""
    except VaultError as error:
        found |= {"problem": error.message, "hint": error.hint}
        found["connected"] &= not isinstance(error, VaultUnavailable)
    return VaultState(**found)


def address_layer(section: str, values: Mapping[str, str]) -> dict[str, Any]:
    """Return a settings layer of what Vault says of a server, without the values that are empty."""
    return {name: values[name] for name in ADDRESS_FIELDS[section] if values.get(name)}
