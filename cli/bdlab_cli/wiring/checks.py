"""The checks of `bdlab status` over the real servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bdlab.errors import BdlabError, InvalidInput, VaultUnavailable
from bdlab.health import CheckResult, Report, not_made
from bdlab.health.checks import (
    CHECKS,
    away,
    broker_checks,
    compared_models,
    database_checks,
    failed,
    log_check,
    unknown,
    vault_checks,
)
from bdlab.health.remote import api_check, consumer_check, why_closed
from bdlab.health.tls import certificate_check
from bdlab.probes import DatabaseState
from bdlab.settings import HttpSettings, Layers, SinkSettings, http_url

if TYPE_CHECKING:
    from bdlab.kafka.admin import Admin
    from bdlab.vault.session import VaultSession

SERVICE = "status"

_DEFAULT = ("vault", "kafka", "postgres", "log", "model", "api", "certificates")


def chosen(names: Sequence[str], sink: SinkSettings) -> tuple[str, ...]:
    """Return the names of all checks that `names` (checks and groups) stand for. Raises InvalidInput.

    Without names it is all of them; the consumers only if the settings say where they answer.
    """
    found: list[str] = []
    for name in names or (*_DEFAULT, *(["consumer"] if _consumers(sink) else [])):
        checks = CHECKS.get(name) or ((name,) if any(name in group for group in CHECKS.values()) else ())
        if not checks:
            every = ", ".join(sorted({*CHECKS, *(check for group in CHECKS.values() for check in group)}))
            raise InvalidInput(f"--check {name!r}: there is no such check", hint=f"There are: {every}.")
        found += [check for check in checks if check not in found]
    return tuple(found)


class Checker:
    """Makes the checks named in `wanted`, as often as asked; logs in if they need it, and out at the end."""

    def __init__(
        self, layers: Layers, wanted: Sequence[str], *, api_url: str | None, broker_timeout_s: float = 5.0
    ) -> None:
        self._layers = layers
        self._settings = layers.settings()
        self._wanted = wanted
        self._broker_timeout_s = broker_timeout_s
        self._groups = [group for group, checks in CHECKS.items() if any(name in wanted for name in checks)]
        self.api_url = (api_url or own_url(self._settings.http)).rstrip("/")
        http_url(self.api_url)  # refused here once, not by each check
        self.kafka = _Login(layers)
        # A login of its own, so that the broker is checked even if the database is down.
        role = self._settings.deployment.database_role(SERVICE)
        self.database = _Login(layers, database_role=role)
        self._lock = threading.Lock()
        self._broker: Admin | None = None

    def __enter__(self) -> Checker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._broker is not None:
            self._broker.close()
        self.kafka.close()
        self.database.close()

    @property
    def admin(self) -> Admin:
        """Return the one client for the checks of the broker: a second takes as long as all its questions."""
        from bdlab.kafka.admin import Admin

        with self._lock:
            if self._broker is None:
                self._broker = Admin(self.kafka.session, client_id="bdlab-status", timeout_s=self._broker_timeout_s)
            return self._broker

    def report(self, timeout_s: float = 60.0) -> Report:
        """Make all checks at once; it takes at most as long as the slowest server's time-out, and `timeout_s`."""
        deadline, found = time.monotonic() + timeout_s, list[CheckResult]()
        pool = ThreadPoolExecutor(len(self._groups) + 2, thread_name_prefix="check")
        try:
            for login, groups in (
                (self.kafka, {"vault", "kafka", "log", "certificates"}),
                (self.database, {"postgres", "log"}),
            ):
                if groups & set(self._groups):
                    login.opening = pool.submit(login.open)
            for group, future in {name: pool.submit(getattr(self, f"_check_{name}")) for name in self._groups}.items():
                try:
                    found += future.result(max(0.0, deadline - time.monotonic()))
                except (TimeoutError, BdlabError) as error:
                    found += away(group, getattr(error, "message", f"no answer within {timeout_s:g} s"))
        finally:
            pool.shutdown(wait=False)
        return Report(tuple(result for result in compared_models(found) if result.name in self._wanted))

    def _check_vault(self) -> tuple[CheckResult, ...]:
        refusal = self.kafka.problem  # waits for the login, which the state tells of
        policy = self._settings.deployment.own(SERVICE)
        return vault_checks(self.kafka.session.state(), service=policy, refusal=refusal)

    def _check_kafka(self) -> tuple[CheckResult, ...]:
        if self.kafka.problem is not None:
            return unknown("kafka", "no login from Vault: " + self.kafka.problem.message)
        return broker_checks(self.admin.state())

    def _check_log(self) -> tuple[CheckResult, ...]:
        from bdlab.log_identity import refusals
        from bdlab.postgres.reader import Reader

        if (problem := self.kafka.problem or self.database.problem) is not None:
            return unknown("log", "no login from Vault: " + problem.message)
        try:
            with Reader(self.database.session, application_name="bdlab-status") as reader:
                ranges = self.admin.log_ranges()
                known = reader.known(ranges)
                read_records = self.admin.record_reader(ranges[0])
                return (log_check(ranges, known, refusals(ranges, known, read_records)),)
        except BdlabError as error:
            return unknown("log", f"it cannot be compared: {error.message}", error.hint)

    def _check_postgres(self) -> tuple[CheckResult, ...]:
        from bdlab.postgres.reader import Reader

        problem = self.database.problem
        if problem is not None:
            # Vault cannot make a user in a database that is down, which is no fault of Vault.
            state = DatabaseState(connected=False, problem=self._why_no_database(problem))
            if state.problem:
                return database_checks(state, lease_ttl_s=None)
            return unknown("postgres", "no login from Vault: " + problem.message, problem.hint)
        with Reader(self.database.session, application_name="bdlab-status") as reader:
            state = reader.state(deployment=self._settings.deployment)
        return database_checks(state, lease_ttl_s=self.database.session.state().lease_ttl_s)

    def _why_no_database(self, problem: BdlabError) -> str:
        """Return why the database accepts no connections; empty if something else is wrong."""
        if not self.database.session.state().connected:
            return ""  # Vault cannot say where the database is; asking would only cost the time-out
        try:
            found, _ = self.database.session.read_secret("database/credentials")
        except BdlabError:
            return ""
        host, port = found.get("host", ""), found.get("port", "")
        closed = why_closed(host, int(port)) if host and port.isdigit() else ""
        # Vault answers, but makes no user: the database may be starting or recovering.
        return closed or (problem.message if isinstance(problem, VaultUnavailable) else "")

    def _check_model(self) -> tuple[CheckResult, ...]:
        from bdlab.model import load_scorer

        try:
            scorer = load_scorer(self._settings.model.path)
        except BdlabError as error:
            return (failed("model", error),)
        message = f"{scorer.name}, sha256 {scorer.sha256[:12]}"
        return (CheckResult("model", "healthy", message, detail={"name": scorer.name, "sha256": scorer.sha256}),)

    def _check_api(self) -> tuple[CheckResult, ...]:
        return (api_check(self.api_url, ca_file=own_ca_file(self._settings.http)),)

    def _check_certificates(self) -> tuple[CheckResult, ...]:
        """Check each server that speaks TLS, as far as Vault says where it is."""
        vault, found = self._settings.vault, []
        for name, url, ca_file in (
            ("vault.certificate", vault.address, vault.ca_file),
            ("api.certificate", self.api_url, own_ca_file(self._settings.http)),
        ):
            place = urlsplit(url)
            if place.scheme == "https" and place.hostname:
                found.append(certificate_check(name, place.hostname, place.port or 443, ca_file=ca_file))
        if self.kafka.problem is None:
            found += self._certificates_by_vault()
        else:
            why = f"no login from Vault: {self.kafka.problem.message}"
            found += [not_made(name, why) for name in ("kafka.certificate", "postgres.certificate")]
        return tuple(sorted(found, key=lambda check: CHECKS["certificates"].index(check.name)))

    def _certificates_by_vault(self) -> Iterator[CheckResult]:
        login = self.kafka.session.kafka()
        if login.server.security_protocol.endswith("SSL"):
            try:
                host, port = login.server.servers()[0]
                yield certificate_check("kafka.certificate", host, port, ca_pem=login.ca_pem)
            except BdlabError as error:
                yield failed("kafka.certificate", error)
        try:
            database, _ = self.kafka.session.read_secret("database/credentials")
        except BdlabError as error:
            yield failed("postgres.certificate", error)
            return
        host = database.get("host", "")
        if database.get("sslmode") in {"verify-ca", "verify-full"} and not host.startswith("/"):
            ca_pem = database.get("ca_pem", "")
            yield certificate_check(
                "postgres.certificate", host, int(database.get("port", "")), ca_pem=ca_pem, postgres=True
            )

    def _check_consumer(self) -> tuple[CheckResult, ...]:
        urls = _consumers(self._settings.sink)
        if not urls:
            hint = "Set BDLAB_SINK_METRICS_PORT to the port that `bdlab consume` has, or BDLAB_SINK_URLS."
            return unknown("consumer", "no address is known for it", hint)
        ca_file = self._settings.http.ca_file or self._settings.sink.tls_cert_file
        return (consumer_check(urls, ca_file=ca_file),)


class _Login:
    """A Vault session for the database or else for Kafka, opened without waiting, and again if that failed.

    `opening` is its last opening, which may be going on.
    """

    def __init__(self, layers: Layers, *, database_role: str | None = None) -> None:
        self._layers = layers
        self._database_role = database_role
        self._opened = False
        self.opening: Future[BdlabError | None] | None = None

    @cached_property
    def session(self) -> VaultSession:
        from bdlab.vault.session import VaultSession

        role = self._database_role
        return VaultSession(self._layers, service=SERVICE, database_role=role, kafka=role is None, daemon=False)

    @property
    def problem(self) -> BdlabError | None:
        """Return why it is not open, once the opening is over."""
        return self.opening.result() if self.opening is not None else None

    def open(self) -> BdlabError | None:
        """Open it unless it is open, and return why that failed."""
        try:
            if not self._opened:
                self.session.open(0)
            self._opened = True
        except BdlabError as error:
            return error
        return None

    def close(self) -> None:
        if self.opening is not None:
            self.session.close()


def own_ca_file(http: HttpSettings) -> str:
    """Return the CA file that verifies the API; a self-signed certificate is its own authority."""
    return http.ca_file or http.tls_cert_file


def own_url(http: HttpSettings) -> str:
    """Return the API's URL as its own settings say."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(http.host, http.host)  # noqa: S104 - replaced
    return f"{'https' if http.tls_cert_file else 'http'}://{host}:{http.port}"


def _consumers(sink: SinkSettings) -> list[str]:
    """Return the URLs of the consumers' metrics, as far as the settings say."""
    if sink.urls:
        return [url.strip().rstrip("/") for url in sink.urls.split(",") if url.strip()]
    scheme = "https" if sink.tls_cert_file else "http"
    return [f"{scheme}://127.0.0.1:{sink.metrics_port}"] if sink.metrics_port > 0 else []
