"""Many reviews scored and published in order, with the result of each."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Literal, Protocol

import msgspec

from bdlab.errors import BrokerError, EventTooLarge
from bdlab.events import Position, PredictionEvent, Review, Score, idempotent_id, make_event
from bdlab.reviews.files import Row

WINDOW = 2000
"""The most reviews that wait for their acknowledgement at once."""

_CHUNK = 200
_WAIT_S = 0.5

#: `not acknowledged`: it may be on the topic; `invalid`: the broker will never accept it.
Status = Literal["scored", "acknowledged", "not acknowledged", "invalid"]


class Scorer(Protocol):
    @property
    def name(self) -> str: ...

    def score_many(self, reviews: list[Review]) -> list[Score]: ...


class Publisher(Protocol):
    def publish(
        self, event: PredictionEvent, done: Callable[[Position | BrokerError], None], *, traceparent: str = ""
    ) -> None: ...


class RowResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one row. It has a `position` if it is acknowledged, and a `problem` if that failed."""

    line: int
    event: PredictionEvent
    score: Score
    status: Status
    position: Position | None = None
    problem: BrokerError | None = None


def row_id_key(run_id: str, line: int) -> str:
    """Return the idempotency key of a row: the same file under the same run id gives the same ids."""
    return f"{run_id}:{line}"


def score_rows(rows: Iterable[Row], scorer: Scorer, *, run_id: str) -> Iterator[RowResult]:
    """Score each row without publishing it."""
    for line, event, score in _events(rows, scorer, run_id):
        yield RowResult(line=line, event=event, score=score, status="scored")


def publish_rows(
    rows: Iterable[Row],
    scorer: Scorer,
    publisher: Publisher,
    *,
    run_id: str,
    stop: threading.Event,
    window: int = WINDOW,
) -> Iterator[RowResult]:
    """Score and publish each row, in order, with at most `window` in flight.

    After the first that is not acknowledged, and once `stop` is set, no more rows are sent: those in flight
    are waited for, at most the delivery time-out, and the results end early.
    """
    in_flight = _InFlight()
    for line, event, score in _events(rows, scorer, run_id):
        if stop.is_set() or in_flight.failed:
            break
        in_flight.send(publisher, line, event, score)
        yield from in_flight.completed(keep=window)
    yield from in_flight.completed(keep=0)


def _events(rows: Iterable[Row], scorer: Scorer, run_id: str) -> Iterator[tuple[int, PredictionEvent, Score]]:
    remaining = iter(rows)
    while chunk := list(islice(remaining, _CHUNK)):
        scores = scorer.score_many([row.review for row in chunk])
        for row, score in zip(chunk, scores, strict=True):
            event_id = idempotent_id(row_id_key(run_id, row.line), row.review)
            yield row.line, make_event(event_id, row.review, score, model=scorer.name), score


class _Sent(msgspec.Struct):
    line: int
    event: PredictionEvent
    score: Score
    result: Position | BrokerError | None = None


class _InFlight:
    """The rows that were sent and have no result yet, in order. `failed`: one was not acknowledged."""

    def __init__(self) -> None:
        self._sent: deque[_Sent] = deque()
        self._progress = threading.Event()
        self.failed = False

    def send(self, publisher: Publisher, line: int, event: PredictionEvent, score: Score) -> None:
        sent = _Sent(line, event, score)
        self._sent.append(sent)

        def done(result: Position | BrokerError) -> None:
            sent.result = result
            if isinstance(result, BrokerError) and not isinstance(result, EventTooLarge):
                self.failed = True
            self._progress.set()

        try:
            publisher.publish(event, done)
        except BrokerError as error:
            done(error)

    def completed(self, *, keep: int) -> Iterator[RowResult]:
        """Return the results of the rows that have one, in order; wait until at most `keep` are without."""
        while self._sent:
            sent = self._sent[0]
            if sent.result is None:
                if len(self._sent) <= keep:
                    return
                self._progress.wait(_WAIT_S)
                self._progress.clear()
                continue
            self._sent.popleft()
            row = partial(RowResult, line=sent.line, event=sent.event, score=sent.score)
            if isinstance(sent.result, Position):
                yield row(status="acknowledged", position=sent.result)
            elif isinstance(sent.result, EventTooLarge):
                yield row(status="invalid", problem=sent.result)
            else:
                yield row(status="not acknowledged", problem=sent.result)
