"""Many reviews published: their order, and what is said where the broker goes away on the way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from bdlab.errors import BrokerError, BrokerUnavailable, EventTooLarge, NotAcknowledged
from bdlab.events import Position, PredictionEvent, Score
from bdlab.inputs.bulk import RowResult, ScoredRow, publish_rows, score_each, unpublished
from bdlab.inputs.files import Row
from bdlab.model import load_scorer
from tests.memory.log import MemoryLog, MemoryProducer
from tests.samples import REVIEWS, Review, event_of

SCORER = load_scorer()


def publish_all(scored: Iterator[ScoredRow], publisher: Any, *, run_id: str, **more: Any) -> Iterator[RowResult]:
    def make(row: ScoredRow) -> PredictionEvent:
        event_id = REVIEWS.idempotent_id(f"{run_id}:{row.line}", row.given)
        return REVIEWS.make(event_id, row.given, cast("Score", row.score), model="m")

    return publish_rows(scored, publisher, make, **more)


def rows(count: int) -> Iterator[ScoredRow]:
    return score_each((Row(line, Review(text=f"review {line}")) for line in range(2, count + 2)), SCORER)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


def publish(log: MemoryLog, count: int, *, run_id: str = "run", stop: threading.Event | None = None) -> list[RowResult]:
    with MemoryProducer(log, source="/tests", delivery_timeout_s=1) as producer:
        found = publish_all(rows(count), producer, run_id=run_id, stop=stop or threading.Event())
        return list(found)


def test_outcomes_come_in_the_order_of_the_rows(log: MemoryLog) -> None:
    outcomes = publish(log, 1000)
    assert [outcome.line for outcome in outcomes] == list(range(2, 1002))
    assert {outcome.status for outcome in outcomes} == {"acknowledged"}
    for outcome in outcomes[::97]:
        assert outcome.position is not None
        [record] = log.read(outcome.position.partition, outcome.position.offset, 1)
        assert event_of(record) == outcome.event
        assert outcome.given.text == outcome.event.text == f"review {outcome.line}"


def test_the_same_run_has_the_same_ids_and_another_has_others(log: MemoryLog) -> None:
    def ids(run_id: str) -> list[str]:
        return [str(outcome.event and outcome.event.id) for outcome in publish(log, 20, run_id=run_id)]

    first = ids("a")
    assert len(set(first)) == 20
    assert ids("a") == first
    assert not set(ids("b")) & set(first)
    assert {(found.status, found.event) for found in unpublished(rows(20), model="m")} == {("scored", None)}


class Failing:
    """A publisher that acknowledges at once, but for the texts that `failure` has an error for."""

    def __init__(self, failure: Callable[[str], BrokerError | None]) -> None:
        self._failure = failure
        self.sent = 0

    def publish(
        self, event: PredictionEvent, done: Callable[[Position | BrokerError], None], *, traceparent: str = ""
    ) -> None:
        self.sent += 1
        done(self._failure(event.text) or Position("c", "t", 0, self.sent))


def test_after_a_failure_nothing_more_is_sent() -> None:
    failing = Failing(lambda text: NotAcknowledged("gone") if text == "review 300" else None)
    outcomes = list(publish_all(rows(1000), failing, run_id="r", stop=threading.Event()))
    assert failing.sent == len(outcomes) < 400
    assert [outcome.line for outcome in outcomes if outcome.status != "acknowledged"] == [300]
    assert outcomes[-1].problem is not None


def test_an_event_that_is_too_large_holds_up_no_other() -> None:
    failing = Failing(lambda text: EventTooLarge("large") if text == "review 300" else None)
    outcomes = list(publish_all(rows(1000), failing, run_id="r", stop=threading.Event()))
    assert len(outcomes) == 1000
    assert [outcome.line for outcome in outcomes if outcome.status == "invalid"] == [300]


class Refusing:
    def publish(
        self, event: PredictionEvent, done: Callable[[Position | BrokerError], None], *, traceparent: str = ""
    ) -> None:
        raise BrokerUnavailable("too many events wait")


def test_a_refusal_at_once_is_an_outcome_too() -> None:
    outcomes = list(publish_all(rows(5), Refusing(), run_id="r", stop=threading.Event()))
    assert [(outcome.line, outcome.status) for outcome in outcomes] == [(2, "not acknowledged")]


class Slow:
    """A publisher that acknowledges when it is told to; `most` is how many ever waited at once."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[Position | BrokerError], None]] = []
        self._lock = threading.Lock()
        self.most = 0

    def publish(
        self, event: PredictionEvent, done: Callable[[Position | BrokerError], None], *, traceparent: str = ""
    ) -> None:
        with self._lock:
            self._waiting.append(done)
            self.most = max(self.most, len(self._waiting))

    def acknowledge(self, finished: threading.Event) -> None:
        while not finished.wait(0.001):
            with self._lock:
                waiting, self._waiting = self._waiting, []
            for offset, done in enumerate(waiting):
                done(Position("c", "t", 0, offset))


def test_no_more_than_the_window_is_in_flight() -> None:
    slow, finished = Slow(), threading.Event()
    thread = threading.Thread(target=slow.acknowledge, args=(finished,))
    thread.start()
    outcomes = list(publish_all(rows(500), slow, run_id="r", stop=threading.Event(), window=30))
    finished.set()
    thread.join()
    assert len(outcomes) == 500
    assert slow.most <= 31


def test_a_stop_ends_it_with_everything_sent_accounted_for(log: MemoryLog) -> None:
    stop = threading.Event()
    with MemoryProducer(log, source="/tests", delivery_timeout_s=5) as producer:
        outcomes = publish_all(rows(100_000), producer, run_id="r", stop=stop, window=100)
        found = [next(outcomes)]
        stop.set()
        found += outcomes
    on_topic = sum(at.end - at.start for at in log.log_ranges())
    assert len(found) == on_topic < 1000


def test_a_broker_that_goes_away_half_way_and_a_second_run(log: MemoryLog) -> None:
    stop = threading.Event()
    with MemoryProducer(log, source="/tests", delivery_timeout_s=0.5) as producer:
        outcomes = publish_all(rows(2000), producer, run_id="r", stop=stop, window=50)
        found = [next(outcomes) for _ in range(200)]
        log.online = False
        found += outcomes
    log.online = True
    acknowledged = {str(outcome.event and outcome.event.id) for outcome in found if outcome.status == "acknowledged"}
    ranges = log.log_ranges()
    on_topic = [record for at in ranges for record in log.read(at.partition, at.start, at.end)]
    assert acknowledged <= {(record.key or b"").decode() for record in on_topic}
    assert 200 <= len(acknowledged) < 2000
    assert any(outcome.status == "not acknowledged" for outcome in found)

    again = publish(log, 2000, run_id="r")
    assert {outcome.status for outcome in again} == {"acknowledged"}
    assert acknowledged < {str(outcome.event and outcome.event.id) for outcome in again}
