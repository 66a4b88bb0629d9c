"""Scoring stored inputs again: the processes that score, what a run has done, and the account of what was scored."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from bdlab.errors import ModelError
from bdlab.events import Scorer
from bdlab.forked import Forked

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
    return msgspec.json.encode(scored(scorer, rows)).decode()


def scored(scorer: Scorer, rows: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Return the id and the outputs of each row, which has the id and the inputs. Raises ModelError."""
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
                hint = "What was scored before it stays; its range of offsets stays open for a model that can."
                why = f"{scorer.name} fails on the {contract.noun} with the id {row[0]}: {error}"
                raise ModelError(why, hint=hint) from error
        raise
    found = [dict(zip(names, outputs(score)[1:], strict=True)) for score in scores]
    return [{"id": row[0], **each} for row, each in zip(rows, found, strict=True)]
