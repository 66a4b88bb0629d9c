"""The pipeline as it runs: the state of each part, what flows between them, and what `bdlab doctor` finds."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from math import isfinite
from typing import Any, NamedTuple

import msgspec
from litestar import Request, get, post
from litestar.response import Redirect, Template

from bdlab.errors import TopicMissing
from bdlab.health import CheckResult, Report, State, healthy, not_made, unhealthy
from bdlab.health.findings import Diagnosis
from bdlab.health.remote import fetch
from bdlab.ledger import LogPartition, log_partition
from bdlab.stack import DataFolder
from bdlab.wiring.checks import own_ca_file
from bdlab.wiring.doctor import examine
from bdlab_console.parts import SERVICE, Console
from bdlab_console.rendering import page

_KEEP_S, _DOCTOR_S, _WAIT_S = 5.0, 60.0, 0.8
_ASKED = re.compile(rb"^bdlab_predictions_total{[^}]*} (\S+)$", re.MULTILINE)
#: Each part: its name, what it is, what the names of its checks begin with, and those that say how it is.
_PARTS: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]] = {
    "serve": ("bdlab serve", "HTTP API: scores, waits for the ack", ("api",), ("api",)),
    "kafka": (
        "Kafka",
        "the log of each topic",
        ("kafka.brokers", "kafka.topic", "feedback.topic", "log", "kafka.cert"),
        ("kafka.topic", "feedback.topic"),
    ),
    "consume": ("bdlab consume", "one transaction a batch", ("consumer", "kafka.lag", "feedback.lag"), ("kafka.lag",)),
    "postgres": ("PostgreSQL", "duplicates, dead letters and offsets too", ("postgres.",), ("postgres.rows",)),
    "vault": ("Vault", "identities, database leases, Kafka users, certificates", ("vault.",), ("vault.unsealed",)),
}


class Lane(NamedTuple):
    """A partition of a log: the next offset to be written, and up to which offset it is stored."""

    log: LogPartition
    end: int
    stored: int

    @property
    def lag(self) -> int:
        return max(0, self.end - self.stored)


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """The lanes, and how many events a second were asked for, published and stored in the `over_s` seconds before;
    what is not known is not in `rates`."""

    at: float
    lanes: list[Lane]
    counts: dict[str, float]
    rates: dict[str, float] = {}
    over_s: float = 0.0

    @property
    def lag(self) -> int:
        return sum(lane.lag for lane in self.lanes)


class Part(NamedTuple):
    """A part, what its checks say, and since when the console has seen it in that state."""

    key: str
    name: str
    what: str
    message: str
    state: State
    since: datetime


class Pipeline:
    """What is looked at for all who look at the page; each method blocks."""

    def __init__(self, parts: Console) -> None:
        self._parts, self._ca_file = parts, own_ca_file(parts.settings.http)
        self._flow: Flow | None = None
        self._since: dict[str, tuple[str, datetime]] = {}
        self.keep_s = _KEEP_S  # longer if the checks take long while all is well: they count rows

    def report(self) -> Report:
        """Make the checks of `bdlab status`."""
        began = time.monotonic()
        found = self._parts.checker.report(8.0).checks
        well = all(check.state == "healthy" for check in found)
        self.keep_s = max(_KEEP_S, 5 * (time.monotonic() - began) if well else 0)
        if not any(check.name == "consumer" for check in found):
            found = (*found, self._consumer())
        return Report(found)

    def _consumer(self) -> CheckResult:
        """Judge the consumers by what they store, as nobody says where they answer."""
        flow = self._flow
        if flow and (rate := flow.rates.get("stored")):
            return healthy("consumer", f"stores {rate:.1f} events a second")
        if flow and flow.lag and "stored" in flow.rates:
            return unhealthy("consumer", f"{flow.lag} events wait, and none was stored in {flow.over_s:.0f} s")
        hint = "Set BDLAB_SINK_URLS to where the consumers have --metrics-port."
        return not_made("consumer", "nothing is stored now, and no address is known for the consumers", hint)

    def parts(self, report: Report) -> dict[str, Part]:
        """Return the parts, each with what its gravest check says."""
        found = {}
        for key, (name, what, begin, tell) in _PARTS.items():
            checks = [check for check in report.checks if check.name.startswith(begin)]
            state = Report(tuple(checks)).state
            check = next((each for each in checks if each.state == state), not_made(key, "not looked at yet"))
            if self._since.get(key, ("",))[0] != state:
                self._since[key] = state, datetime.now(UTC)
            told = "; ".join(each.message for each in checks if each.name in tell)
            found[key] = Part(
                key, name, what, told if state == "healthy" else check.message, state, self._since[key][1]
            )
        return found

    def flow(self) -> Flow:
        """Read the logs' ends, then up to where each is stored. Raises BrokerError, DatabaseError, VaultError."""
        ranges = self._parts.predictions.log_ranges()
        with suppress(TopicMissing):  # a check says so
            ranges += self._parts.feedback.log_ranges()
        recorded = self._parts.reader.next_offsets()
        lanes = [Lane(at := log_partition(each), each.end, recorded.get(at, each.start)) for each in ranges]
        counts: dict[str, float] = {"published": sum(each.end for each in lanes)}
        counts["stored"] = sum(each.stored for each in lanes)
        if told := _ASKED.findall(fetch(f"{self._parts.api_url}/metrics", self._ca_file, timeout_s=1.0)[1]):
            counts["asked"] = sum(map(float, told))
        now, before = time.monotonic(), self._flow
        found = Flow(at=now, lanes=lanes, counts=counts)
        if before and [each.log for each in before.lanes] == [each.log for each in lanes]:
            pairs = {name: (count, before.counts[name]) for name, count in counts.items() if name in before.counts}
            rates = {name: max(0.0, one - other) / (now - before.at) for name, (one, other) in pairs.items()}
            found = msgspec.structs.replace(found, rates=rates, over_s=now - before.at)
        self._flow = found
        return found

    def diagnosis(self) -> Diagnosis:
        """Look at everything as `bdlab doctor` does; the folder of a local stack is that of the identities."""
        folder = DataFolder(self._parts.settings.vault.identities.parent)
        found = examine(self._parts.layers, folder, api_url=self._parts.api_url, service=SERVICE)
        found.not_looked_at.pop("API keys", None)  # which the page shows
        return found

    def ends(self, report: Report) -> list[tuple[str, datetime | None, float]]:
        """Return what ends by itself: its name, when, and how many seconds are left, -1 if it does not."""
        names = {"vault_token": "Vault token of the console", "database_lease": "database lease of the console"}
        ends = {names[name]: at for name, at in self._parts.session.expiries().items()}
        for check in (each for each in report.checks if "ends_at" in each.detail):
            ends[check.name.replace(".", "'s ")] = datetime.fromisoformat(check.detail["ends_at"]).timestamp()
        for name, key in sorted(self._parts.session.api_keys().items()):
            ends[f"API key {name} ({', '.join(sorted(key.scopes))})"] = (
                key.expires_at.timestamp() if key.expires_at else float("inf")
            )
        now = time.time()
        return [
            (name, datetime.fromtimestamp(at, UTC), max(0.0, at - now)) if isfinite(at) else (name, None, -1.0)
            for name, at in ends.items()
        ]


def routes(parts: Console) -> list[Any]:
    """Return the routes of `/pipeline`."""
    pipeline, shared = Pipeline(parts), parts.shared

    async def shown(request: Request[Any, Any, Any], template: str) -> Template:
        report, flow, doctor = await asyncio.gather(
            shared.get("checks", pipeline.report, keep_s=pipeline.keep_s, wait_s=_WAIT_S),
            shared.get("flow", pipeline.flow, keep_s=_KEEP_S, wait_s=_WAIT_S),
            shared.get("doctor", pipeline.diagnosis, keep_s=_DOCTOR_S, wait_s=0),
        )
        checks = report.value or Report(())
        seen, ends, now = pipeline.parts(checks), pipeline.ends(checks), datetime.now(UTC)
        ill = [f"{each.name} ({each.state})" for each in seen.values() if each.state != "healthy"]
        looks: dict[str, Any] = {"report": report, "flow": flow, "doctor": doctor, "checks": checks.checks}
        return page(request, template, parts=seen, ill=ill, ends=ends, now=now, **looks)

    @get("/pipeline", include_in_schema=False)
    async def whole(request: Request[Any, Any, Any]) -> Template:
        return await shown(request, "pipeline.html")

    @get("/pipeline/part", include_in_schema=False)
    async def part(request: Request[Any, Any, Any]) -> Template:
        return await shown(request, "parts/pipeline.html")

    @post("/pipeline/doctor", include_in_schema=False)
    async def look_now() -> Redirect:
        await shared.get("doctor", pipeline.diagnosis, keep_s=0, wait_s=0)
        return Redirect("/pipeline#doctor", status_code=303)

    return [whole, part, look_now]
