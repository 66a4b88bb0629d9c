"""Parts of a file that processes read and score."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from bdlab.errors import BdlabError, ModelError
from bdlab.events import Input, Score
from bdlab.forked import Forked
from bdlab.inputs.bulk import PART_ROWS, ScoredRow, ScoringProcesses, score_each
from bdlab.inputs.files import BadRow, Format, InputFile, Place, Row
from bdlab.model import Scorer, load_scorer
from tests.samples import REVIEW, REVIEWS

CSV = "Text,Summary\n" + '"good, not\nbad",\n,\n\n"""great"" é",fine\n' * (PART_ROWS + 7)
JSON = '{"text": "good, not\\nbad"}\n\n{"Text": 5}\n{"summary": "fine", "TEXT": "great é"}\n' * (PART_ROWS + 7)
FILES = [(CSV, "csv"), (CSV.replace("\n", "\r\n"), "csv"), ("\ufeff" + CSV, "csv"), (JSON, "jsonl")]


Opened = tuple[InputFile, list[Row], list[Place | None]]


@contextmanager
def opened(folder: Path, content: str, kind: Format) -> Iterator[tuple[InputFile, list[Row], list[Place | None]]]:
    path = folder / "reviews"
    path.write_bytes(content.encode())
    with path.open("rb") as pipe, InputFile(str(path), pipe, REVIEW, kind=kind, max_row_bytes=9999) as file:
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
    with opened(tmp_path, content, kind) as (file, rows, places), ScoringProcesses(file, scorer, 3) as processes:
        assert len(places) > 2
        assert list(processes.scored(places, threading.Event())) == list(score_each(rows, scorer))


class Failing:
    name = "failing"
    sha256 = ""
    blocking = False
    codec = REVIEWS
    forkable = True

    def __init__(self, error: BdlabError | None) -> None:
        self._error = error

    def score(self, review: Input) -> Score:
        raise NotImplementedError

    def score_many(self, reviews: Sequence[Input]) -> list[Score]:
        if self._error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        raise self._error or AssertionError


@pytest.mark.parametrize(
    ("error", "told"),
    [(ModelError("the model failed", hint="Mend it."), "the model failed"), (None, r"ended \(exit code -9\)")],
)
def test_what_fails_in_a_process_is_told_and_leaves_none(tmp_path: Path, error: BdlabError | None, told: str) -> None:
    scorer: Scorer = Failing(error)
    with opened(tmp_path, CSV, "csv") as (file, _, places), ScoringProcesses(file, scorer, 2) as processes:
        with pytest.raises(BdlabError, match=told) as raised:
            list(processes.scored(places, threading.Event()))
        assert raised.value.hint
    assert not multiprocessing.active_children()


def test_a_result_waits_for_earlier_ones_while_other_processes_go_on() -> None:
    others = multiprocessing.get_context("fork").Semaphore(0)

    def work(number: int) -> int:
        if number:
            others.release()
        else:
            assert all(others.acquire(timeout=30) for _ in range(3))
        return number

    with Forked(work, "counted", 2) as processes:
        assert list(processes.results(range(20), lambda: False)) == list(range(20))


def test_a_stop_ends_it_between_two_parts(tmp_path: Path) -> None:
    stop = threading.Event()
    with opened(tmp_path, CSV, "csv") as (file, rows, places), ScoringProcesses(file, load_scorer(), 2) as processes:
        scored: Iterator[ScoredRow] = processes.scored(places, stop)
        first = next(scored)
        stop.set()
        assert 1 <= len([first, *scored]) <= PART_ROWS < len(rows)


def run(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bdlab_cli", "predict", "--no-publish", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def test_a_large_file_gives_the_same_results_as_a_small_one_and_ctrl_c_leaves_whole_rows(tmp_path: Path) -> None:
    texts = (f"Number {place} is not <b>good</b> & ½ bad, never mind." for place in range(30_000))
    lines = [json.dumps({"text": text, "summary": "fine"}) + "\n" for text in texts]
    (tmp_path / "large.jsonl").write_text("".join(lines))
    (tmp_path / "small.jsonl").write_text("".join(lines[:300]))
    found = {}
    for name in ("small", "large"):
        ended = run("--file", str(tmp_path / f"{name}.jsonl"), "--output", str(tmp_path / f"{name}.out.jsonl"))
        assert "reviews scored" in ended.communicate(timeout=120)[1]
        assert ended.returncode == 0
        found[name] = (tmp_path / f"{name}.out.jsonl").read_text().splitlines()
    assert len(found["large"]) == len(lines)
    for small, large in zip(found["small"], found["large"], strict=False):
        one, other = json.loads(small), json.loads(large)
        assert one.pop("explanation") == other.pop("explanation")
        assert one == pytest.approx(other, abs=1e-9)

    with run("--file", str(tmp_path / "large.jsonl"), "--json") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        first = running.stdout.readline()
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        known = [json.loads(line)["line"] for line in (first, *running.stdout)]
        assert running.wait(60) == 1
        assert "the run was interrupted" in running.stderr.read()
    assert known == list(range(1, len(known) + 1))
    assert len(known) < len(lines)
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)
