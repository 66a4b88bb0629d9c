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

from bdlab.model import load_scorer
from tests.chaos.faults import catalogue
from tests.chaos.load import Ids, Load
from tests.chaos.promotions import SHADOW, Promotions
from tests.chaos.system import System

#: Of predictions, that get feedback.
_FEEDBACK = 0.2


@dataclass
class Report:
    """What a storm did and what was found after it. Times are in seconds."""

    seed: int
    seconds: float = 0.0
    sent: int = 0
    acknowledged: int = 0
    acknowledged_at_last_fault: int = 0
    stored: int = 0
    feedback_sent: int = 0
    feedback_acknowledged: int = 0
    feedback_stored: int = 0
    feedback_of_nobody: int = 0
    """Stored feedback whose prediction is none."""
    duplicates: dict[str, int] = field(default_factory=dict)
    """Of each kind."""
    dead_letters: int = 0
    promotions: int = 0
    promotions_reported: int = 0
    promotions_tried_again: int = 0
    """Commands that were killed or failed, and run again."""
    models: dict[str, int] = field(default_factory=dict)
    """How many of the stored predictions each version made."""
    rescored: int = 0
    rescored_at_the_end: int = 0
    """By the last run, of which no process was killed."""
    longest_gap_s: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    failed_requests: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    """Ids that a client saw acknowledged and that are not stored."""
    unknown: list[str] = field(default_factory=list)
    """Ids that are stored and that nobody sent."""
    wrong_answers: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """What does not agree in the tables, in a sentence each."""
    verify_exit_code: int = -1
    verify_output: str = ""

    @property
    def held(self) -> bool:
        found = self.lost or self.unknown or self.wrong_answers or self.broken
        return not found and self.verify_exit_code == 0

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
    load = Load(
        lambda: http.client.HTTPConnection(*system.api_address, timeout=20),
        threads=clients,
        seed=seed,
        feedback=_FEEDBACK,
    )
    promotions = Promotions(system, random.Random(seed))
    acknowledged = load.predictions.acknowledged
    kinds = {name: fault for name, fault in catalogue(system).items() if only is None or name in only}
    deck: list[str] = []
    done: Counter[str] = Counter()
    start = time.monotonic()
    at_last_fault = 0
    load.start()
    promotions.start()
    try:
        while done.total() < faults or len(acknowledged) < predictions:
            if time.monotonic() - start > limit_s:
                break
            reached = min(1.0, len(acknowledged) / predictions)
            if done.total() >= faults or done.total() > faults * reached:
                time.sleep(0.05)  # the next one is due when the load has come as far
                continue
            if not deck:
                deck = rng.sample(sorted(kinds), len(kinds))
            kind = deck.pop()
            began, at_last_fault = time.monotonic(), len(acknowledged)
            kinds[kind](system, rng)
            done[kind] += 1
            tell(f"{began - start:7.1f} s  {kind} ({time.monotonic() - began:.1f} s), {len(acknowledged)} acknowledged")
            time.sleep(rng.uniform(0.1, 0.8))
    finally:
        load.stop()
        promotions.stop()
    report = Report(seed=seed, seconds=round(time.monotonic() - start, 1))
    report.acknowledged_at_last_fault = at_last_fault
    report.faults = dict(sorted(done.items()))
    _account(system, load, report)
    _account_for_models(system, promotions, report)
    return report


def _account(system: System, load: Load, report: Report) -> None:
    verified = system.bdlab("verify", "--wait", "120", "--json", timeout_s=300)
    report.verify_exit_code = verified.returncode
    report.verify_output = (verified.stdout + verified.stderr)[-4000:]

    def compare(ids: Ids, table: str) -> set[UUID]:
        stored = {UUID(row[0]) for row in system.sql(f"SELECT id::text FROM {table}")}  # noqa: S608
        report.lost += [f"{table} {each}" for each in sorted(ids.acknowledged - stored)[:50]]
        report.unknown += [f"{table} {each}" for each in sorted(stored - ids.sent)[:50]]
        return stored

    predictions, feedback = compare(load.predictions, "predictions"), compare(load.feedback, "feedback")
    report.sent, report.acknowledged = len(load.predictions.sent), len(load.predictions.acknowledged)
    report.feedback_sent, report.feedback_acknowledged = len(load.feedback.sent), len(load.feedback.acknowledged)
    report.stored, report.feedback_stored = len(predictions), len(feedback)
    report.feedback_of_nobody = len(load.of_nobody & feedback)
    report.duplicates = dict(system.sql("SELECT kind, count(*) FROM duplicates GROUP BY kind ORDER BY kind"))
    report.dead_letters = int(system.sql("SELECT count(*) FROM dead_letters")[0][0])
    report.wrong_answers = load.wrong[:50]
    report.failed_requests = dict(sorted(load.failures.items()))
    report.longest_gap_s = round(load.longest_gap_s, 2)
    if verified.returncode == 0:
        found = json.loads(verified.stdout)
        told = [sum(one[kind] for one in found["partitions"] + found["closed"]) for kind in ("stored", "duplicates")]
        counted = [report.stored + report.feedback_stored, sum(report.duplicates.values())]
        if told != counted:
            report.broken.append(f"verify tells of {told} rows and duplicates, and there are {counted}")
        if found["unknown_feedback"] != report.feedback_of_nobody:
            report.broken.append(
                f"{found['unknown_feedback']} feedback of unknown predictions is told of,"
                f" and {report.feedback_of_nobody} is stored"
            )


#: What has to be nowhere.
_NOWHERE = {
    "duplicates whose id is not stored": """
        FROM duplicates d WHERE NOT EXISTS (SELECT FROM predictions p WHERE p.id = d.id AND d.kind = 'prediction')
                            AND NOT EXISTS (SELECT FROM feedback f WHERE f.id = d.id AND d.kind = 'feedback')""",
    "predictions by a version that was not promoted before": """
        FROM predictions p WHERE p.model <> %(shipped)s AND NOT EXISTS (
            SELECT FROM model_promotions m WHERE m.name || '@' || m.version = p.model AND m.promoted_at <= p.created_at
        )""",
    "scores without their prediction": "FROM rescored r WHERE NOT EXISTS (SELECT FROM predictions p WHERE p.id = r.id)",
    "scores by another model than the shadow": "FROM rescored WHERE model <> %(shadow)s",
    "predictions without a score": """
        FROM predictions p WHERE NOT EXISTS (SELECT FROM rescored r WHERE r.id = p.id AND r.model = %(shadow)s)""",
    # Each version says other stars to the same review, unless they are at a bound.
    "predictions that the version which they name did not make, by its own scores": """
        FROM predictions p JOIN rescored r USING (id)
        WHERE p.prediction NOT IN (1, 5) AND (abs(p.prediction - r.prediction) < 1e-9) <> (p.model = r.model)""",
}


def _account_for_models(system: System, promotions: Promotions, report: Report) -> None:
    broken = report.broken
    broken += promotions.wrong
    history = [row[0] for row in system.sql("SELECT name || '@' || version FROM model_promotions ORDER BY number")]
    report.promotions, report.promotions_reported = len(history), len(promotions.reported)
    report.promotions_tried_again = promotions.tried_again
    rest = iter(history)
    if not all(model in rest for model in promotions.reported):
        broken.append(f"reported as promoted was {promotions.reported}, and the table has {history}")
    if len(history) > len(promotions.reported) + promotions.tried_again:
        broken.append(f"{len(history)} promotions, of which only {len(promotions.reported)} were reported")
    if (serving := system.model_that_serves(history[-1])) != history[-1]:
        broken.append(f"{history[-1]} is promoted, and {serving} serves")
    report.models = dict(system.sql("SELECT model, count(*) FROM predictions GROUP BY model ORDER BY model"))

    if not system.shadow.running:
        broken.append(f"the shadow ended by itself:\n{system.shadow.log_file.read_text()[-2000:]}")
    elif (code := system.shadow.stop(timeout_s=90)) not in {0, 1}:  # 1: ranges are left
        broken.append(f"the shadow ended with {code}:\n{system.shadow.log_file.read_text()[-2000:]}")
    for command in (["rescore", "--model", SHADOW], ["verify", "--rescored", SHADOW]):
        done = system.bdlab(*command, "--json", timeout_s=600)
        if done.returncode:
            broken.append(f"{' '.join(command)}: {(done.stdout + done.stderr)[-2000:]}")
        elif command[0] == "rescore":
            report.rescored_at_the_end = json.loads(done.stdout)["predictions"]
    report.rescored = int(system.sql("SELECT count(*) FROM rescored")[0][0])
    names = {"shadow": SHADOW, "shipped": load_scorer().name}
    for what, where in _NOWHERE.items():
        statement = f"SELECT count(*) OVER (), to_jsonb(t) FROM (SELECT * {where}) t LIMIT 1"  # noqa: S608
        found = system.sql(statement, **names)
        broken += [f"{count} {what}, such as {example}" for count, example in found]
