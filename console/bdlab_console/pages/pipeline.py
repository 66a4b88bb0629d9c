"""The pipeline as it runs: the state of each part, what flows between them, and what `bdlab doctor` finds."""

from __future__ import annotations

import asyncio
import re
import time
import tomllib
from contextlib import suppress
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from litestar import Request, get, post
from litestar.response import Redirect, Template

from bdlab.errors import TopicMissing
from bdlab.health import CheckResult, Report, healthy, not_made, unhealthy
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
_PARTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


class Lane(NamedTuple):
    """A partition of a log: the next offset to be written, up to which offset it is stored, and the events between."""

    log: LogPartition
    end: int
    stored: int
    lag: int


class Flow(NamedTuple):
    """The lanes, and what is counted until the moment `at` (monotonic): published (`end`), `stored`, and `asked` of
    `serve`; `rates` has the same a second, over the `over_s` seconds before, of what is known."""

    at: float
    lanes: list[Lane]
    counts: dict[str, float]
    rates: dict[str, float]
    over_s: float


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
        if flow := self._flow:
            lag, rate = sum(lane.lag for lane in flow.lanes), flow.rates.get("stored")
            if rate:
                return healthy("consumer", f"stores {rate:.1f} events a second")
            if lag and rate is not None:
                return unhealthy("consumer", f"{lag} events wait, and none was stored in {flow.over_s:.0f} s")
        hint = "Set BDLAB_SINK_URLS to where the consumers have --metrics-port."
        return not_made("consumer", "nothing is stored now, and no address is known for the consumers", hint)

    def parts(self, report: Report) -> dict[str, dict[str, Any]]:
        """Return each part with its state, since when the console has seen it in that, and what its checks say."""
        found = {}
        for key, part in _PARTS.items():
            checks = [check for check in report.checks if check.name.startswith(tuple(part["checks"]))]
            state = Report(tuple(checks)).state
            if self._since.get(key, ("",))[0] != state:
                self._since[key] = state, datetime.now(UTC)
            telling = [
                each for each in checks if (each.name in part["tell"] if state == "healthy" else each.state == state)
            ]
            told = "; ".join(filter(None, (each.message for each in telling if each.message != "not checked")))
            found[key] = {**part, "key": key, "state": state, "since": self._since[key][1], "message": told}
        return found

    def flow(self) -> Flow:
        """Read the logs' ends, then up to where each is stored. Raises BrokerError, DatabaseError, VaultError."""
        ranges = self._parts.predictions.log_ranges()
        with suppress(TopicMissing):  # a check says so
            ranges += self._parts.feedback.log_ranges()
        recorded = self._parts.reader.next_offsets()
        pairs = [(at := log_partition(each), each.end, recorded.get(at, each.start)) for each in ranges]
        lanes = [Lane(at, end, stored, max(0, end - stored)) for at, end, stored in pairs]
        counts: dict[str, float] = {each: sum(getattr(lane, each) for lane in lanes) for each in ("end", "stored")}
        if told := _ASKED.findall(fetch(f"{self._parts.api_url}/metrics", self._ca_file, timeout_s=1.0)[1]):
            counts["asked"] = sum(map(float, told))
        now, before, rates = time.monotonic(), self._flow, dict[str, float]()
        over_s = now - before.at if before else 0.0
        if before and [each.log for each in before.lanes] == [each.log for each in lanes]:
            known = before.counts
            rates = {name: max(0.0, count - known[name]) / over_s for name, count in counts.items() if name in known}
        self._flow = Flow(now, lanes, counts, rates, over_s)
        return self._flow

    def diagnosis(self) -> Diagnosis:
        """Look at everything as `bdlab doctor` does; the folder of a local stack is that of the identities."""
        folder = DataFolder(self._parts.settings.vault.identities.parent)
        found = examine(self._parts.layers, folder, api_url=self._parts.api_url, service=SERVICE)
        found.not_looked_at.pop("API keys", None)  # which the page shows
        return found

    def ends(self, report: Report) -> dict[str, datetime | None]:
        """Return when each credential ends that is known here; None if it does not."""
        own = {
            name.replace("_", " ").replace("vault", "Vault"): at for name, at in self._parts.session.expiries().items()
        }
        ends = {f"{name} of the console": datetime.fromtimestamp(at, UTC) for name, at in own.items() if isfinite(at)}
        for each in report.checks:
            if at := each.detail.get("ends_at"):
                ends[f"certificate of {each.name.partition('.')[0]}"] = datetime.fromisoformat(at)
        keys = sorted(self._parts.session.api_keys().items())
        return ends | {f"API key {name} ({', '.join(sorted(key.scopes))})": key.expires_at for name, key in keys}


def routes(parts: Console) -> list[Any]:
    """Return the routes of `/pipeline`."""
    pipeline, shared = Pipeline(parts), parts.shared

    @get("/pipeline", include_in_schema=False)
    async def show(request: Request[Any, Any, Any]) -> Template:
        report, flow, doctor = await asyncio.gather(
            shared.get("checks", pipeline.report, keep_s=pipeline.keep_s, wait_s=_WAIT_S),
            shared.get("flow", pipeline.flow, keep_s=_KEEP_S, wait_s=_WAIT_S),
            shared.get("doctor", pipeline.diagnosis, keep_s=_DOCTOR_S, wait_s=0),
        )
        checks, now = report.value or Report(()), datetime.now(UTC)
        looks: dict[str, Any] = {"report": report, "flow": flow, "doctor": doctor, "checks": checks.checks, "now": now}
        return page(request, "pipeline.html", parts=pipeline.parts(checks), ends=pipeline.ends(checks), **looks)

    @post("/pipeline/doctor", include_in_schema=False)
    async def look_now() -> Redirect:
        await shared.get("doctor", pipeline.diagnosis, keep_s=0, wait_s=0)
        return Redirect("/pipeline#doctor", status_code=303)

    return [show, look_now]
