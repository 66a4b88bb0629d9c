"""What `bdlab doctor` looks at: all servers at once, each for a bounded time, and the files of a local stack."""

import asyncio
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

from bdlab.forked import Forked
from bdlab.health import CachedProbe, Report
from bdlab.health.checks import CHECKS
from bdlab.health.findings import Diagnosis, Facts, Share, by_gravity, masked, of_facts, of_settings
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
from bdlab.vault.identity import Identity
from bdlab_cli.output.findings import of_layers
from bdlab_cli.wiring.checks import Checker, own_ca_file
from bdlab_cli.wiring.session import impatient

_BROKER_S, _CHECKS_S, _FACTS_S, _BETWEEN_LOOKS_S = 3.0, 8.0, 5.0, 3.0
_ERROR = re.compile(r'\b(ERROR|FATAL|PANIC)\b|"level": ?"(error|critical)"')
_UNKNOWN = {
    "API keys": "the identity of `status` may not read them: `bdlab api-key list`",
    "disks of other machines": "only this machine's files can be seen",
}


def examine(layers: Layers, folder: DataFolder, *, api_url: str | None) -> Diagnosis:
    """Look at everything, which takes at most about 15 s, and return what was found."""
    every = [name for group in CHECKS.values() for name in group]
    with (
        Forked(group_members, "describes the consumer group", 1, hint="The broker went away: try again.") as child,
        Checker(impatient(layers), every, api_url=api_url, broker_timeout_s=_BROKER_S) as checker,
    ):
        return _Examination(layers, folder, checker, child).made()


class _Examination:
    """Its looks put what they see into `_facts`, and return why they could see nothing."""

    def __init__(self, layers: Layers, folder: DataFolder, checker: Checker, child: Forked) -> None:
        self._layers, self._folder, self._checker, self._child = layers, folder, checker, child
        self._facts, self._report, self._reported_at = Facts(), Report(()), 0.0
        self._vault: Values = {}

    def made(self) -> Diagnosis:
        missing = _UNKNOWN | self._take(
            _CHECKS_S + 1,
            checks=self._checks,
            clock_of_the_api=self._clock_of_the_api,
            clock_of_vault=self._clock_of_vault,
            local_stack=self._local_stack,
        )
        missing |= self._take(
            _FACTS_S,
            settings_in_vault=self._settings_in_vault,
            postgres=self._postgres,
            group=self._group,
            lag=self._lag,
        )
        checks, facts, now = {check.name: check for check in self._report.checks}, self._facts, datetime.now(UTC)
        missing |= {name: each.message for name, each in checks.items() if each.state == "unknown"}
        facts.versions |= {name: version(name) for name in ("bdlab", "confluent-kafka", "psycopg2-binary", "hvac")}
        facts.versions |= {"Python": platform.python_version(), "librdkafka": LIBRDKAFKA, "libpq": LIBPQ}
        facts.versions["machine"] = f"{platform.platform()}, {os.cpu_count()} CPUs"
        facts.versions |= {name: checks[name].message for name in ("postgres.reachable", "postgres.schema") if checks}
        settings, defaults = self._layers.settings(self._vault), of_layers(Layers({}, {}, {}, source=""), {})
        own = zip(of_layers(self._layers, self._vault), defaults, strict=True)
        facts.settings = [each for each, default in own if each["value"] != default["value"]]
        fitting = of_settings(settings, lease_s=checks["postgres.lease"].detail.get("ttl_s") if checks else None)
        found = by_gravity([*of_facts(facts, self._report.checks, now), *fitting])
        ill = not checks or (bool(found) and found[0].gravity == "critical")
        return Diagnosis("unhealthy" if ill else "healthy", now, found, self._report.checks, facts, missing)

    def _take(self, timeout_s: float, **looks: Callable[[], str | None]) -> dict[str, str]:
        """Take the looks at once, for at most so long; return why some failed."""

        async def taken() -> list[str | None]:
            probes = [CachedProbe(look, str, name, timeout_s=timeout_s) for name, look in looks.items()]
            return await asyncio.gather(*(probe.get_async() for probe in probes))

        return {name: why for name, why in zip(looks, asyncio.run(taken()), strict=True) if why}

    def _checks(self) -> None:
        self._report = self._checker.report(_CHECKS_S)
        self._reported_at = time.monotonic()
        details = {check.name: check.detail for check in self._report.checks}
        self._facts.lag = details["kafka.lag"].get("lag_events")
        self._facts.partitions = details["kafka.topic"].get("partitions", 0)

    def _clock_of_vault(self) -> None:
        vault = self._layers.settings().vault
        self._facts.versions["Vault"] = VaultClient(vault).health(timeout_s=_BROKER_S).version
        self._facts.clocks_ms["Vault"] = clock_ahead_ms(f"{vault.address}/v1/sys/health", ca_file=vault.ca_file)

    def _clock_of_the_api(self) -> None:
        url, ca_file = f"{self._checker.api_url}/health/live", own_ca_file(self._layers.settings().http)
        self._facts.clocks_ms["the API"] = clock_ahead_ms(url, ca_file=ca_file)

    def _settings_in_vault(self) -> str | None:
        if not (problem := self._checker.kafka.problem):
            self._vault = self._checker.kafka.session.layer()
        return problem.message if problem else None

    def _postgres(self) -> str | None:
        if problem := self._checker.database.problem:
            return problem.message
        with Reader(self._checker.database.session, application_name="bdlab-doctor") as reader:
            began = time.time()
            seconds, used, limit = reader.server()
            self._facts.clocks_ms["PostgreSQL"] = round((seconds - (began + time.time()) / 2) * 1000)
            hint = "Raise max_connections, or see who holds them (pg_stat_activity)."
            self._facts.shares["connections of PostgreSQL"] = Share(used, limit, "connections", hint)
            for place, at, code, why in reader.newest_open():
                self._facts.dead_letters[place] = f"{at:%Y-%m-%dT%H:%M:%SZ} {code} {masked(why)}"
        return None

    def _group(self) -> str | None:
        if self._facts.lag is None:
            return "no broker tells of it"
        if any(str(each.detail.get("cluster_id", "")).startswith(MEMORY_ONLY_ID) for each in self._report.checks):
            return "a broker in memory does not tell of it"
        (self._facts.members,) = self._child.results([self._checker.kafka.session.kafka()], lambda: False)
        return None

    def _lag(self) -> str | None:
        if (before := self._facts.lag) is None:
            return "no broker tells of it"
        time.sleep(max(0.0, self._reported_at + _BETWEEN_LOOKS_S - time.monotonic()))
        self._facts.lag = after = self._checker.admin.state().consumer_lag
        if after is not None:
            self._facts.lag_per_s = (after - before) / (time.monotonic() - self._reported_at)
        return None

    def _local_stack(self) -> str | None:
        for path in self._layers.settings().vault.identities.glob("*/wrapped_secret_id"):
            if delivery := Identity(path.parent, service=path.parent.name).wrapped_secret_id():
                self._facts.unclaimed[path.parent.name] = delivery.expires_at
        if not self._folder.path.is_dir():
            return f"there is no data folder {self._folder.path} (--data-dir)"
        disk, shares = shutil.disk_usage(self._folder.path), self._facts.shares
        hint = "Make room (docs/operations.md, A disk is full)."
        shares[f"disk of {self._folder.path}"] = Share(disk.total - disk.free, disk.total, "bytes", hint)
        for pid in self._folder.processes():
            place = Path(f"/proc/{pid}")
            with suppress(OSError, AttributeError, ValueError):
                limit = int(re.search(r"^Max open files +(\d+)", (place / "limits").read_text(), re.MULTILINE)[1])  # type: ignore[index]
                used, name = len([*(place / "fd").iterdir()]), f"open files of {(place / 'comm').read_text().strip()}"
                if name not in shares or used > shares[name].used:  # of several processes the fullest
                    shares[name] = Share(used, limit, "files", "Raise its limit (`ulimit -n`), or restart it.")
        for file in sorted(self._folder.logs.glob("*.log")):
            if lines := [*filter(None, map(of_log, tail(file, 1000).splitlines()))]:
                self._facts.log_errors[file.name] = lines[-3:]
        return None


def of_log(line: str) -> str:
    """Return the moment and the message of a log's line about an error, else nothing; other fields may quote a user."""
    if not (level := _ERROR.search(line)):
        return ""
    with suppress(ValueError, KeyError):
        fields = json.loads(line)
        return f"{fields['timestamp']} {fields['event']}"
    return line[: level.end()] + masked(line[level.end() :])[:200]
