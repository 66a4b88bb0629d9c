"""What `bdlab doctor` looks at: all servers at once, each for a bounded time, and the files of a local stack."""

import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from resource import RLIMIT_NOFILE, prlimit

from bdlab.credentials import FeedbackTopic
from bdlab.errors import BrokerUnavailable, InvalidInput
from bdlab.forked import Forked
from bdlab.health import CHECKS, CachedProbe, CheckResult, at_once
from bdlab.health.findings import Diagnosis, Facts, Share, by_gravity, masked, of_facts, of_layers, of_settings
from bdlab.health.remote import clock_ahead_ms
from bdlab.kafka.admin import group_members
from bdlab.kafka.connection import LIBRDKAFKA
from bdlab.postgres.reader import Reader
from bdlab.postgres.session import LIBPQ
from bdlab.probes import MEMORY_ONLY_ID
from bdlab.settings import Layers, Values
from bdlab.stack import DataFolder
from bdlab.stack.servers.process import tail
from bdlab.vault.client import VaultClient
from bdlab.wiring.checks import Checker, chosen, own_ca_file

_BROKER_S, _CHECKS_S, _FACTS_S, _BETWEEN_LOOKS_S = 3.0, 8.0, 5.0, 3.0
_ERROR = re.compile(r'\b(ERROR|FATAL|PANIC)\b|"level": ?"(error|critical)"')
_UNKNOWN = {
    "API keys": "the identity of `status` may not read them: `bdlab api-key list`",
    "disks of other machines": "only this machine's files can be seen",
}


def examine(layers: Layers, folder: DataFolder, *, api_url: str | None, service: str = "status") -> Diagnosis:
    """Look at everything, which takes at most about 15 s, and return what was found."""
    with (
        Forked(group_members, "describes the consumer group", 1, hint="The broker went away: try again.") as child,
        _Examination(layers, folder, child, api_url, service) as examination,
    ):
        return examination.diagnosis()


class _Examination(Checker):
    """Its looks put what they see into `_facts`, and raise a BdlabError if they could see nothing."""

    def __init__(self, layers: Layers, folder: DataFolder, child: Forked, api_url: str | None, service: str) -> None:
        every = chosen(tuple(CHECKS), layers.settings().sink)
        super().__init__(layers.impatient(), every, api_url=api_url, broker_timeout_s=_BROKER_S, service=service)
        self._layers, self._folder, self._child, self._facts = layers, folder, child, Facts()
        self._checks: dict[str, CheckResult] = {}
        self._checked_at = 0.0
        self._vault: Values = {}

    def diagnosis(self) -> Diagnosis:
        missing = _UNKNOWN | self._take(
            _CHECKS_S + 1, self._all_checks, self._clock_of_the_api, self._clock_of_vault, self._local_stack
        )
        missing |= self._take(_FACTS_S, self._settings_in_vault, self._postgres, self._group, self._lag)
        checks, facts, now = self._checks, self._facts, datetime.now(UTC)
        missing |= {name: each.message for name, each in checks.items() if each.state == "unknown"}
        machine = f"{platform.platform()}, {os.cpu_count()} CPUs"
        own = {"Python": platform.python_version(), "librdkafka": LIBRDKAFKA, "libpq": LIBPQ, "machine": machine}
        packages = ("bdlab", "confluent-kafka", "psycopg2-binary", "hvac")
        facts.versions |= own | {name: version(name) for name in packages}
        facts.versions |= {name: checks[name].message for name in ("postgres.reachable", "postgres.schema") if checks}
        facts.settings = [each for each in of_layers(self._layers, self._vault) if each["from"] != "default"]
        lease_s = checks["postgres.lease"].detail.get("ttl_s") if checks else None
        fitting = of_settings(self._layers.settings(self._vault), lease_s=lease_s)
        found = by_gravity([*of_facts(facts, checks.values()), *fitting])
        ill = not checks or (bool(found) and found[0].gravity == "critical")
        return Diagnosis("unhealthy" if ill else "healthy", now, found, (*checks.values(),), facts, missing)

    def _take(self, timeout_s: float, *looks: Callable[[], None]) -> dict[str, str]:
        """Take the looks at once, for at most so long; return why some failed."""
        probes = [CachedProbe[str | None](look, str, look.__name__.strip("_"), timeout_s=timeout_s) for look in looks]
        return {probe.name: why for probe, why in zip(probes, at_once(probes), strict=True) if why}

    def _all_checks(self) -> None:
        self._checks = {check.name: check for check in self.report(_CHECKS_S).checks}
        self._checked_at = time.monotonic()
        for group, facts in (("kafka", self._facts), ("feedback", self._facts.feedback)):
            facts.lag = self._checks[f"{group}.lag"].detail.get("lag_events")
            facts.partitions = self._checks[f"{group}.topic"].detail.get("partitions", 0)

    def _clock_of_vault(self) -> None:
        vault = self._settings.vault
        self._facts.versions["Vault"] = VaultClient(vault).health(timeout_s=_BROKER_S).version
        self._facts.clocks_ms["Vault"] = clock_ahead_ms(f"{vault.address}/v1/sys/health", ca_file=vault.ca_file)

    def _clock_of_the_api(self) -> None:
        url, ca_file = f"{self.api_url}/health/live", own_ca_file(self._settings.http)
        self._facts.clocks_ms["the API"] = clock_ahead_ms(url, ca_file=ca_file)

    def _settings_in_vault(self) -> None:
        self._vault = self.kafka.opened.layer()

    def _postgres(self) -> None:
        with Reader(self.database.opened, application_name="bdlab-doctor") as reader:
            began = time.time()
            seconds, used, limit = reader.rows("server")[0]
            self._facts.clocks_ms["PostgreSQL"] = round((seconds - (began + time.time()) / 2) * 1000)
            self._facts.shares["connections of PostgreSQL"] = Share(used, limit, "connections")
            for place, at, code, why in reader.rows("newest_open"):
                self._facts.dead_letters[place] = f"{at:%Y-%m-%dT%H:%M:%SZ} {code} {masked(why)}"

    def _group(self) -> None:
        if self._facts.lag is None or self._checks["kafka.brokers"].detail["cluster_id"].startswith(MEMORY_ONLY_ID):
            raise BrokerUnavailable("no broker tells of it (one in memory never does)")
        logins = [self.kafka.session.kafka(), FeedbackTopic(self.kafka.session).kafka()]
        self._facts.members, self._facts.feedback.members = self._child.results(logins, lambda: False)

    def _lag(self) -> None:
        if self._facts.lag is None:
            raise BrokerUnavailable("no broker tells of it")
        time.sleep(max(0.0, self._checked_at + _BETWEEN_LOOKS_S - time.monotonic()))
        for facts, of_feedback in ((self._facts, False), (self._facts.feedback, True)):
            before, facts.lag = facts.lag, self.admin(of_feedback=of_feedback).state().consumer_lag
            if before is not None and facts.lag is not None:
                facts.lag_per_s = (facts.lag - before) / (time.monotonic() - self._checked_at)

    def _local_stack(self) -> None:
        if not self._folder.path.is_dir():
            raise InvalidInput(f"there is no data folder {self._folder.path} (--data-dir)")
        disk, shares = shutil.disk_usage(self._folder.path), self._facts.shares
        shares[f"disk of {self._folder.path}"] = Share(disk.total - disk.free, disk.total, "bytes")
        for place in (Path(f"/proc/{pid}") for pid in self._folder.processes()):
            with suppress(OSError):  # it ended, or is another user's
                name = f"open files of {(place / 'comm').read_text().strip()}"
                used, (limit, _) = len([*(place / "fd").iterdir()]), prlimit(int(place.name), RLIMIT_NOFILE)
                if name not in shares or used > shares[name].used:  # of several processes the fullest
                    shares[name] = Share(used, limit, "files")
        for file in sorted(self._folder.logs.glob("*.log")):
            if lines := [*filter(None, map(of_log, tail(file, 1000).splitlines()))]:
                self._facts.log_errors[file.name] = lines[-3:]


def of_log(line: str) -> str:
    """Return the moment and the message of a log's line about an error, else nothing; other fields may quote a user."""
    if not (level := _ERROR.search(line)):
        return ""
    with suppress(ValueError, KeyError):
        fields = json.loads(line)
        return f"{fields['timestamp']} {fields['event']}"
    return line[: level.end()] + masked(line[level.end() :])[:200]
