"""A service's session with Vault: its token, its database login, its Kafka login.

The session of a daemon has a thread that renews all three; that of a short command renews them when they are used. A
login stays in use until it runs out, even if Vault is sealed or unreachable."""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import structlog

from bdlab.access import ApiKey
from bdlab.credentials import Connecting, DatabaseLogin, KafkaLogin
from bdlab.errors import BdlabError, IdentityRefused, TokenRefused, VaultError, VaultUnavailable
from bdlab.files import write_private
from bdlab.probes import VaultState
from bdlab.retry import wait_for
from bdlab.services import DAEMONS, KEY_READERS
from bdlab.settings import KafkaSettings, Layers, PostgresSettings, Secret, Settings
from bdlab.vault.api_keys import KeyRing
from bdlab.vault.client import VaultClient
from bdlab.vault.client_reports import ClientReporter
from bdlab.vault.identity import Identity
from bdlab.vault.logins import (
    DatabaseLease,
    LeasedDatabaseLogin,
    LeasedToken,
    StoredKafkaLogin,
    address_layer,
    now,
    probe_vault,
)
from bdlab.vault.renewal import RenewalThread, Task

_TOKEN, _DATABASE, _KAFKA, _FORMER = "token", "database login", "Kafka login", "end of former token"
_REVOKE_S = 2.0
#: How long a former token is kept after it was replaced, so that its database login can be replaced too.
_MOVE_S = 30.0
_T = TypeVar("_T")
_log = structlog.get_logger()


class VaultSession(Connecting):
    """Implements the `credentials`' Protocols, `access.ApiKeys` and `probes.VaultProbe`. `service` names the identity
    and the Kafka user; `database_role` is a role of the database engine such as ``bdlab-writer``, or None for a service
    without a database login. Safe to use from several threads."""

    def __init__(
        self, layers: Layers, *, service: str, database_role: str | None, kafka: bool = True, daemon: bool
    ) -> None:
        self._layers, self._service, self._daemon = layers, service, daemon
        settings = layers.settings()
        self._vault = settings.vault
        self._client = VaultClient(self._vault)
        self._identity = Identity.of(self._vault, settings.deployment, service)
        self._ca_file = self._identity.folder / "database-ca.pem"
        # For requests to Vault; a login that is there already is read without it.
        self._lock = threading.RLock()
        self._token = LeasedToken(self._client, self._identity, self._token_replaced)
        self._database = LeasedDatabaseLogin(self._client, database_role, self._database_server)
        self._kafka, self._wants_kafka = StoredKafkaLogin(self._client, service, self._broker), kafka
        reports = kafka and daemon and service in DAEMONS
        self._reporter = ClientReporter(self._client, self._identity) if reports else None
        self._key_ring, self._reads_keys = KeyRing(self._client), daemon and service in KEY_READERS
        self._from_vault: Mapping[str, Mapping[str, Any]] = {}
        self._versions_in_use, self._read_kafka_at = dict[str, int](), 0.0
        self._former_tokens: list[tuple[Secret, DatabaseLease | None]] = []
        self._renewal = RenewalThread("", [])  # that of a daemon takes its place

    def open(self, timeout_s: float | None = None, *, stop: threading.Event | None = None) -> None:
        """Log in and fetch what the service needs. Waits up to `timeout_s` seconds, by default as the settings say, for
        a Vault that is unreachable, sealed or not initialised, and then raises VaultUnavailable. Raises
        IdentityRefused, PolicyDenied or SecretMissing at once, naming what is refused; only a daemon waits for an
        identity that was never handed over. Setting `stop` ends the wait."""

        def waits(error: BdlabError) -> bool:
            never_handed_over = isinstance(error, IdentityRefused) and not self._identity.exists
            return isinstance(error, VaultUnavailable) or (self._daemon and never_handed_over)

        at_most = self._layers.settings().startup_timeout_s if timeout_s is None else timeout_s
        with self._lock:
            wait_for("Vault", self._log_in, timeout_s=at_most, errors=waits, stop=stop, service=self._service)
        if self._daemon:
            self._start_renewal()

    def close(self) -> None:
        """Revoke the token and so all its leases; close the connections that were made with them first."""
        self._renewal.stop(_REVOKE_S)
        self._renewal = RenewalThread("", [])
        if self._reporter:
            self._reporter.withdraw(timeout_s=_REVOKE_S)
        for token, _ in self._former_tokens:
            with contextlib.suppress(VaultError):
                self._revoke(token)
        self._former_tokens.clear()
        self._token.revoke(timeout_s=_REVOKE_S)
        self._client.close()

    def database(self) -> DatabaseLogin:
        lease = self._database.lease
        if lease and lease.ttl.valid and (self._daemon or now() < lease.ttl.due_at):
            return lease.login
        with self._lock:
            if (outage := self._outage) and not self._database.valid:
                # What the renewal thread gets from Vault now, instead of waiting for a time-out.
                why = f"there is no database login: {outage.message}"
                raise VaultUnavailable(why, hint=outage.hint) from outage
            try:
                self._token.use(self._database.keep)
            except VaultUnavailable:
                if not self._database.valid:
                    raise
            self._renewal.completed(_DATABASE, due_at=self._database.due_at)
            return self._database.login

    def replace_database(self, refused: DatabaseLogin) -> DatabaseLogin:
        with self._lock:
            if self._database.lease is None or self._database.login.user == refused.user:
                self._token.use(self._database.fetch)
                self._renewal.completed(_DATABASE, due_at=self._database.due_at)
            return self._database.login

    def kafka(self) -> KafkaLogin:
        login = self._kafka.login
        if login is None:
            return self.refresh_kafka()
        if not self._daemon and now() >= self._read_kafka_at:
            # A short command that runs long has no thread that looks for a new version.
            with contextlib.suppress(VaultUnavailable):
                return self.refresh_kafka()
        return login

    def refresh_kafka(self) -> KafkaLogin:
        if self._kafka.login and self._outage:
            # The renewal thread asks until Vault answers; waiting here too would delay a broker that is back.
            return self._kafka.login
        with self._lock:
            self._read_kafka_at = now() + self._vault.poll_s
            return self._token.use(self._kafka.fetch)

    def using(self, client: str, login: KafkaLogin | None) -> None:
        if login is None:
            self._versions_in_use.pop(client, None)
        else:
            self._versions_in_use[client] = login.version
        self._renewal.schedule(_KAFKA, now())

    def api_keys(self) -> Mapping[str, ApiKey]:
        return self._key_ring.keys

    def settings(self) -> Settings:
        """Return the settings, with Vault's values as they were read last."""
        return self._layers.settings(self._from_vault)

    def layer(self) -> Mapping[str, Mapping[str, Any]]:
        """Read what Vault says of the servers, and return that layer of the settings."""
        self._broker(self.read_secret("kafka/credentials")[0])
        self._database_server(self.read_secret("database/credentials")[0])
        return self._from_vault

    def read_secret(self, path: str) -> tuple[dict[str, str], int]:
        """Return the newest version of the secret `path` of the key-value engine, and its number."""
        return self.ask(lambda client: client.read_kv(path))

    def write_secret(self, path: str, values: dict[str, str], *, cas: int | None = None) -> int:
        """Write a new version and return its number; with `cas`, only if that is the version there now."""
        return self.ask(lambda client: client.write_kv(path, values, cas=cas))

    def ask(self, request: Callable[[VaultClient], _T]) -> _T:
        """Make a request with this session's token, or a new one if it has ended. Raises VaultError."""
        with self._lock:
            return self._token.use(lambda: request(self._client))

    def state(self) -> VaultState:
        if not self._daemon and self._token.ttl:
            # No thread renews the token of a command that looks again and again.
            with contextlib.suppress(VaultError), self._lock:
                self._token.keep()
        kv_path = "kafka/credentials" if self._wants_kafka else "database/credentials"
        return probe_vault(self._token, self._database, kv_path=kv_path, audit=self._service == "status")

    def expiries(self) -> dict[str, float]:
        ttls = {"vault_token": self._token.ttl}
        if self._database.role:
            ttls["database_lease"] = self._database.lease.ttl if self._database.lease else None
        return {name: time.time() + ttl.remaining_s if ttl else 0.0 for name, ttl in ttls.items()}

    def _log_in(self) -> None:
        if not self._token.valid:
            # Short, so that the wait for a Vault that never answers ends when `stop` is set.
            health = self._client.health(timeout_s=min(3.0, self._vault.timeout_s))
            if not health.serves:
                raise VaultUnavailable(f"{self._client} is {health.state}", hint=health.advice)
            self._token.log_in()
        if self._database.role and not self._database.valid:
            try:
                self._token.use(self._database.fetch)
            except VaultUnavailable as error:
                # A daemon starts without its database login, and does what it can without it.
                if not (self._daemon and self._client.health().serves):
                    raise
                _log.warning("no database login yet", service=self._service, problem=error.message)
        if self._wants_kafka:
            self._token.use(self._report)
            self._token.use(self._kafka.fetch)
        if self._reads_keys:
            self._token.use(self._key_ring.keep)

    def _database_server(self, values: Mapping[str, str]) -> PostgresSettings:
        pem = values.get("ca_pem", "")
        # libpq reads the authority's certificate from a file only.
        if pem and not (self._ca_file.exists() and self._ca_file.read_text("utf-8") == pem):
            write_private(self._ca_file, pem)
        own = {"ca_file": str(self._ca_file)} if pem else {}
        return self._take("postgres", address_layer("postgres", values) | own).postgres

    def _broker(self, values: Mapping[str, str]) -> KafkaSettings:
        return self._take("kafka", address_layer("kafka", values)).kafka

    def _take(self, section: str, layer: Mapping[str, Any]) -> Settings:
        found = self._layers.settings(layers := {**self._from_vault, section: layer})
        self._from_vault = layers
        return found

    def _start_renewal(self) -> None:
        soon, lock, pause_s = now() + self._vault.poll_s, self._lock, 2 * self._vault.poll_s
        tasks = [
            Task(_TOKEN, self._token.keep, self._token.due_at, lock),
            # If a wrapped secret id is refused, another follows soon, and a rotation waits for this process.
            Task("secret id", self._keep_secret_id, soon, lock, pause_s),
            Task(_FORMER, self._revoke_former_tokens, float("inf"), lock),
        ]
        if self._database.role:
            tasks.append(Task(_DATABASE, self._keep_database, self._database.due_at, lock))
        if self._wants_kafka:
            tasks.append(Task(_KAFKA, self._keep_kafka, soon, lock))
        if self._reads_keys:
            tasks.append(Task("API keys", self._keep_api_keys, soon))
        self._renewal = RenewalThread(f"vault-{self._service}", tasks)
        self._renewal.start()

    def _keep_database(self) -> float:
        self._token.use(self._database.keep)
        return self._database.due_at

    def _keep_kafka(self) -> float:
        self._token.use(self._kafka.fetch)
        self._token.use(self._report)
        return now() + self._vault.poll_s

    def _keep_api_keys(self) -> float:
        try:
            return self._key_ring.keep()  # without the lock: the others may wait for a database that hangs
        except TokenRefused:
            with self._lock:
                return self._token.use(self._key_ring.keep)

    def _keep_secret_id(self) -> float:
        if self._identity.delivered or self._identity.accessor != self._token.secret_id:
            self._token.log_in(former_lives=True)
            _log.info("logged in with another secret id", service=self._service)
        return now() + self._vault.poll_s

    def _revoke_former_tokens(self) -> float:
        """Revoke the former tokens, after replacing a database login that was made with one of them."""
        while self._former_tokens:
            token, lease = self._former_tokens[0]
            if lease and self._database.lease and self._database.login is lease.login:
                self._token.use(self._database.fetch)
            self._revoke(token)
            self._former_tokens.pop(0)
        return float("inf")

    def _revoke(self, token: Secret) -> None:
        with contextlib.suppress(TokenRefused):
            self._client.with_token(token).revoke_self(timeout_s=_REVOKE_S)

    def _report(self) -> None:
        if self._reporter and self._token.ttl:  # version 0 if none was read yet
            newest = self._kafka.login.version if self._kafka.login else 0
            version = min(tuple(self._versions_in_use.values()), default=newest)
            self._reporter.report(version, self._token.secret_id, self._token.ttl)

    def _token_replaced(self, former: Secret | None) -> None:
        """Get another database login at once: the leases of a dead token died with it. Those of a `former` token that
        lives end with it, later."""
        self._renewal.completed(_TOKEN, due_at=self._token.due_at)
        if former:
            self._former_tokens.append((former, self._database.lease))
            self._renewal.schedule(_FORMER, now() + _MOVE_S)
        else:
            self._database.lease = None
        if self._database.role:
            self._renewal.schedule(_DATABASE, now())
            self._database.fetch()
            self._renewal.completed(_DATABASE, due_at=self._database.due_at)

    @property
    def _outage(self) -> VaultUnavailable | None:
        """The error that the renewal thread gets from Vault now; None if it gets answers."""
        found = self._renewal.outage
        return found if isinstance(found, VaultUnavailable) else None
