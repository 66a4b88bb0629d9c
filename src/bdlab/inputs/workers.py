"""Processes that read and score parts of a file, with the results in the file's order."""

import threading
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import msgspec

from bdlab.forked import Forked
from bdlab.inputs.bulk import ScoredRow, Scorer, score_each
from bdlab.inputs.files import InputFile, Place, Row

PART_ROWS = 1000
"""The rows of a part, which are in memory at once in a process."""

_encoder = msgspec.msgpack.Encoder()


class ScoringProcesses(Forked):
    """Forked processes, which have the open `file` and the `scorer` from this one."""

    def __init__(self, file: InputFile, scorer: Scorer, count: int | None = None) -> None:
        super().__init__(partial(_score_part, file, scorer), f"scored {scorer.codec.contract.plural}", count)
        codec = scorer.codec
        rows: Any = list[tuple[int, codec.input, codec.score]]  # type: ignore[name-defined]
        self._decoder = msgspec.msgpack.Decoder(rows)

    def scored(self, places: Iterable[Place | None], stop: threading.Event) -> Iterator[ScoredRow]:
        """Return the scored inputs of the parts that begin at `places`, until `stop` is set.

        None is the place of the first row. Raises what reading and scoring raise, and BdlabError if a process ended.
        """
        for rows in self.results(places, stop.is_set, ahead=2):
            yield from map(ScoredRow._make, self._decoder.decode(rows))


def _score_part(file: InputFile, scorer: Scorer, place: Place | None) -> bytes:
    with file.reopened():
        part = islice(file.rows(place), PART_ROWS)
        rows = (row for row in part if isinstance(row, Row))
        return _encoder.encode(list(score_each(rows, scorer, chunk=PART_ROWS)))
