"""Processes that read and score parts of a file, one a core, with the results in the file's order."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import msgspec

from bdlab.errors import BdlabError
from bdlab.reviews.bulk import ScoredRow, Scorer, score_each
from bdlab.reviews.files import Place, ReviewFile, Row

PART_ROWS = 1000
"""The rows of a part, which are in memory at once in a process."""

_WAIT_S = 0.2
_AHEAD = 2
"""The parts that a process has to score, or has scored and not handed over."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[ScoredRow])
_place = msgspec.msgpack.Decoder(Place | None)


class ScoringProcesses:
    """A context manager of `count` processes, by default one for each core that this process may use.

    They are forked, and have the open `file` and the `scorer` from this process: enter it while few threads
    run. They end with this process, and leave signals to it.
    """

    def __init__(self, file: ReviewFile, scorer: Scorer, count: int | None = None) -> None:
        self._file = file
        self._scorer = scorer
        self._count = count or len(os.sched_getaffinity(0))
        self._processes: list[tuple[BaseProcess, Connection]] = []

    def __enter__(self) -> ScoringProcesses:
        context = multiprocessing.get_context("fork")
        for _ in range(self._count):
            ours, theirs = context.Pipe()
            others = [ours, *(connection for _, connection in self._processes)]
            process = context.Process(
                target=_work, args=(self._file, self._scorer, theirs, others), daemon=True
            )
            process.start()
            theirs.close()
            self._processes.append((process, ours))
        return self

    def __exit__(self, *_: object) -> None:
        for process, connection in self._processes:
            connection.close()
            process.kill()  # it holds nothing that is not in the file
            process.join()
        self._processes.clear()

    def scored(self, places: Iterable[Place | None], stop: threading.Event) -> Iterator[ScoredRow]:
        """Return the scored reviews of the parts that begin at `places`, until `stop` is set.

        None is the place of the first row. Raises what reading and scoring raise, and BdlabError if a
        process ended.
        """
        remaining = iter(places)
        turns: deque[tuple[BaseProcess, Connection]] = deque()
        for process, connection in self._processes * _AHEAD:
            for place in islice(remaining, 1):
                connection.send_bytes(_encoder.encode(place))
                turns.append((process, connection))
        while turns and not stop.is_set():
            process, connection = turns[0]
            try:
                if not connection.poll(_WAIT_S):
                    continue
                rows = _received(connection.recv_bytes())
                turns.popleft()
                for place in islice(remaining, 1):
                    connection.send_bytes(_encoder.encode(place))
                    turns.append((process, connection))
            except (EOFError, OSError) as error:
                process.join(1)
                raise BdlabError(
                    f"a process that scored reviews has ended (exit code {process.exitcode})",
                    hint="It may have run out of memory. Run the command again.",
                ) from error
            yield from rows


def _received(message: bytes) -> list[ScoredRow]:
    if message[:1] == b"!":
        raise pickle.loads(message[1:])  # noqa: S301 - from a process of this one
    return _decoder.decode(message[1:])


def _work(file: ReviewFile, scorer: Scorer, connection: Connection, others: list[Connection]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for other in others:  # else it would not see that this process's parent has ended
        other.close()
    with file.reopened():
        while True:
            try:
                place = _place.decode(connection.recv_bytes())
            except EOFError:
                return
            try:
                part = islice(file.rows(place), PART_ROWS)
                rows = (row for row in part if isinstance(row, Row))
                answer = b"=" + _encoder.encode(list(score_each(rows, scorer, chunk=PART_ROWS)))
            except BdlabError as error:
                answer = b"!" + pickle.dumps(error)
            connection.send_bytes(answer)
