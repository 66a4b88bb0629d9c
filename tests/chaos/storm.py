"""A storm: load and random faults over the whole pipeline, then the accounting."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from uuid import UUID

from tests.chaos.faults import catalogue
from tests.chaos.load import Load
from tests.chaos.system import System


@dataclass
class Report:
    """What a storm did and what was found after it. Times are in seconds."""

    seed: int
    seconds: float = 0.0
    sent: int = 0
    acknowledged: int = 0
    acknowledged_at_last_fault: int = 0
    stored: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    longest_gap_s: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    failed_requests: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    """Ids that a client saw acknowledged and that are not stored."""
    unknown: list[str] = field(default_factory=list)
    """Ids that are stored and that nobody sent."""
    wrong_answers: list[str] = field(default_factory=list)
    verify_exit_code: int = -1
    verify_output: str = ""

    @property
    def held(self) -> bool:
        return not (self.lost or self.unknown or self.wrong_answers) and self.verify_exit_code == 0

    def as_json(self) -> str:
        return json.dumps(asdict(self) | {"held": self.held}, indent=2)


def run(
    system: System,
    *,
    seed: int,
    predictions: int,
    faults: int,
    clients: int = 24,
    only: Collection[str] | None = None,
    limit_s: float = 600,
    tell: Callable[[str], None] = lambda _line: None,
) -> Report:
    """Run until at least `predictions` were acknowledged and `faults` have hit, at most `limit_s` seconds.

    The faults are spread over the whole run: each is due when its share of the predictions is acknowledged.
    `system` is started. `only` names the faults to choose from; without it they are all that `system` can
    take. `tell` gets a line for each fault.
    """
    rng = random.Random(seed)
    load = Load(lambda: http.client.HTTPConnection(*system.api_address, timeout=20), threads=clients, seed=seed)
    kinds = {name: fault for name, fault in catalogue(system).items() if only is None or name in only}
    deck: list[str] = []
    done: Counter[str] = Counter()
    start = time.monotonic()
    at_last_fault = 0
    load.start()
    try:
        while done.total() < faults or len(load.acknowledged) < predictions:
            if time.monotonic() - start > limit_s:
                break
            reached = min(1.0, len(load.acknowledged) / predictions)
            if done.total() >= faults or done.total() > faults * reached:
                time.sleep(0.05)  # the next one is due when the load has come as far
                continue
            if not deck:
                deck = rng.sample(sorted(kinds), len(kinds))
            kind = deck.pop()
            began, at_last_fault = time.monotonic(), len(load.acknowledged)
            kinds[kind](system, rng)
            done[kind] += 1
            tell(
                f"{began - start:7.1f} s  {kind} ({time.monotonic() - began:.1f} s), "
                f"{len(load.acknowledged)} acknowledged"
            )
            time.sleep(rng.uniform(0.1, 0.8))
    finally:
        load.stop()
    report = Report(seed=seed, seconds=round(time.monotonic() - start, 1))
    report.acknowledged_at_last_fault = at_last_fault
    report.faults = dict(sorted(done.items()))
    _account(system, load, report)
    return report


def _account(system: System, load: Load, report: Report) -> None:
    verified = system.bdlab("verify", "--wait", "120", "--json", timeout_s=300)
    report.verify_exit_code = verified.returncode
    report.verify_output = (verified.stdout + verified.stderr)[-4000:]
    stored = {UUID(row[0]) for row in system.sql("SELECT id::text FROM predictions")}
    report.sent, report.acknowledged, report.stored = len(load.sent), len(load.acknowledged), len(stored)
    report.duplicates = int(system.sql("SELECT count(*) FROM duplicates")[0][0])
    report.dead_letters = int(system.sql("SELECT count(*) FROM dead_letters")[0][0])
    report.lost = [str(each) for each in sorted(load.acknowledged - stored)][:50]
    report.unknown = [str(each) for each in sorted(stored - load.sent)][:50]
    report.wrong_answers = load.wrong[:50]
    report.failed_requests = dict(sorted(load.failures.items()))
    report.longest_gap_s = round(load.longest_gap_s, 2)
