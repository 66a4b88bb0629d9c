"""Many reviews scored and published in order, with the result of each."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Literal, Protocol

import msgspec

from bdlab.errors import BrokerError, EventTooLarge
from bdlab.events import Position, PredictionEvent, Review, Score, idempotent_id, make_event
from bdlab.reviews.files import Row

WINDOW = 2000
"""Reviews that may wait for their acknowledgement at once."""

_CHUNK = 200
_WAIT_S = 0.5

#: `not acknowledged`: it may be on the topic; `invalid`: the broker will never take it.
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
    """A review that was tried. `position` is None, and `problem` says why, where it is not acknowledged."""

    line: int
    event: PredictionEvent
    score: Score
    status: Status
    position: Position | None = None
    problem: BrokerError | None = None


def row_id_key(run_id: str, line: int) -> str:
    """What makes a row's id, together with its review: the same file under the same run has the same ids."""
    return f"{run_id}:{line}"


def score_rows(rows: Iterable[Row], scorer: Scorer, *, run_id: str) -> Iterator[RowResult]:
    """Each row scored and not published."""
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
    """Each row scored and published, in the order of the rows, with at most `window` in flight.

    After the first that is not acknowledged, and once `stop` is set, no further row is sent: what is in
    flight is waited for (the publisher bounds that time), and the results end early.
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


class _Sent:
    __slots__ = ("event", "line", "result", "score")

    def __init__(self, line: int, event: PredictionEvent, score: Score) -> None:
        self.line = line
        self.event = event
        self.score = score
        self.result: Position | BrokerError | None = None


class _InFlight:
    """What was sent and is not reported yet, in order. `failed`: one was not acknowledged."""

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
        """What has a result, from the front on; waits until no more than `keep` are without."""
        while self._sent:
            head = self._sent[0]
            if head.result is None:
                if len(self._sent) <= keep:
                    return
                self._progress.wait(_WAIT_S)
                self._progress.clear()
                continue
            self._sent.popleft()
            yield _row_result(head, head.result)


def _row_result(sent: _Sent, result: Position | BrokerError) -> RowResult:
    tried = RowResult(line=sent.line, event=sent.event, score=sent.score, status="acknowledged")
    if isinstance(result, Position):
        return msgspec.structs.replace(tried, position=result)
    status: Status = "invalid" if isinstance(result, EventTooLarge) else "not acknowledged"
    return msgspec.structs.replace(tried, status=status, problem=result)
