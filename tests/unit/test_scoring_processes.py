"""Parts of a file that processes read and score."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from bdlab.errors import BdlabError, ModelError
from bdlab.events import Review, Score
from bdlab.model import Scorer, load_scorer
from bdlab.reviews.bulk import ScoredRow, score_each
from bdlab.reviews.files import BadRow, Format, Place, ReviewFile, Row
from bdlab.reviews.workers import PART_ROWS, ScoringProcesses

CSV = "Text,Summary\n" + '"good, not\nbad",\n,\n\n"""great"" é",fine\n' * (PART_ROWS + 7)
JSON = '{"text": "good, not\\nbad"}\n\n{"Text": 5}\n{"summary": "fine", "TEXT": "great é"}\n' * (
    PART_ROWS + 7
)
FILES = [(CSV, "csv"), (CSV.replace("\n", "\r\n"), "csv"), ("\ufeff" + CSV, "csv"), (JSON, "jsonl")]


Opened = tuple[ReviewFile, list[Row], list[Place | None]]


@contextmanager
def opened(
    folder: Path, content: str, kind: Format
) -> Iterator[tuple[ReviewFile, list[Row], list[Place | None]]]:
    path = folder / "reviews"
    path.write_bytes(content.encode())
    with path.open("rb") as pipe, ReviewFile(str(path), pipe, kind=kind, max_row_bytes=9999) as file:
        rows: list[Row] = []
        places: list[Place | None] = [None]
        for number, row in enumerate(file.rows(), 1):
            if number % PART_ROWS == 0:
                places.append(file.place)
            if not isinstance(row, BadRow):
                rows.append(row)
        yield file, rows, places


@pytest.mark.parametrize(("content", "kind"), FILES)
def test_the_parts_together_are_the_file_in_its_order(tmp_path: Path, content: str, kind: Format) -> None:
    scorer = load_scorer()
    with (
        opened(tmp_path, content, kind) as (file, rows, places),
        ScoringProcesses(file, scorer, 3) as processes,
    ):
        assert len(places) > 2
        assert list(processes.scored(places, threading.Event())) == list(score_each(rows, scorer))


class Failing:
    name = "failing"
    sha256 = ""
    blocking = False

    def __init__(self, error: BdlabError | None) -> None:
        self._error = error

    def score(self, review: Review) -> Score:
        raise NotImplementedError

    def score_many(self, reviews: Sequence[Review]) -> list[Score]:
        if self._error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        raise self._error or AssertionError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModelError("the model failed", hint="Mend it."), "the model failed"),
        (None, r"ended \(exit code -9\)"),
    ],
)
def test_what_fails_in_a_process_is_told_and_leaves_none(
    tmp_path: Path, error: BdlabError | None, told: str
) -> None:
    scorer: Scorer = Failing(error)
    with opened(tmp_path, CSV, "csv") as (file, _, places), ScoringProcesses(file, scorer, 2) as processes:
        with pytest.raises(BdlabError, match=told) as raised:
            list(processes.scored(places, threading.Event()))
        assert raised.value.hint
    assert not multiprocessing.active_children()


def test_a_stop_ends_it_between_two_parts(tmp_path: Path) -> None:
    stop = threading.Event()
    with (
        opened(tmp_path, CSV, "csv") as (file, rows, places),
        ScoringProcesses(file, load_scorer(), 2) as processes,
    ):
        scored: Iterator[ScoredRow] = processes.scored(places, stop)
        first = next(scored)
        stop.set()
        assert 1 <= len([first, *scored]) <= PART_ROWS < len(rows)
