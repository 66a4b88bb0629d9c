"""Stored inputs scored again: each prediction once for a model, whatever is killed, and proved by an account."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from bdlab.contract import Contract
from bdlab.errors import BdlabError, ContractMismatch, ModelError
from bdlab.events import Input, Score, Scorer
from bdlab.model import load_scorer
from bdlab.postgres import rescores
from bdlab.postgres.accounts import prune
from bdlab.postgres.rescores import Ranges, account
from bdlab.postgres.session import ConnectionLimits
from bdlab.rescoring import Rescored, RescoredReport, scoring
from bdlab_cli.wiring.rescore import Rescoring
from tests.fix_database import Database, Logins
from tests.fix_pipeline import Pipeline
from tests.fix_registry import version_card
from tests.json_results import as_documented
from tests.rounds import rounds
from tests.samples import CLUSTER, TOPIC, later_reviews

MODEL = "other@2"
SCORER = load_scorer()
NOW = datetime(2026, 11, 1, tzinfo=UTC)
FILL = """
INSERT INTO predictions (id, summary, text, helpfulness_numerator, helpfulness_denominator, prediction, sentiment,
                         confidence, explanation, model, created_at, stored_at, log_id, partition, "offset")
SELECT gen_random_uuid(), 'Product review', 'terrible ' || n, 1, 1, 2.5, 'negative', 0.9, '[]', 'reviews@1.0.0',
       now(), %(since)s + n * interval '1 second', %(log_id)s, n %% 3, n / 3
FROM generate_series(%(first)s, %(after)s - 1) n WHERE n / 3 %% 10 <> 7;
INSERT INTO duplicates (log_id, partition, "offset", id, recorded_at)
SELECT %(log_id)s, n %% 3, n / 3, gen_random_uuid(), %(since)s + n * interval '1 second'
FROM generate_series(%(first)s, %(after)s - 1) n WHERE n / 3 %% 10 = 7;
INSERT INTO sink_offsets (log_id, partition, first_offset, next_offset)
SELECT %(log_id)s, p, 0, %(after)s / 3 FROM generate_series(0, 2) p
ON CONFLICT (log_id, partition) DO UPDATE SET next_offset = excluded.next_offset
"""


@dataclass
class World:
    """Predictions of three partitions, a second apart; one offset of ten is a duplicate's."""

    database: Database
    stored: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    processes: list[BaseProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.credentials = self.database.credentials("rescore")
        ((self.log_id,),) = self.database.execute(
            "INSERT INTO logs (cluster_id, topic) VALUES (%s, %s) RETURNING log_id", (CLUSTER, TOPIC)
        )

    def fill(self, count: int) -> None:
        values = {"since": NOW, "log_id": self.log_id, "first": self.stored, "after": self.stored + count}
        self.stored += count
        self.database.execute(FILL, values)

    def run(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        scorer: Scorer = SCORER,
        contract: Contract = SCORER.codec.contract,
        follow: bool = False,
        jobs: int = 2,
    ) -> Rescored:
        run, self.stop = str(uuid4()), threading.Event()
        with scoring(scorer, jobs) as scores:
            make = lambda: Ranges(self.credentials, MODEL, contract, run)  # noqa: E731
            return Rescoring(make, scores, self.stop, follow, 10, lambda *_: None).run(since, until)

    def process(self) -> BaseProcess:
        process = multiprocessing.get_context("fork").Process(target=self.run)
        process.start()
        self.processes.append(process)
        return process

    def account(self) -> RescoredReport:
        return account(self.database.credentials("reader"), MODEL, limit=20)

    def count(self, what: str) -> int:
        ((found,),) = self.database.execute(f"SELECT count(*) FROM {what}")  # noqa: S608
        return int(found)

    def wait_for(self, what: str, count: int) -> None:
        deadline = time.monotonic() + 20
        while self.count(what) < count:
            assert time.monotonic() < deadline, self.count(what)
            time.sleep(0.05)


@pytest.fixture
def world(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(rescores, "RANGE_OFFSETS", 40)
    monkeypatch.setattr(rescores, "_ROWS", 15)
    found = World(database)
    yield found
    for process in found.processes:  # which would wait for this database for ever
        process.kill()


def test_killed_at_any_moment_each_prediction_is_scored_once(world: World) -> None:
    world.fill(6000)
    draw = random.Random(4)
    killed = 0
    for _ in range(rounds(5, 30)):
        both = [world.process() for _ in range(2)]
        time.sleep(draw.uniform(0.1, 0.6))
        for process in both:
            assert process.pid
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += process.exitcode == -signal.SIGKILL
    assert killed > 4  # the others were done before
    left = world.count("rescore_ranges WHERE done_at IS NULL")
    began = time.monotonic()
    done = world.run()
    assert done.ranges_left == 0
    assert done.ranges == left  # and nothing of what the killed ones had done
    assert time.monotonic() - began < 20
    stored = world.count("predictions")
    assert world.count("rescored") == world.count("rescored JOIN predictions USING (id)") == stored == 5400
    assert world.database.execute("SELECT sum(rescored), sum(after - first) FROM rescore_ranges") == [(stored, 6000)]
    found = world.account()
    assert found.verified
    assert [(one.stored, one.done, one.rescored, one.unplanned) for one in found.partitions] == [(1800,) * 3 + (0,)] * 3
    ((wrong,),) = world.database.execute(
        "SELECT count(*) FROM rescored JOIN predictions p USING (id)"
        " WHERE rescored.prediction = p.prediction OR rescored.model <> %s",
        (MODEL,),
    )
    assert wrong == 0


def test_two_at_once_share_the_work(world: World) -> None:
    world.fill(3000)
    other = world.process()
    done = world.run()
    other.join()
    assert other.exitcode == 0
    runs = dict(world.database.execute("SELECT done_by, sum(rescored)::int FROM rescore_ranges GROUP BY 1"))
    assert sum(runs.values()) == world.count("rescored") == 2700
    assert done.predictions == next(count for name, count in runs.items() if name.startswith(done.run))
    assert world.account().verified


def test_a_window_is_of_the_time_of_storing(world: World) -> None:
    world.fill(900)
    since, until = NOW + timedelta(seconds=301), NOW + timedelta(seconds=601)
    assert world.run(since, until).predictions == world.count(
        f"predictions WHERE stored_at >= '{since}' AND stored_at < '{until}'"
    )
    report = world.account()
    assert report.verified
    assert sum(one.unplanned for one in report.partitions) == 810 - 270
    assert world.run(since, until).ranges == 0
    assert world.run(NOW + timedelta(days=1)).ranges == 0
    assert world.run(until=since).predictions == 270 + 1
    assert world.run().predictions == 269
    assert world.count("rescored") == 810


def test_it_follows_what_arrives(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdlab_cli.wiring.rescore.PLAN_EVERY_S", 0.2)
    world.fill(90)
    found: list[Rescored] = []
    thread = threading.Thread(target=lambda: found.append(world.run(follow=True)))
    thread.start()
    for _ in range(3):
        world.wait_for("rescored", world.count("predictions"))
        world.fill(90)
    world.wait_for("rescored", world.count("predictions"))
    world.stop.set()
    thread.join(10)
    assert found[0].predictions == world.count("predictions") == 324
    assert found[0].ranges_left == 0


def test_a_frozen_process_loses_its_range(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescores, "_LIMITS", ConnectionLimits(idle_in_transaction_s=1))
    world.fill(6000)
    frozen = world.process()
    world.wait_for("rescored", 1)
    assert frozen.pid
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        assert world.run().ranges_left == 0
        assert world.count("rescored") == 5400
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
        frozen.join(30)
    assert frozen.exitcode == 0  # it saw that its range was done by another
    assert world.account().verified


def test_a_revoked_login_and_cut_connections_lose_nothing(world: World) -> None:
    world.fill(6000)
    first, second = (world.database.login("rescore") for _ in range(2))
    world.credentials = Logins(first, second)
    found: list[Rescored] = []
    thread = threading.Thread(target=lambda: found.append(world.run()))
    thread.start()
    world.wait_for("rescored", 1)
    world.database.revoke(first)
    for _ in range(3):
        time.sleep(0.2)
        world.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bdlab rescore'"
        )
    thread.join(30)
    assert found[0].ranges_left == 0
    assert found[0].predictions == world.count("rescored") == 5400  # also if an answer to a commit was lost
    assert world.account().verified


class Failing:
    """Fails on one text. Implements `Scorer`."""

    name, sha256, blocking, forkable, codec = MODEL, "", False, True, SCORER.codec
    answer: Any = None

    def score(self, given: Input) -> Score:
        if given.text == "terrible 100":
            if self.answer is None:
                raise ValueError("on purpose")
            return self.codec.score(prediction=self.answer, sentiment="negative", confidence=0.5)
        return SCORER.score(given)

    def score_many(self, inputs: Sequence[Input]) -> list[Score]:
        return [self.score(given) for given in inputs]


def test_a_row_on_which_the_model_fails_is_named(world: World) -> None:
    world.fill(300)
    ((failing,),) = world.database.execute("SELECT id FROM predictions WHERE text = 'terrible 100'")
    with pytest.raises(ModelError, match=f"{MODEL} fails on the review with the id {failing}: on purpose"):
        world.run(scorer=Failing())
    refused = Failing()
    refused.answer = 17.0
    with pytest.raises(ModelError, match=f"refuses a score of {MODEL}: .*violates check.*{failing}"):
        world.run(scorer=refused)
    report = world.account()
    assert not report.verified
    left = sum(one.open_ranges for one in report.partitions)
    assert left > 0
    assert world.run().ranges == left
    assert world.account().verified


def test_a_contract_that_does_not_fit_plans_nothing(world: World) -> None:
    world.fill(90)
    with pytest.raises(ContractMismatch):
        world.run(contract=later_reviews())
    assert world.count("rescore_ranges") == 0


def test_a_row_that_is_missing_or_too_much_is_named(world: World) -> None:
    world.fill(900)
    with pytest.raises(BdlabError, match="nothing was scored again by other@2"):
        world.account()
    world.run()
    ((missing, place),) = world.database.execute(
        'DELETE FROM rescored r USING predictions p WHERE p.id = r.id AND p."offset" = 50 AND p.partition = 1'
        " RETURNING r.id, p.partition || '/' || p.\"offset\""
    )
    ((extra,),) = world.database.execute(
        "INSERT INTO rescored (id, model, run, prediction, sentiment, confidence)"
        " SELECT gen_random_uuid(), model, run, prediction, sentiment, confidence FROM rescored LIMIT 1 RETURNING id"
    )
    report = world.account()
    assert not report.verified
    assert (report.missing, report.orphans, report.orphan_count) == (((place, missing),), (extra,), 1)

    # The way of docs/model-life.md.
    world.database.execute("DELETE FROM rescored WHERE id = %s", (extra,))
    world.database.execute(
        "UPDATE rescore_ranges SET done_at = NULL WHERE partition = 1 AND first <= 50 AND after > 50"
    )
    done = world.run()
    assert (done.ranges, done.predictions, done.known) == (1, 36, 35)
    assert world.account().verified


def test_beside_prune_no_score_outlives_its_prediction(world: World) -> None:
    world.fill(6000)
    other = world.process()
    owner = world.database.credentials("owner")
    for minutes in range(0, 90, 10):
        list(prune(owner, before=NOW + timedelta(minutes=minutes), offsets_a_transaction=50))
    other.join(30)
    assert other.exitcode == 0
    world.run()
    report = world.account()
    assert report.verified, report
    assert report.orphan_count == 0
    assert world.count("rescored") == world.count("predictions") > 0


def test_the_command_over_real_servers(pipeline: Pipeline, tmp_path: Path) -> None:
    version = f"9.{uuid4().hex[:8]}"
    model, card = f"reviews@{version}", str(version_card(tmp_path / "new", version))
    places = {"BDLAB_MODEL_REGISTRY": str(tmp_path / "registry"), "BDLAB_MODEL_CACHE_DIR": str(tmp_path / "cache")}

    def done(*arguments: str, code: int = 0, stdin: str = "") -> str:
        ended = pipeline.run(*arguments, stdin=stdin, **places)
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stderr if code else ended.stdout

    done("predict", "--file", "-", "--format", "jsonl", stdin="".join(f'{{"text": "bad {n}"}}\n' for n in range(300)))
    done("consume", "--until-idle")
    with closing(pipeline.database()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM predictions")
        ((stored,),) = cursor.fetchall()
    assert f"nothing was scored again by {model}" in done("verify", "--rescored", model, code=1)
    assert "give either --model or --card" in done("rescore", code=2)
    assert f"{model} is not in the registry" in done("rescore", "--model", model, code=1)
    done("model", "add", card)

    # From the registry; a shadow that follows takes the rest, from its card, and is stopped.
    first = as_documented("rescore", done("rescore", "--model", model, "--until", "1h", "--json"))
    assert (first["model"], first["ranges_left"]) == (model, 0)
    with pipeline.daemon("rescore", "--card", card, "--follow", "--jobs", "1", "--json", **places) as shadow:
        deadline = time.monotonic() + 30
        while True:
            ended = pipeline.run("verify", "--rescored", model, "--json", **places)
            if ended.returncode == 0:
                found = as_documented("verify", ended.stdout)
                if sum(one["rescored"] for one in found["partitions"]) == stored:
                    break
            assert time.monotonic() < deadline, ended
        assert shadow.stop() == 0, shadow.lines
        second = as_documented("rescore", shadow.output.get(timeout=5))
    assert first["predictions"] + second["predictions"] == stored
    assert "0 predictions scored again" in done("rescore", "--model", model)
    assert f"verified: {stored:,} of {stored:,} stored predictions scored again" in done("verify", "--rescored", model)
