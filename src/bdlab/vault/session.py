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
from bdlab.errors import IdentityRefused, VaultError, VaultUnavailable
from bdlab.probes import VaultState
from bdlab.settings import KafkaSettings, Layers, PostgresSettings, Settings
from bdlab.vault import snapshots, state
from bdlab.vault.client import VaultClient
from bdlab.vault.files import write_private
from bdlab.vault.held import HeldDatabase, HeldKafka, HeldToken, kafka_layer, postgres_layer
from bdlab.vault.identity import Identity
from bdlab.vault.keeper import Keeper, Task
from bdlab.vault.leases import now
from bdlab.vault.waiting import wait_for

_TOKEN, _DATABASE, _KAFKA = "token", "database login", "Kafka login"
_GOODBYE_S = 2.0
_HEALTH_S = 3.0

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
        self._token = HeldToken(
            self._client, self._identity, mount=self._vault.approle_mount, replaced=self._token_replaced
        )
        self._database = (
            HeldDatabase(self._client, vault=self._vault, role=database_role, server=self._database_server)
            if database_role
            else None
        )
        self._kafka = (
            HeldKafka(self._client, kv_mount=self._vault.kv_mount, service=service, server=self._broker)
            if kafka
            else None
        )
        self._keeper: Keeper | None = None

    # -- life ------------------------------------------------------------------------------------------------

    def open(self, timeout_s: float, *, stop: threading.Event | None = None) -> None:
        """Log in and fetch what the service needs.

        Waits up to `timeout_s` seconds for a Vault that is unreachable, sealed, not initialised or a standby,
        and then raises VaultUnavailable. Raises IdentityRefused, PolicyDenied or SecretMissing at once,
        naming what is refused; only a daemon waits for an identity that was never handed over. Setting `stop`
        ends the wait.
        """
        with self._asking:
            wait_for(
                self._establish, timeout_s=timeout_s, retry=self._may_come, stop=stop, service=self._service
            )
        if self._daemon:
            self._start_keeper()

    def close(self) -> None:
        """Give the token back, and with it every lease: close first what is connected with them."""
        if self._keeper:
            self._keeper.stop(_GOODBYE_S)
            self._keeper = None
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
        if lease and lease.term.valid and (self._daemon or now() < lease.term.due_at):
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
        return self._held_kafka().login or self.refresh_kafka()

    def refresh_kafka(self) -> KafkaLogin:
        held = self._held_kafka()
        with self._asking:
            return self._token.use(held.fetch)

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
        with self._asking:
            return self._token.use(lambda: self._client.read_kv(self._vault.kv_mount, path))

    def write_secret(self, path: str, values: dict[str, str], *, cas: int | None = None) -> int:
        """Write a new version and give its number; with `cas`, only where that version is there now."""
        with self._asking:
            return self._token.use(lambda: self._client.write_kv(self._vault.kv_mount, path, values, cas=cas))

    def ask(self, question: Callable[[VaultClient], _T]) -> _T:
        """Ask Vault with this session's token, which is replaced where it has ended. Raises VaultError."""
        with self._asking:
            return self._token.use(lambda: question(self._client))

    def state(self) -> VaultState:
        if not self._daemon and self._token.lease:
            # Nobody else keeps the token of a command that looks again and again.
            with contextlib.suppress(VaultError), self._asking:
                self._token.keep()
        return state.look(
            self._client,
            kv_mount=self._vault.kv_mount,
            kv_path="kafka/credentials" if self._kafka else "database/credentials",
            token=self._token.lease,
            lease=self._database.lease if self._database else None,
            wants_lease=bool(self._database),
        )

    # -- at the start ----------------------------------------------------------------------------------------

    def _establish(self) -> None:
        if not self._token.valid:
            # Short, so that a wait for a Vault that swallows everything ends when it is told to.
            health = self._client.health(timeout_s=min(_HEALTH_S, self._vault.timeout_s))
            if not health.active:
                raise VaultUnavailable(
                    f"Vault at {self._client.address} is {health.in_words}", hint=health.advice
                )
            self._token.log_in()
        if self._database and not self._database.valid:
            self._first_database(self._database)
        if self._kafka:
            self._token.use(self._kafka.fetch)

    def _first_database(self, held: HeldDatabase) -> None:
        try:
            self._token.use(held.fetch)
        except VaultUnavailable as error:
            # A daemon starts without its database, and gets on with what needs none.
            if not (self._daemon and self._client.health().active):
                raise
            _log.warning("no database login yet", service=self._service, problem=error.message)

    def _may_come(self, error: VaultError) -> bool:
        """Whether waiting may help."""
        never_handed_over = isinstance(error, IdentityRefused) and not self._identity.exists
        return isinstance(error, VaultUnavailable) or (self._daemon and never_handed_over)

    # -- what Vault says, between the other layers
    # -------------------------------------------------------------

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

    def snapshot(self) -> bytes:
        """All that Vault holds. Raises VaultError, PolicyDenied where the service may not."""
        with self._asking:
            return self._token.use(lambda: snapshots.save(self._client))

    # -- the keeper ------------------------------------------------------------------------------------------

    def _start_keeper(self) -> None:
        lease = self._token.lease
        tasks = [Task(_TOKEN, self._keep_token, due_at=lease.term.due_at if lease else now())]
        if self._database:
            tasks.append(Task(_DATABASE, self._keep_database, due_at=self._database.due_at))
        if self._kafka:
            tasks.append(Task(_KAFKA, self._keep_kafka, due_at=now() + self._vault.poll_s))
        self._keeper = Keeper(f"vault-{self._service}", tasks)
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
            if self._identity.delivered:
                # `rotate` handed over another secret id: have it before the old one ends.
                self._identity.obtain(self._client)
            self._token.use(self._held_kafka().fetch)
            return now() + self._vault.poll_s

    def _token_replaced(self) -> None:
        """The leases of the old token died with it, so a database login comes before anything else."""
        if self._keeper and self._token.lease:
            self._keeper.done(_TOKEN, due_at=self._token.lease.term.due_at)
        if self._database:
            self._database.lease = None
            if self._keeper:
                self._keeper.due(_DATABASE, now())
            self._database.fetch()
            self._reschedule_database(self._database)

    def _reschedule_database(self, held: HeldDatabase) -> None:
        if self._keeper:
            self._keeper.done(_DATABASE, due_at=held.due_at)

    def _fail_fast(self, held: HeldDatabase) -> None:
        """While the keeper is knocking already, nobody else needs to wait for a time-out too."""
        outage = self._keeper.outage if self._keeper else None
        if isinstance(outage, VaultUnavailable) and not held.valid:
            raise VaultUnavailable(
                f"there is no database login: {outage.message}", hint=outage.hint
            ) from outage

    def _held_database(self) -> HeldDatabase:
        if not self._database:
            raise VaultError(f"the session of {self._service!r} was made without a database role")
        return self._database

    def _held_kafka(self) -> HeldKafka:
        if not self._kafka:
            raise VaultError(f"the session of {self._service!r} was made without Kafka")
        return self._kafka
