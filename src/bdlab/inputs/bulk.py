"""Many inputs scored, by processes too, and published in order, with the result of each."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from bdlab.errors import BrokerError, EventTooLarge
from bdlab.events import Event, Position, Score, Scorer
from bdlab.forked import Forked
from bdlab.inputs.files import InputFile, Place, Row

WINDOW = 2000
"""The most inputs that wait for their acknowledgement at once."""

PART_ROWS = 1000
"""The rows of a part, which are in memory at once in a process."""

_encoder = msgspec.msgpack.Encoder()

#: `not acknowledged`: it may be on the topic; `invalid`: the broker will never accept it.
Status = Literal["scored", "acknowledged", "not acknowledged", "invalid"]


class Publisher(Protocol):
    def publish(self, event: Event, done: Callable[[Position | BrokerError], None]) -> None: ...


class ScoredRow(NamedTuple):
    """An input of a file, the line on which it begins, and its score, None if it is not to be scored."""

    line: int
    given: Any
    score: Score | None


class RowResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one row. It has an `event` if it was to be published, a `position` if it is acknowledged,
    and a `problem` if that failed."""

    line: int
    given: Any
    score: Score | None
    model: str
    status: Status
    event: Event | None = None
    position: Position | None = None
    problem: BrokerError | None = None


def score_each(rows: Iterable[Row], scorer: Scorer, *, chunk: int = 200) -> Iterator[ScoredRow]:
    """Return each row with its score."""
    remaining = iter(rows)
    while part := list(islice(remaining, chunk)):
        scores = scorer.score_many([row.given for row in part])
        for row, score in zip(part, scores, strict=True):
            yield ScoredRow(row.line, row.given, score)


class ScoringProcesses(Forked):
    """Forked processes, which have the open `file` and the `scorer` from this one."""

    def __init__(self, file: InputFile, scorer: Scorer, count: int | None = None) -> None:
        super().__init__(partial(_score_part, file, scorer), f"scored {scorer.codec.contract.plural}", count)
        codec = scorer.codec
        rows: Any = list[tuple[int, codec.input, codec.score]]  # type: ignore[name-defined]
        self._decoder = msgspec.msgpack.Decoder(rows)

    def scored(self, places: Iterable[Place | None], stop: threading.Event) -> Iterator[ScoredRow]:
        """Return the scored inputs of the parts that begin at `places`, until `stop` is set.

        None is the place of the first row. Raises what reading and scoring raise, and BdlabError if a process ended."""
        for rows in self.results(places, stop.is_set, ahead=2):
            yield from map(ScoredRow._make, self._decoder.decode(rows))


def _score_part(file: InputFile, scorer: Scorer, place: Place | None) -> bytes:
    with file.reopened():
        part = islice(file.rows(place), PART_ROWS)
        rows = (row for row in part if isinstance(row, Row))
        return _encoder.encode(list(score_each(rows, scorer, chunk=PART_ROWS)))


def unpublished(scored: Iterable[ScoredRow], *, model: str) -> Iterator[RowResult]:
    """Return the result of each row without publishing it."""
    return (RowResult(**row._asdict(), model=model, status="scored") for row in scored)


def publish_rows(
    scored: Iterable[ScoredRow],
    publisher: Publisher,
    make: Callable[[ScoredRow], Event],
    *,
    stop: threading.Event,
    window: int = WINDOW,
) -> Iterator[RowResult]:
    """Publish the event that `make` makes of each row, in order, with at most `window` in flight.

    After the first that is not acknowledged, and once `stop` is set, no more rows are sent: those in flight
    are waited for, at most the delivery time-out, and the results end early."""
    in_flight, progress, failed = deque[_Sent](), threading.Event(), threading.Event()

    def send(sent: _Sent) -> None:
        def done(result: Position | BrokerError) -> None:
            sent.result = result
            if isinstance(result, BrokerError) and not isinstance(result, EventTooLarge):
                failed.set()
            progress.set()

        in_flight.append(sent)
        try:
            publisher.publish(sent.event, done)
        except BrokerError as error:
            done(error)

    def completed(keep: int) -> Iterator[RowResult]:
        """Return the results of the rows that have one, in order; wait until at most `keep` are without."""
        while in_flight:
            if in_flight[0].result is not None:
                yield in_flight.popleft().outcome()
            elif len(in_flight) <= keep:
                return
            else:
                progress.wait(0.5)
                progress.clear()

    for row in scored:
        if stop.is_set() or failed.is_set():
            break
        send(_Sent(row, make(row)))
        yield from completed(window)
    yield from completed(0)


class _Sent(msgspec.Struct):
    row: ScoredRow
    event: Event
    result: Position | BrokerError | None = None

    def outcome(self) -> RowResult:
        model = getattr(self.event, "model", "")
        row = partial(RowResult, **self.row._asdict(), model=model, event=self.event)
        if isinstance(self.result, Position):
            return row(status="acknowledged", position=self.result)
        invalid = isinstance(self.result, EventTooLarge)
        return row(status="invalid" if invalid else "not acknowledged", problem=self.result)
