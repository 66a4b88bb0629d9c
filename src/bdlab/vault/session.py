"""A service's session with Vault: its token, its database login, its Kafka login.

A daemon's session has a thread that keeps all three good; a short command's renews on use. What is held stays
in use until it runs out, whatever happens to Vault.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self, TypeVar

import structlog

from bdlab.credentials import DatabaseLogin, KafkaLogin
from bdlab.errors import BdlabError, IdentityRefused, TokenRefused, VaultError, VaultUnavailable
from bdlab.files import write_private
from bdlab.probes import VaultState
from bdlab.retry import wait_for
from bdlab.services import DAEMONS
from bdlab.settings import KafkaSettings, Layers, PostgresSettings, Secret, Settings
from bdlab.vault import probe
from bdlab.vault.client import VaultClient
from bdlab.vault.client_reports import ClientReporter
from bdlab.vault.identity import Identity
from bdlab.vault.leases import now
from bdlab.vault.logins import LeasedDatabaseLogin, LeasedToken, StoredKafkaLogin, kafka_layer, postgres_layer
from bdlab.vault.renewal import RenewalThread, Task

_TOKEN, _DATABASE, _KAFKA = "token", "database login", "Kafka login"
_SECRET_ID, _FORMER = "secret id", "end of former token"
_GOODBYE_S = 2.0
_HEALTH_S = 3.0
#: How long what was made with a token stays good after another has taken its place, for its users to move on.
_FORMER_S = 30.0

_T = TypeVar("_T")

_log = structlog.get_logger()


class VaultSession:
    """Implements `credentials.DatabaseCredentials`, `credentials.KafkaCredentials` and `probes.VaultProbe`.

    `service` names the identity and the Kafka user; `database_role` is a role of the database engine such as
    ``bdlab-writer``, None for a service without a database. Safe to use from several threads.
    """

    def __init__(
        self, layers: Layers, *, service: str, database_role: str | None, kafka: bool = True, daemon: bool
    ) -> None:
        self._layers = layers
        self._service = service
        self._daemon = daemon
        self._vault = layers.settings().vault
        self._client = VaultClient(self._vault)
        self._identity = Identity(Path(self._vault.identity_dir).expanduser() / service, service=service)
        # Held while Vault is asked for something; what is held already is read without it.
        self._asking = threading.RLock()
        self._token = LeasedToken(
            self._client, self._identity, mount=self._vault.approle_mount, replaced=self._token_replaced
        )
        self._database = (
            LeasedDatabaseLogin(
                self._client, vault=self._vault, role=database_role, server=self._database_server
            )
            if database_role
            else None
        )
        self._kafka = (
            StoredKafkaLogin(
                self._client, kv_mount=self._vault.kv_mount, service=service, server=self._broker
            )
            if kafka
            else None
        )
        self._reporter = (
            ClientReporter(
                self._client,
                kv_mount=self._vault.kv_mount,
                service=service,
                folder=self._identity.folder,
            )
            if kafka and daemon and service in DAEMONS
            else None
        )
        self._used: dict[str, int] = {}
        self._kafka_due_at = 0.0
        self._moving = False
        self._former: list[tuple[Secret, DatabaseLogin | None]] = []
        self._keeper: RenewalThread | None = None

    # -- life ------------------------------------------------------------------------------------------------

    def open(
        self,
        timeout_s: float,
        *,
        stop: threading.Event | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        """Log in and fetch what the service needs.

        Waits up to `timeout_s` seconds for a Vault that is unreachable, sealed or not initialised, and then
        raises VaultUnavailable. Raises IdentityRefused, PolicyDenied or SecretMissing at once, naming what is
        refused; only a daemon waits for an identity that was never handed over. Setting `stop` ends the wait;
        `on_wait` is called when it is known to be one.
        """
        with self._asking:
            wait_for(
                "Vault",
                self._establish,
                timeout_s=timeout_s,
                errors=self._may_come,
                stop=stop,
                on_wait=on_wait,
                service=self._service,
            )
        if self._daemon:
            self._start_keeper()

    def close(self) -> None:
        """Give the token back, and with it every lease: close first what is connected with them."""
        if self._keeper:
            self._keeper.stop(_GOODBYE_S)
            self._keeper = None
        if self._reporter:
            self._reporter.withdraw(timeout_s=_GOODBYE_S)
        for token, _ in self._former:
            with contextlib.suppress(VaultError):
                self._revoke(token)
        self._former.clear()
        self._token.give_back(timeout_s=_GOODBYE_S)
        self._client.close()

    def __enter__(self) -> Self:
        self.open(self._layers.settings().startup_timeout_s)
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    # -- credentials -----------------------------------------------------------------------------------------

    def database(self) -> DatabaseLogin:
        held = self._held_database()
        lease = held.lease
        if lease and lease.ttl.valid and (self._daemon or now() < lease.ttl.due_at):
            return lease.login
        with self._asking:
            self._fail_fast(held)
            try:
                self._token.use(held.keep)
            except VaultUnavailable:
                if not held.valid:
                    raise
            self._reschedule_database(held)
            return held.held()

    def replace_database(self, refused: DatabaseLogin) -> DatabaseLogin:
        held = self._held_database()
        with self._asking:
            if held.lease is None or held.lease.login.user == refused.user:
                self._token.use(held.fetch)
                self._reschedule_database(held)
            return held.held()

    def kafka(self) -> KafkaLogin:
        held = self._held_kafka().login
        if held is None:
            return self.refresh_kafka()
        if not self._daemon and now() >= self._kafka_due_at:
            # Nobody else looks for a short command that runs long.
            self._kafka_due_at = now() + self._vault.poll_s
            with contextlib.suppress(VaultUnavailable):
                return self.refresh_kafka()
        return held

    def refresh_kafka(self) -> KafkaLogin:
        held = self._held_kafka()
        if held.login and self._outage:
            # The keeper asks until Vault answers; to wait for that too would keep a broker away that is back.
            return held.login
        with self._asking:
            self._kafka_due_at = now() + self._vault.poll_s
            return self._token.use(held.fetch)

    def using(self, client: str, login: KafkaLogin | None) -> None:
        if login is None:
            self._used.pop(client, None)
        else:
            self._used[client] = login.version
        if self._keeper:
            self._keeper.due(_KAFKA, now())

    def settings(self) -> Settings:
        """The settings with Vault's values in their place, as they were read last."""
        return self._layers.settings(
            {
                "postgres": postgres_layer(self._database.values, ca_file=str(self._ca_file))
                if self._database
                else {},
                "kafka": kafka_layer(self._kafka.values) if self._kafka else {},
            }
        )

    def read_secret(self, path: str) -> tuple[dict[str, str], int]:
        """The newest version of the secret `path` of the key-value engine, and its number."""
        return self.ask(lambda client: client.read_kv(self._vault.kv_mount, path))

    def write_secret(self, path: str, values: dict[str, str], *, cas: int | None = None) -> int:
        """Write a new version and give its number; with `cas`, only where that version is there now."""
        return self.ask(lambda client: client.write_kv(self._vault.kv_mount, path, values, cas=cas))

    def ask(self, question: Callable[[VaultClient], _T]) -> _T:
        """Ask Vault with this session's token, which is replaced where it has ended. Raises VaultError."""
        with self._asking:
            return self._token.use(lambda: question(self._client))

    def state(self) -> VaultState:
        if not self._daemon and self._token.lease:
            # Nobody else keeps the token of a command that looks again and again.
            with contextlib.suppress(VaultError), self._asking:
                self._token.keep()
        return probe.look(
            self._client,
            kv_mount=self._vault.kv_mount,
            kv_path="kafka/credentials" if self._kafka else "database/credentials",
            token=self._token.lease,
            lease=self._database.lease if self._database else None,
            wants_lease=bool(self._database),
            audit=self._service == "status",
        )

    # -- at the start ----------------------------------------------------------------------------------------

    def _establish(self) -> None:
        if not self._token.valid:
            # Short, so that a wait for a Vault that swallows everything ends when it is told to.
            health = self._client.health(timeout_s=min(_HEALTH_S, self._vault.timeout_s))
            if not health.serves:
                raise VaultUnavailable(f"{self._client} is {health.in_words}", hint=health.advice)
            self._token.log_in()
        if self._database and not self._database.valid:
            self._first_database(self._database)
        if self._kafka:
            self._token.use(self._report)
            self._token.use(self._kafka.fetch)

    def _first_database(self, held: LeasedDatabaseLogin) -> None:
        try:
            self._token.use(held.fetch)
        except VaultUnavailable as error:
            # A daemon starts without its database, and gets on with what needs none.
            if not (self._daemon and self._client.health().serves):
                raise
            _log.warning("no database login yet", service=self._service, problem=error.message)

    def _may_come(self, error: BdlabError) -> bool:
        """Whether waiting may help."""
        never_handed_over = isinstance(error, IdentityRefused) and not self._identity.exists
        return isinstance(error, VaultUnavailable) or (self._daemon and never_handed_over)

    # -- what Vault says, between the other layers -----------------------------------------------------------

    @property
    def _ca_file(self) -> Path:
        return self._identity.folder / "database-ca.pem"

    def _database_server(self, values: Mapping[str, str]) -> PostgresSettings:
        pem = values.get("ca_pem", "")
        # libpq takes the authority's certificate from a file only.
        if pem and not (self._ca_file.exists() and self._ca_file.read_text("utf-8") == pem):
            write_private(self._ca_file, pem)
        return self._layers.settings(
            {"postgres": postgres_layer(values, ca_file=str(self._ca_file))}
        ).postgres

    def _broker(self, values: Mapping[str, str]) -> KafkaSettings:
        return self._layers.settings({"kafka": kafka_layer(values)}).kafka

    # -- the keeper ------------------------------------------------------------------------------------------

    def _start_keeper(self) -> None:
        lease = self._token.lease
        tasks = [Task(_TOKEN, self._keep_token, due_at=lease.ttl.due_at if lease else now())]
        if self._database:
            tasks.append(Task(_DATABASE, self._keep_database, due_at=self._database.due_at))
        if self._kafka:
            tasks.append(Task(_KAFKA, self._keep_kafka, due_at=now() + self._vault.poll_s))
        poll_s = self._vault.poll_s
        # A delivery that was spoiled is soon followed by another, which a rotation waits for.
        tasks.append(
            Task(_SECRET_ID, self._keep_secret_id, due_at=now() + poll_s, refused_pause_s=2 * poll_s)
        )
        tasks.append(Task(_FORMER, self._end_former, due_at=float("inf")))
        self._keeper = RenewalThread(f"vault-{self._service}", tasks)
        self._keeper.start()

    def _keep_token(self) -> float:
        with self._asking:
            return self._token.keep()

    def _keep_database(self) -> float:
        with self._asking:
            held = self._held_database()
            self._token.use(held.keep)
            return held.due_at

    def _keep_kafka(self) -> float:
        with self._asking:
            self._token.use(self._held_kafka().fetch)
            self._token.use(self._report)
            return now() + self._vault.poll_s

    def _keep_secret_id(self) -> float:
        """Take up another secret id that was handed over: log in with it, and let the former token end."""
        with self._asking:
            if self._token.outdated:
                lease = self._database.lease if self._database else None
                former = self._client.token
                self._moving = True
                try:
                    self._token.log_in()
                finally:
                    self._moving = False
                    if self._client.token is not former:
                        self._former.append((former, lease.login if lease else None))
                        if self._keeper:
                            self._keeper.due(_FORMER, now() + _FORMER_S)
                _log.info("logged in with another secret id", service=self._service)
            return now() + self._vault.poll_s

    def _end_former(self) -> float:
        """Give back the tokens from before, once nothing in use was made with them."""
        with self._asking:
            while self._former:
                token, login = self._former[0]
                held = self._database
                if held and held.lease and held.lease.login is login:
                    self._token.use(held.fetch)
                self._revoke(token)
                self._former.pop(0)
            return float("inf")

    def _revoke(self, token: Secret) -> None:
        client = self._client.with_token(token)
        with contextlib.closing(client), contextlib.suppress(TokenRefused):
            client.revoke_self(timeout_s=_GOODBYE_S)

    def _report(self) -> None:
        """Say in Vault what this client uses; before its first login is read that is version 0."""
        if self._reporter and self._token.lease:
            login = self._held_kafka().login
            held = login.version if login else 0
            version = min(tuple(self._used.values()), default=held)
            self._reporter.report(version, self._token.secret_id, self._token.lease.ttl)

    def _token_replaced(self) -> None:
        """The leases of a dead token died with it, so a database login comes before anything else."""
        if self._keeper and self._token.lease:
            self._keeper.done(_TOKEN, due_at=self._token.lease.ttl.due_at)
        if self._database:
            if not self._moving:
                self._database.lease = None
            if self._keeper:
                self._keeper.due(_DATABASE, now())
            self._database.fetch()
            self._reschedule_database(self._database)

    def _reschedule_database(self, held: LeasedDatabaseLogin) -> None:
        if self._keeper:
            self._keeper.done(_DATABASE, due_at=held.due_at)

    def _fail_fast(self, held: LeasedDatabaseLogin) -> None:
        """While the keeper is knocking already, nobody else needs to wait for a time-out too."""
        outage = self._outage
        if outage and not held.valid:
            raise VaultUnavailable(
                f"there is no database login: {outage.message}", hint=outage.hint
            ) from outage

    @property
    def _outage(self) -> VaultUnavailable | None:
        """Why the keeper gets no answer from Vault just now."""
        found = self._keeper.outage if self._keeper else None
        return found if isinstance(found, VaultUnavailable) else None

    def _held_database(self) -> LeasedDatabaseLogin:
        if not self._database:
            raise VaultError(f"the session of {self._service!r} was made without a database role")
        return self._database

    def _held_kafka(self) -> StoredKafkaLogin:
        if not self._kafka:
            raise VaultError(f"the session of {self._service!r} was made without Kafka")
        return self._kafka
