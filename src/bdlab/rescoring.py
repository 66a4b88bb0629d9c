"""Scoring stored inputs again: who works on the planned ranges of offsets, and the account of what was scored.

A range is read, scored and stored in one transaction that holds the lock of its row. So any number of processes work at
once, and what one that ended had in hand is free again."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from operator import attrgetter
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

import msgspec

from bdlab.errors import ModelError
from bdlab.events import Scorer
from bdlab.forked import Forked
from bdlab.retry import AWAY, Backoff, Outage, wait_for

PLAN_EVERY_S = 3.0
"""How often what has arrived is planned."""

_PAUSE_S, _TELL_S = 0.5, 0.2

Score = Callable[[Sequence[tuple[Any, ...]]], str]
"""Makes of ids and inputs, a tuple each, the scores: a JSON array of objects with the id and the outputs."""


class Window(NamedTuple):
    """The offsets of some partitions of logs, from each first one to before the one after."""

    log_ids: list[int]
    partitions: list[int]
    firsts: list[int]
    afters: list[int]


class Done(NamedTuple):
    """What was scored: its offsets, the predictions in it, and how many of them had a score of this model before."""

    offsets: int = 0
    predictions: int = 0
    known: int = 0

    def plus(self, other: "Done") -> "Done":
        return Done(*map(sum, zip(self, other, strict=True)))


class Ranges(Protocol):
    """The ranges of one model, for one thread. All but `close` raise DatabaseError, VaultError, ContractMismatch."""

    model: str
    run: str

    def close(self) -> None: ...
    def plan(self, since: datetime | None, until: datetime | None, beyond: Window | None = None) -> Window:
        """Plan what was stored from `since` to before `until`, except what is planned already; `beyond` is known to be.
        Return what was asked for."""

    def work(self, score: Score, window: Window) -> Done | None:
        """Score a range that overlaps `window`, and store that; return None if there is none that is free."""

    def left(self, window: Window) -> tuple[int, int]:
        """Return how many ranges that overlap `window` are not done, and their offsets."""

    def done(self) -> tuple[int, int]:
        """Return how many ranges this run has done, and the predictions in them."""


class Rescored(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has done: of its `predictions`, `known` had a score of this model already. `ranges_left` of what was
    asked for are not done."""

    model: str
    run: str
    ranges: int
    predictions: int
    known: int
    ranges_left: int
    seconds: float


class RescoredPartition(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions of a partition: stored, in ranges that are done, scored of these, in open ranges, and in none."""

    cluster_id: str
    topic: str
    partition: int
    topic_id: str
    stored: int
    done: int
    rescored: int
    open_ranges: int
    open: int
    unplanned: int


class RescoredReport(msgspec.Struct, frozen=True, kw_only=True):
    """`verified` if no range is open, each prediction of a range that is done is scored, and nothing else is. `missing`
    (PARTITION/OFFSET and id) and `orphans` (ids without a prediction) are cut to a limit; `orphan_count` is not."""

    verified: bool
    model: str
    partitions: tuple[RescoredPartition, ...]
    missing: tuple[tuple[str, str], ...]
    orphans: tuple[str, ...]
    orphan_count: int


@contextmanager
def scoring(scorer: Scorer, count: int) -> Iterator[list[Score]]:
    """Yield so many functions, each for one thread, that score in a process of their own if the scorer allows it."""
    score = partial(_score, scorer)
    with ExitStack() as stack:
        if not scorer.forkable:
            yield [score] * count
            return
        what = f"scores {scorer.codec.contract.plural}"
        processes = [stack.enter_context(Forked(score, what, 1)) for _ in range(count)]
        yield [partial(_score_there, process) for process in processes]


def _score_there(process: Forked, rows: Sequence[tuple[Any, ...]]) -> str:
    return next(process.results([rows], lambda: False))  # type: ignore[no-any-return]


def _score(scorer: Scorer, rows: Sequence[tuple[Any, ...]]) -> str:
    contract, given = scorer.codec.contract, scorer.codec.input
    names = [field.column for field in contract.outputs]
    outputs = attrgetter("warning", *names)  # a tuple also of one
    inputs = [given(**dict(zip(contract.columns, row[1:], strict=True))) for row in rows]
    try:
        scores = scorer.score_many(inputs)
    except Exception:
        for row, one in zip(rows, inputs, strict=True):
            try:
                scorer.score(one)
            except Exception as error:
                raise ModelError(
                    f"{scorer.name} fails on the {contract.noun} with the id {row[0]}: {error}",
                    hint="What was scored before it stays; its range of offsets stays open for a model that can.",
                ) from error
        raise
    found = [dict(zip(names, outputs(score)[1:], strict=True)) for score in scores]
    return msgspec.json.encode([{"id": row[0], **each} for row, each in zip(rows, found, strict=True)]).decode()


@dataclass
class Rescoring:
    """One run: a thread for each of `scores`, with ranges that `make` makes.

    With `follow` it goes on with what arrives, until `stop` is set. Servers that are away are waited for, at the start
    for at most `patience_s` seconds. `tell` is called several times a second with what is done, and the offsets that
    were left at the beginning."""

    make: Callable[[], Ranges]
    scores: Sequence[Score]
    stop: threading.Event
    follow: bool
    patience_s: float
    tell: Callable[[Done, int], None]

    def run(self, since: datetime | None, until: datetime | None) -> Rescored:
        """Score what was stored from `since` to before `until`. A range in hand is finished when `stop` is set. Raises
        ModelError if the model fails on a row, DatabaseError, VaultError."""
        began, done, self._finished = time.monotonic(), Done(), SimpleQueue[Done]()
        outage = Outage("what has arrived is not planned yet", "going on")
        with closing(self.make()) as ranges, ThreadPoolExecutor(len(self.scores)) as pool:
            waited = partial(wait_for, "PostgreSQL", timeout_s=self.patience_s, stop=self.stop)
            self._window: Window = waited(partial(ranges.plan, since, until))
            _, total = waited(partial(ranges.left, self._window))
            due = time.monotonic() + PLAN_EVERY_S
            workers = [pool.submit(self._work, score) for score in self.scores]
            try:
                while wait(workers, _TELL_S).not_done or not self._finished.empty():
                    while not self._finished.empty():
                        done = done.plus(self._finished.get())
                    self.tell(done, total)
                    if self.follow and not self.stop.is_set() and time.monotonic() > due:
                        due = time.monotonic() + PLAN_EVERY_S
                        try:
                            self._window = ranges.plan(since, until, self._window)
                            outage.over()
                        except AWAY as error:
                            outage.failed(error)
            except BaseException:
                self.stop.set()  # or the pool would wait for those who follow
                raise
            for worker in workers:
                worker.result()
            # The database knows better: a connection may end between a commit and its answer.
            count, predictions = waited(ranges.done)
            left, _ = waited(partial(ranges.left, self._window))
        return Rescored(
            model=ranges.model,
            run=ranges.run,
            ranges=count,
            predictions=predictions,
            known=done.known,
            ranges_left=left,
            seconds=round(time.monotonic() - began, 3),
        )

    def _work(self, score: Score) -> None:
        backoff, outage = Backoff(0.1, 2.0), Outage("a range is not scored yet", "going on")
        with closing(self.make()) as ranges:
            while not self.stop.is_set():
                try:
                    if done := ranges.work(score, self._window):
                        self._finished.put(done)
                    elif not self.follow and not ranges.left(self._window)[0]:
                        return
                    else:  # others have them, and may yet lose them
                        self.stop.wait(_PAUSE_S)
                except AWAY as error:
                    outage.failed(error)
                    backoff.wait(self.stop)
                except BaseException:
                    self.stop.set()
                    raise
                else:
                    outage.over()
                    backoff.reset()
