"""A service's session with Vault: its token, its database login, its Kafka login.

A daemon's session has a thread that keeps all three good; a short command's renews on use, and gives its token back
at the end. What is held stays in use until it runs out, whatever happens to Vault.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import structlog

from bdlab.credentials import DatabaseLogin, KafkaLogin
from bdlab.errors import (
    BdlabError,
    IdentityRefused,
    SettingsInvalid,
    TokenRefused,
    VaultError,
    VaultUnavailable,
)
from bdlab.probes import VaultState
from bdlab.settings import Layers, Secret, Settings
from bdlab.vault import state
from bdlab.vault.client import VaultClient
from bdlab.vault.files import write_private
from bdlab.vault.identity import Identity
from bdlab.vault.keeper import Keeper, Task
from bdlab.vault.leases import Backoff, DatabaseLease, Term, TokenLease, lease_seconds, now

_Answer = TypeVar("_Answer")

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_GOODBYE_S = 2.0

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
        self._settings = layers.settings().vault
        self._service = service
        self._database_role = database_role
        self._with_kafka = kafka
        self._daemon = daemon
        self._client = VaultClient(self._settings)
        self._identity = Identity(Path(self._settings.identity_dir).expanduser() / service, service=service)
        # Held while Vault is asked for something new; what is held is read without it.
        self._asking = threading.RLock()
        self._token: TokenLease | None = None
        self._lease: DatabaseLease | None = None
        self._kafka_login: KafkaLogin | None = None
        self._broker: dict[str, str] = {}
        self._user: dict[str, str] = {}
        self._server: dict[str, str] = {}
        self._keeper: Keeper | None = None

    # -- life ------------------------------------------------------------------------------------------------

    def open(self, timeout_s: float) -> None:
        """Log in and fetch what the service needs.

        Waits up to `timeout_s` seconds for a Vault that is unreachable, sealed, not initialised or a standby, and
        then raises VaultUnavailable. Raises IdentityRefused, PolicyDenied or SecretMissing at once, naming what is
        refused; only a daemon waits for an identity that was never handed over.
        """
        deadline = now() + timeout_s
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        pause = threading.Event()
        last = ""
        while True:
            try:
                self._establish()
                break
            except (VaultUnavailable, IdentityRefused) as error:
                if isinstance(error, IdentityRefused) and (self._identity.exists or not self._daemon):
                    raise
                if now() >= deadline:
                    raise self._gave_up(error, timeout_s) from error
                if error.message != last:
                    last = error.message
                    _log.warning(
                        "waiting for Vault", service=self._service, problem=error.message, timeout_s=timeout_s
                    )
            pause.wait(min(backoff.next_s(), max(0.0, deadline - now())))
        if last:
            _log.info("Vault is there", service=self._service)
        if self._daemon:
            self._start_keeper()

    def close(self) -> None:
        """Give the token back, and with it every lease; what was connected with them is cut off by Vault."""
        if self._keeper:
            self._keeper.stop(_GOODBYE_S)
            self._keeper = None
        if self._token:
            try:
                self._client.revoke_self(timeout_s=_GOODBYE_S)
            except VaultError as error:
                _log.debug("the token was not given back and will run out", problem=error.message)
            self._token = None
        self._lease = None
        self._client.close()

    def __enter__(self) -> Self:
        self.open(self._layers.settings().startup_timeout_s)
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    # -- credentials -----------------------------------------------------------------------------------------

    def database(self) -> DatabaseLogin:
        lease = self._lease
        if lease and lease.term.valid and (self._daemon or now() < lease.term.due_at):
            return lease.login
        with self._asking:
            lease = self._lease
            try:
                self._fail_fast(lease)
                self._keep_database()
            except VaultUnavailable:
                if not (lease and lease.term.valid):
                    raise
            return self._held_lease().login

    def replace_database(self, refused: DatabaseLogin) -> DatabaseLogin:
        with self._asking:
            lease = self._lease
            if lease is None or lease.login is refused or lease.login.user == refused.user:
                self._with_token(self._fetch_database)
                self._reschedule_database()
            return self._held_lease().login

    def kafka(self) -> KafkaLogin:
        login = self._kafka_login
        return login or self.refresh_kafka()

    def refresh_kafka(self) -> KafkaLogin:
        with self._asking:
            self._with_token(self._read_kafka)
            if self._kafka_login is None:
                raise VaultError(f"the session of {self._service!r} was made without Kafka")
            return self._kafka_login

    def settings(self) -> Settings:
        """The settings with Vault's values in their place, as they were read last."""
        return self._layers.settings(self._layer())

    def read_secret(self, path: str) -> tuple[dict[str, str], int]:
        """The newest version of the secret `path` of the key-value engine, and its number."""
        with self._asking:
            return self._with_token(lambda: self._client.read_kv(self._settings.kv_mount, path))

    def write_secret(self, path: str, values: dict[str, str], *, cas: int | None = None) -> int:
        """Write a new version and give its number; with `cas`, only where that version is there now."""
        with self._asking:
            return self._with_token(
                lambda: self._client.write_kv(self._settings.kv_mount, path, values, cas=cas)
            )

    def state(self) -> VaultState:
        return state.look(
            self._client,
            kv_mount=self._settings.kv_mount,
            kv_path="kafka/credentials" if self._with_kafka else "database/credentials",
            token=self._token,
            lease=self._lease,
            wants_lease=self._database_role is not None,
        )

    # -- getting things from Vault, with `_asking` held ------------------------------------------------------

    def _establish(self) -> None:
        with self._asking:
            if self._token is None or not self._token.term.valid:
                health = self._client.health()
                if not health.active:
                    raise VaultUnavailable(
                        f"Vault at {self._client.address} is {health.in_words}",
                        hint="Run `bdlab vault-init`." if not health.initialized else "Unseal it.",
                    )
                self._log_in()
            if self._database_role and not (self._lease and self._lease.term.valid):
                self._with_token(self._first_database)
            if self._with_kafka:
                self._with_token(self._read_kafka)

    def _first_database(self) -> None:
        try:
            self._fetch_database()
        except VaultUnavailable as error:
            # A daemon starts without its database, and gets on with what needs none.
            if not (self._daemon and self._client.health().active):
                raise
            self._lease = None
            _log.warning("no database login yet", service=self._service, problem=error.message)

    def _log_in(self) -> None:
        role_id, secret_id = self._identity.obtain(self._client)
        asked = now()
        token = self._client.log_in(self._settings.approle_mount, role_id, secret_id)
        self._client.token = token.token
        self._token = TokenLease(token.token, Term.begun(asked, token.ttl_s))
        _log.debug("logged in to Vault", service=self._service, ttl_s=token.ttl_s)

    def _with_token(self, ask: Callable[[], _Answer]) -> _Answer:
        """Ask; where the token turns out to be dead, log in and ask again."""
        before = self._client.token
        try:
            return ask()
        except TokenRefused as error:
            if self._client.token is before:
                _log.warning(
                    "the token is dead; logging in again", service=self._service, problem=error.message
                )
                self._log_in_again()
        return ask()

    def _log_in_again(self) -> None:
        """A new token. The leases of the old one died with it, so the database login comes first."""
        self._log_in()
        if self._keeper and self._token:
            self._keeper.due("token", self._token.term.due_at)
        if self._database_role:
            self._fetch_database()
            self._reschedule_database()

    def _fetch_database(self) -> None:
        mount = self._settings.database_mount
        # Where the server is may have changed since the last login.
        self._server, _ = self._client.read_kv(self._settings.kv_mount, "database/credentials")
        settings = self.settings().postgres
        asked = now()
        answer = self._client.request("get", f"{mount}/creds/{self._database_role}")
        data = answer["data"]
        login = DatabaseLogin(
            server=settings,
            user=str(data["username"]),
            password=Secret(str(data["password"])),
            lease_id=str(answer["lease_id"]),
        )
        term = Term.begun(asked, lease_seconds(answer), renewable=bool(answer.get("renewable")))
        self._lease = DatabaseLease(login, term)
        _log.debug("new database login", service=self._service, user=login.user, ttl_s=term.ttl_s)

    def _keep_database(self) -> None:
        """Renew the lease at two thirds of its time; take a new one where it cannot go on."""
        lease = self._lease
        if lease is None or not lease.term.valid or not lease.term.renewable:
            self._with_token(self._fetch_database)
            return
        if now() < lease.term.due_at:
            return
        asked = now()
        try:
            answer = self._client.request(
                "post",
                "sys/leases/renew",
                {"lease_id": lease.login.lease_id, "increment": round(lease.term.full_s)},
            )
        except TokenRefused:
            self._with_token(self._fetch_database)
            return
        except VaultUnavailable:
            raise
        except VaultError as error:
            if type(error) is not VaultError:
                raise
            _log.info("the database lease is gone; taking a new one", problem=error.message)
            self._with_token(self._fetch_database)
            return
        renewed = lease.term.renewed(asked, lease_seconds(answer))
        if renewed.capped:
            self._with_token(self._fetch_database)
        else:
            self._lease = DatabaseLease(lease.login, renewed)

    def _read_kafka(self) -> None:
        mount = self._settings.kv_mount
        broker, _ = self._client.read_kv(mount, "kafka/credentials")
        user, _ = self._client.read_kv(mount, f"kafka/{self._service}")
        if self._kafka_login and broker == self._broker and user == self._user:
            return
        before = self._broker, self._user
        self._broker, self._user = broker, user
        try:
            settings = self.settings().kafka
        except SettingsInvalid:
            self._broker, self._user = before
            raise
        sasl = settings.security_protocol.startswith("SASL")
        self._kafka_login = KafkaLogin(
            server=settings,
            username=user.get("username", "") if sasl else "",
            password=Secret(user.get("password", "") if sasl else ""),
            ca_pem=broker.get("ca_pem", ""),
        )

    def _layer(self) -> dict[str, dict[str, Any]]:
        """What Vault says, in the shape of a settings layer. Secrets and empty values are no part of it."""
        postgres = {
            name: self._server[name]
            for name in ("host", "port", "dbname", "sslmode")
            if self._server.get(name)
        }
        if self._server.get("ca_pem"):
            postgres["ca_file"] = str(self._authority_file(self._server["ca_pem"]))
        kafka = {
            name: self._broker[name]
            for name in ("bootstrap_servers", "security_protocol", "sasl_mechanism")
            if self._broker.get(name)
        }
        return {"postgres": postgres, "kafka": kafka}

    def _authority_file(self, pem: str) -> Path:
        """libpq takes the authority's certificate from a file only."""
        path = self._identity.folder / "database-ca.pem"
        if not (path.exists() and path.read_text("utf-8") == pem):
            write_private(path, pem)
        return path

    # -- the keeper ------------------------------------------------------------------------------------------

    def _start_keeper(self) -> None:
        token = self._token
        tasks = [Task("token", self._keep_token, due_at=token.term.due_at if token else now())]
        if self._database_role:
            due_at = self._lease.term.due_at if self._lease else now()
            tasks.append(Task("database login", self._keep_database_task, due_at=due_at))
        if self._with_kafka:
            tasks.append(Task("kafka login", self._keep_kafka, due_at=now() + self._settings.poll_s))
        self._keeper = Keeper(f"vault-{self._service}", tasks)
        self._keeper.start()

    def _keep_token(self) -> float:
        with self._asking:
            if self._token is None or not self._token.term.valid:
                self._log_in_again()
            elif now() >= self._token.term.due_at:
                asked = now()
                token = self._with_token(self._client.renew_self)
                renewed = self._token.term.renewed(asked, token.ttl_s)
                self._token = TokenLease(self._token.token, renewed)
                if renewed.capped:
                    self._log_in_again()
            return self._token.term.due_at if self._token else now()

    def _keep_database_task(self) -> float:
        with self._asking:
            self._keep_database()
            return self._held_lease().term.due_at

    def _keep_kafka(self) -> float:
        with self._asking:
            if self._identity.delivered:
                self._identity.obtain(self._client)  # `rotate` handed over another secret id
            self._with_token(self._read_kafka)
            return now() + self._settings.poll_s

    def _reschedule_database(self) -> None:
        if self._keeper and self._lease:
            self._keeper.due("database login", self._lease.term.due_at)

    def _fail_fast(self, lease: DatabaseLease | None) -> None:
        """While the keeper is already knocking, a request that needs a login need not wait for a time-out too."""
        outage = self._keeper.outage if self._keeper else None
        if outage and isinstance(outage, VaultUnavailable) and not (lease and lease.term.valid):
            raise VaultUnavailable(
                f"no database login: the last one ran out, and {outage.message}", hint=outage.hint
            ) from outage

    def _held_lease(self) -> DatabaseLease:
        if self._lease is None:
            raise VaultError(f"the session of {self._service!r} has no database login")
        return self._lease

    def _gave_up(self, error: BdlabError, timeout_s: float) -> BdlabError:
        return type(error)(f"{error.message} (waited {timeout_s:g} s)", hint=error.hint)
