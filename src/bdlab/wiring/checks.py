"""The checks of `bdlab status` over the real servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property, partial
from itertools import chain
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bdlab.credentials import FeedbackTopic
from bdlab.errors import BdlabError, InvalidInput, TopicMissing, VaultUnavailable
from bdlab.health import CHECKS, CachedProbe, CheckResult, Report, at_once, checks, healthy, not_made
from bdlab.health.checks import unknown
from bdlab.health.remote import api_check, certificate_check, consumer_check, why_closed
from bdlab.probes import DatabaseState
from bdlab.settings import HttpSettings, Layers, SinkSettings, http_url
from bdlab.values import listed

if TYPE_CHECKING:
    from bdlab.kafka.admin import Admin
    from bdlab.postgres.reader import Reader
    from bdlab.vault.session import VaultSession

_DEFAULT = ("vault", "kafka", "feedback", "postgres", "log", "model", "api", "certificates")


def chosen(names: Sequence[str], sink: SinkSettings) -> tuple[str, ...]:
    """Return the names of all checks that `names` (checks and groups) stand for. Raises InvalidInput. Without names it
    is all of them; the consumers only if the settings say where they answer."""
    known = {**{check: (check,) for group in CHECKS.values() for check in group}, **CHECKS}
    wanted = names or (*_DEFAULT, *(["consumer"] if _consumers(sink) else []))
    if strange := [name for name in wanted if name not in known]:
        hint = f"There are: {', '.join(sorted(known))}."
        raise InvalidInput(f"--check {strange[0]!r}: there is no such check", hint=hint)
    return tuple(dict.fromkeys(check for name in wanted for check in known[name]))


class Checker(ExitStack):
    """Makes the checks named in `wanted`, as often as asked; logs in if they need it, and out at the end."""

    def __init__(
        self,
        layers: Layers,
        wanted: Sequence[str],
        *,
        api_url: str | None,
        broker_timeout_s: float = 5.0,
        service: str = "status",
    ) -> None:
        super().__init__()
        self._service, self._client = service, f"bdlab-{service}"
        self._settings = layers.settings()
        self._wanted, self._broker_timeout_s = wanted, broker_timeout_s
        self._groups = [group for group, names in CHECKS.items() if any(name in wanted for name in names)]
        self.api_url = (api_url or own_url(self._settings.http)).rstrip("/")
        http_url(self.api_url)  # refused here once, not by each check
        # A login of its own for the database, so that the broker is checked even if the database is down.
        self.kafka = _Login(layers, service, None)
        self.database = _Login(layers, service, self._settings.deployment.database_role(service))
        self._lock = threading.Lock()
        self._brokers: dict[bool, Admin] = {}
        self.callback(self.kafka.close)
        self.callback(self.database.close)

    def admin(self, *, of_feedback: bool = False) -> Admin:
        """Return the one client for a topic's checks: a second takes as long as all its questions."""
        from bdlab.kafka.admin import Admin

        with self._lock:
            if (known := self._brokers.get(of_feedback)) is None:
                session, name = self.kafka.opened, f"{self._client}{'-feedback' if of_feedback else ''}"
                credentials = FeedbackTopic(session) if of_feedback else session
                known = Admin(credentials, client_id=name, timeout_s=self._broker_timeout_s)
                self._brokers[of_feedback] = known
                self.callback(known.close)
            return known

    def report(self, timeout_s: float = 60.0) -> Report:
        """Make all checks at once; it takes at most as long as the slowest server's time-out, and `timeout_s`."""
        self.kafka.again()
        self.database.again()
        looks = {group: getattr(self, f"_check_{group}") for group in self._groups}
        found = at_once(
            CachedProbe(look, partial(checks.away, name), name, timeout_s=timeout_s) for name, look in looks.items()
        )
        return Report(tuple(one for one in checks.compared_models([*chain(*found)]) if one.name in self._wanted))

    def _check_vault(self) -> tuple[CheckResult, ...]:
        refusal = self.kafka.problem  # waits for the login, which the state tells of
        policy = self._settings.deployment.own(self._service)
        return checks.vault_checks(self.kafka.session.state(), service=policy, refusal=refusal)

    def _check_kafka(self) -> tuple[CheckResult, ...]:
        try:
            return checks.broker_checks(self.admin().state())
        except NoLogin as error:
            return unknown("kafka", error.message)

    def _check_feedback(self) -> tuple[CheckResult, ...]:
        try:
            return checks.topic_checks("feedback", self.admin(of_feedback=True).state())
        except NoLogin as error:
            return unknown("feedback", error.message)

    def _check_log(self) -> tuple[CheckResult, ...]:
        from bdlab.postgres.reader import Reader

        try:
            with Reader(self.database.opened, application_name=self._client) as reader:
                found = [self._log_of(self.admin(), reader)]
                with suppress(TopicMissing):  # which another check says
                    found.append(self._log_of(self.admin(of_feedback=True), reader))
                return (next((one for one in found if one.state != "healthy"), found[0]),)
        except BdlabError as error:
            return unknown("log", f"it cannot be compared: {error.message}", error.hint)

    @staticmethod
    def _log_of(admin: Admin, reader: Reader) -> CheckResult:
        from bdlab.log_identity import refusals

        ranges = admin.log_ranges()
        known = reader.known(ranges)
        return checks.log_check(ranges, known, refusals(ranges, known, admin.record_reader(ranges[0])))

    def _check_postgres(self) -> tuple[CheckResult, ...]:
        from bdlab.postgres.reader import Reader

        if (problem := self.database.problem) is not None:
            # Vault cannot make a user in a database that is down, which is no fault of Vault.
            state = DatabaseState(connected=False, problem=self._why_no_database(problem))
            if state.problem:
                return checks.database_checks(state, lease_ttl_s=None)
            return unknown("postgres", f"no login from Vault: {problem.message}", problem.hint)
        with Reader(self.database.session, application_name=self._client) as reader:
            state = reader.state(deployment=self._settings.deployment)
        return checks.database_checks(state, lease_ttl_s=self.database.session.state().lease_ttl_s)

    def _why_no_database(self, problem: BdlabError) -> str:
        """Return why the database accepts no connections; empty if something else is wrong."""
        if not self.database.session.state().connected:
            return ""  # Vault cannot say where the database is; asking would only cost the time-out
        closed = ""
        with suppress(BdlabError, KeyError, ValueError):
            found, _ = self.database.session.read_secret("database/credentials")
            closed = why_closed(found["host"], int(found["port"]))
        # Vault answers, but makes no user: the database may be starting or recovering.
        return closed or (problem.message if isinstance(problem, VaultUnavailable) else "")

    def _check_model(self) -> tuple[CheckResult, ...]:
        from bdlab.model import load_scorer
        from bdlab.model.registry import path_of

        try:
            scorer = load_scorer(path_of(self._settings))
        except BdlabError as error:
            return (CheckResult("model", "unhealthy", error.message, error.hint),)
        message = f"{scorer.name}, sha256 {scorer.sha256[:12]}"
        return (healthy("model", message, name=scorer.name, sha256=scorer.sha256),)

    def _check_api(self) -> tuple[CheckResult, ...]:
        return (api_check(self.api_url, ca_file=own_ca_file(self._settings.http)),)

    def _check_certificates(self) -> tuple[CheckResult, ...]:
        found = [*self._certificates_by_vault()]
        vault, api_ca_file = self._settings.vault, own_ca_file(self._settings.http)
        for name, url, ca_file in (
            ("vault.certificate", vault.address, vault.ca_file),
            ("api.certificate", self.api_url, api_ca_file),
        ):
            place = urlsplit(url)
            if place.scheme == "https" and place.hostname:
                found.append(certificate_check(name, place.hostname, place.port or 443, ca_file=ca_file))
        return tuple(sorted(found, key=lambda check: CHECKS["certificates"].index(check.name)))

    def _certificates_by_vault(self) -> Iterator[CheckResult]:
        left = ["kafka.certificate", "postgres.certificate"]
        try:
            login = self.kafka.opened.kafka()
            if login.server.security_protocol.endswith("SSL"):
                yield certificate_check(left[0], *login.server.servers()[0], ca_pem=login.ca_pem)
            left.pop(0)
            database, _ = self.kafka.session.read_secret("database/credentials")
            host, port, ca_pem = (database.get(field, "") for field in ("host", "port", "ca_pem"))
            if database.get("sslmode") in {"verify-ca", "verify-full"} and not host.startswith("/"):
                yield certificate_check(left[0], host, int(port), ca_pem=ca_pem)
        except BdlabError as error:
            yield from (not_made(name, error.message, error.hint) for name in left)

    def _check_consumer(self) -> tuple[CheckResult, ...]:
        urls = _consumers(self._settings.sink)
        if not urls:
            hint = "Set BDLAB_SINK_METRICS_PORT to the port that `bdlab consume` has, or BDLAB_SINK_URLS."
            return unknown("consumer", "no address is known for it", hint)
        ca_file = self._settings.http.ca_file or self._settings.sink.tls_cert_file
        return (consumer_check(urls, ca_file=ca_file),)


class NoLogin(BdlabError):
    """Vault gave no login."""


class _Login:
    """A Vault session for the database or else for Kafka, opened if it is needed."""

    def __init__(self, layers: Layers, service: str, database_role: str | None) -> None:
        self._layers, self._service, self._role, self._lock = layers, service, database_role, threading.Lock()
        self._due = True
        self._failure: BdlabError | None = None

    @cached_property
    def session(self) -> VaultSession:
        from bdlab.vault.session import VaultSession

        kafka = self._role is None
        return VaultSession(self._layers, service=self._service, database_role=self._role, kafka=kafka, daemon=False)

    def again(self) -> None:
        """Open it once more when it is needed, if that failed."""
        self._due |= self._failure is not None

    @property
    def problem(self) -> BdlabError | None:
        """Return why it cannot be opened."""
        with self._lock:
            if self._due:
                self._due, self._failure = False, None
                try:
                    self.session.open(0)
                except BdlabError as error:
                    self._failure = error
            return self._failure

    @property
    def opened(self) -> VaultSession:
        """Return the session, open. Raises NoLogin."""
        if (problem := self.problem) is not None:
            raise NoLogin(f"no login from Vault: {problem.message}", hint=problem.hint)
        return self.session

    def close(self) -> None:
        if "session" in vars(self):
            self.session.close()


def own_ca_file(http: HttpSettings) -> str:
    """Return the CA file that verifies the API; a self-signed certificate is its own authority."""
    return http.ca_file or http.tls_cert_file


def own_url(http: HttpSettings) -> str:
    """Return the API's URL as its own settings say."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(http.host, http.host)  # noqa: S104 - replaced
    return f"{'https' if http.tls_cert_file else 'http'}://{host}:{http.port}"


def _consumers(sink: SinkSettings) -> list[str]:
    if sink.urls:
        return [url.rstrip("/") for url in listed(sink.urls)]
    scheme = "https" if sink.tls_cert_file else "http"
    return [f"{scheme}://127.0.0.1:{sink.metrics_port}"] if sink.metrics_port > 0 else []
