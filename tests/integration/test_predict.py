"""`bdlab predict` as a person runs it, over real servers."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bdlab.events import Record, read_headers
from tests.fix_pipeline import BDLAB, IMPATIENT, IMPATIENT_S, Pipeline
from tests.integration.test_serve import on_topic
from tests.samples import event_of

HEADER = "Id,HelpfulnessNumerator,HelpfulnessDenominator,Score,Summary,Text\n"


def amazon(folder: Path, count: int, name: str = "reviews.csv") -> Path:
    path = folder / name
    rows = (f'{n},{n % 3},3,5,Summary {n},"Review {n}, which is good"\n' for n in range(count))
    path.write_text(HEADER + "".join(rows))
    return path


def by_key(records: list[Record]) -> dict[str, Record]:
    """Each record by its key, the prediction's id; other tests may have put records there that are no events."""
    return {(record.key or b"").decode(): record for record in records}


def json_lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def unread(
    pipeline: Pipeline, folder: Path, *arguments: str, **more: str
) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """A running `predict --json` and its output, which it can be ahead of by a pipe's length only.

    What it says on standard error is in the file `said`.
    """
    with (folder / "said").open("w") as said:
        running = subprocess.Popen(
            [*BDLAB, "predict", "--json", *arguments],
            env=pipeline.environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    assert running.stdout is not None
    with running.stdout:
        try:
            yield running, running.stdout
        finally:
            running.kill()
            running.wait(30)


@pytest.mark.with_tls
def test_one_review_is_published_and_shown(pipeline: Pipeline) -> None:
    done = pipeline.run("predict", "Great taste, will buy again.", "--summary", "Yummy")
    assert done.returncode == 0, done.stderr
    assert "★★★★★" in done.stdout
    assert "positive" in done.stdout
    assert done.stderr == ""

    arguments = ("Great taste, will buy again.", "--summary", "Yummy", "--json")
    [found] = json_lines(pipeline.run("predict", *arguments))
    [demo] = json_lines(pipeline.run("predict", *arguments, "--source", "demo"))
    assert found["state"] == demo["state"] == "acknowledged"
    records = by_key(on_topic(pipeline, {found["id"], demo["id"]}))
    assert [read_headers(records[one["id"]].headers)[1] for one in (found, demo)] == [b"predict", b"demo"]
    event = event_of(records[found["id"]])
    assert (event.text, event.summary) == ("Great taste, will buy again.", "Yummy")
    assert event.prediction == found["prediction"]


def test_a_csv_file_is_published_in_order(pipeline: Pipeline, tmp_path: Path) -> None:
    done = pipeline.run("predict", "--file", str(amazon(tmp_path, 500)), "--json")
    assert done.returncode == 0, done.stderr
    found = json_lines(done)
    assert [row["line"] for row in found] == list(range(2, 502))
    assert {row["state"] for row in found} == {"acknowledged"}
    assert all(UUID(row["id"]).version == 8 for row in found)
    assert "500 of 500 reviews acknowledged by the broker" in done.stderr
    assert "run id " in done.stderr
    records = by_key(on_topic(pipeline, {r["id"] for r in found}))
    eighth = event_of(records[found[7]["id"]])
    assert (eighth.text, eighth.helpfulness_numerator) == ("Review 7, which is good", 1)


def test_what_the_model_does_not_know_is_said_in_every_form(pipeline: Pipeline, tmp_path: Path) -> None:
    french = "Ce produit est vraiment mauvais, je suis très déçu - très !"
    alone = pipeline.run("predict", "--no-publish", french)
    assert "of the review's words" in alone.stdout
    assert not re.search(r"top words\s*│\s*-\s*│", alone.stdout)

    path = tmp_path / "two.csv"
    path.write_text(f'Text\n"{french}"\n"Great taste, I love it!"\n')
    table = pipeline.run("predict", "--no-publish", "--file", str(path)).stdout
    assert len(re.findall(r"% \?", table)) == 1
    assert "few words are known" in table
    [unknown, known] = json_lines(pipeline.run("predict", "--no-publish", "--json", "--file", str(path)))
    assert unknown["known_terms"] < 0.3
    assert "of the review's words" in unknown["warning"]
    assert (known["known_terms"], known["warning"]) == (1.0, None)
    output = tmp_path / "out.csv"
    pipeline.run("predict", "--no-publish", "--file", str(path), "--output", str(output))
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(float(row["known_terms"]), row["warning"]) for row in rows] == [
        (unknown["known_terms"], unknown["warning"]),
        (1.0, ""),
    ]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_results_go_to_a_file(pipeline: Pipeline, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"out{suffix}"
    done = pipeline.run("predict", "--file", "-", "--output", str(output), stdin='{"text": "good, \\"yes\\""}')
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    with output.open(newline="") as file:
        [row] = list(csv.DictReader(file)) if suffix == ".csv" else [json.loads(line) for line in file]
    assert (row["state"], row["text"], str(row["line"])) == ("acknowledged", 'good, "yes"', "1")
    assert UUID(row["id"])


def test_the_same_run_again_has_the_same_ids(pipeline: Pipeline, tmp_path: Path) -> None:
    path = str(amazon(tmp_path, 20))

    def ids(run_id: str) -> list[str]:
        done = pipeline.run("predict", "--file", path, "--json", "--run-id", run_id)
        return [row["id"] for row in json_lines(done)]

    first = ids("monday")
    assert ids("monday") == first
    assert not set(ids("tuesday")) & set(first)


def test_a_bad_row_keeps_everything_from_being_published(pipeline: Pipeline, tmp_path: Path) -> None:
    path = amazon(tmp_path, 300)
    path.write_text(path.read_text() + '300,x,3,5,S,Good\n301,1,1,5,S,""\n')
    done = pipeline.run("predict", "--file", str(path), "--json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "2 of 302 rows are no reviews, so nothing was published" in done.stderr
    assert "line 302: field 'HelpfulnessNumerator' has to be an integer" in done.stderr
    assert "line 303: field 'Text' is empty" in done.stderr

    done = pipeline.run("predict", "--file", str(path), "--json", "--skip-invalid")
    assert done.returncode == 0, done.stderr
    assert len(json_lines(done)) == 300
    assert "2 rows are left out" in done.stderr
    assert "line 302" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["--file", "/"], b"", "cannot be read: is a directory"),
        (["--file", "/nowhere.csv"], b"", "cannot be read: no such file"),
        (["--file", "-"], b"Text\n", "standard input holds no reviews: 0 rows"),
        (["--file", "-"], b"", "is empty"),
        (["--file", "-"], b"Score\n5\n", "the column 'Text' is missing"),
        (["--file", "-"], b"Text\n\xff\n", "line 2: not UTF-8: byte 0xff at offset 5"),
        (["--file", "-", "--format", "jsonl"], b"{", "line 1: is not valid JSON"),
        (["--file", "-", "--output", "x.pdf"], b"Text\na\n", "ends in none of .csv, .jsonl and .parquet"),
        ([" "], b"", "field 'text' is empty"),
        (["a\udcffb"], b"", "half of a surrogate pair"),
        ([], b"", "give either a review as the argument, or --file"),
        (["a", "--file", "-"], b"", "give either a review as the argument, or --file"),
        (["a", "--run-id", ""], b"", "--run-id"),
        (["-"], b" \n\n", "standard input is empty, and - is the review that it holds"),
        (["-"], b"caf\xe9", "standard input is not UTF-8: byte 0xe9 at offset 3"),
        (["-"], b"a" * 1_048_577, "standard input holds more than 1048576 bytes, and - is one review"),
    ],
)
def test_unusable_input_is_wrong_usage_and_named(
    pipeline: Pipeline, arguments: list[str], stdin: bytes, message: str
) -> None:
    done = pipeline.run("predict", *arguments, stdin=stdin)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["reviews.csv", "hard.csv", "soft.csv", "../{folder}/reviews.csv"])
@pytest.mark.parametrize("from_input", [False, True])
def test_an_output_that_is_the_input_is_refused(
    pipeline: Pipeline, tmp_path: Path, name: str, from_input: bool
) -> None:
    path = amazon(tmp_path, 3)
    (tmp_path / "hard.csv").hardlink_to(path)
    (tmp_path / "soft.csv").symlink_to(path)
    output = str(tmp_path / name.format(folder=tmp_path.name))
    before = path.read_text()
    with path.open("rb") as content:
        done = subprocess.run(
            [*BDLAB, "predict", "--no-publish", "--file", "-" if from_input else str(path), "--output", output],
            env=pipeline.environment(),
            stdin=content,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert "is the file that is read" in done.stderr
    assert path.read_text() == before


@pytest.mark.parametrize("away", [{"VAULT_ADDR": "http://127.0.0.1:1"}, {"BDLAB_VAULT_IDENTITY_DIR": "/nowhere"}])
def test_an_output_stays_what_it_was_where_nothing_could_be_published(
    pipeline: Pipeline, tmp_path: Path, away: dict[str, str]
) -> None:
    output = tmp_path / "out.csv"
    output.write_text("the results of yesterday")
    arguments = ("--file", str(amazon(tmp_path, 3)), "--output", str(output), "--startup-timeout", "0")
    done = pipeline.run("predict", *arguments, **away)
    assert done.returncode == 1
    assert output.read_text() == "the results of yesterday"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.csv", "reviews.csv"]


def test_published_reviews_are_told_and_count_where_the_output_is_full(pipeline: Pipeline, tmp_path: Path) -> None:
    path = amazon(tmp_path, 5)
    for arguments, told in (
        (["good"], "The review is published: id "),
        (["--json", "good"], "The review is published: id "),
        (["--file", str(path)], "5 of 5 reviews acknowledged by the broker"),
        (["--json", "--file", str(path)], "5 of 5 reviews acknowledged by the broker"),
    ):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [*BDLAB, "predict", *arguments],
                env=pipeline.environment(),
                stdin=subprocess.DEVNULL,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
        assert done.returncode == 0, done.stderr
        assert "standard output cannot be written: no space left on device; results are missing" in done.stderr
        assert told in done.stderr


def test_a_full_disk_under_the_output_is_accounted_for(pipeline: Pipeline, tmp_path: Path) -> None:
    full = tmp_path / "out.csv"
    full.symlink_to("/dev/full")
    done = pipeline.run("predict", "--file", str(amazon(tmp_path, 5)), "--output", str(full))
    assert done.returncode == 1
    assert "5 of 5 reviews acknowledged by the broker" in done.stderr
    assert "cannot be written: no space left on device" in done.stderr
    assert "--run-id" in done.stderr


def test_one_review_comes_from_standard_input(pipeline: Pipeline) -> None:
    done = pipeline.run("predict", "-", "--json", "--run-id", "x", stdin="Fine, käse,\nand\tmore\n")
    assert done.returncode == 0, done.stderr
    [found] = json_lines(done)
    records = by_key(on_topic(pipeline, {found["id"]}))
    assert event_of(records[found["id"]]).text == "Fine, käse,\nand\tmore"


def test_without_publishing_no_server_is_touched(pipeline: Pipeline, tmp_path: Path) -> None:
    away = {"VAULT_ADDR": "http://127.0.0.1:1", "BDLAB_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    done = pipeline.run("predict", "--no-publish", "--json", "--file", str(amazon(tmp_path, 50)), **away)
    assert done.returncode == 0, done.stderr
    found = json_lines(done)
    assert len(found) == 50
    assert {row["state"] for row in found} == {"scored"}
    assert not any("id" in row for row in found)


def test_without_a_broker_it_says_so_in_time(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.broker.stop()
    started = time.monotonic()
    done = pipeline.run("predict", "good", **IMPATIENT)
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "--run-id" in done.stderr
    assert time.monotonic() - started < IMPATIENT_S + 40

    done = pipeline.run("predict", "--json", "--file", str(amazon(tmp_path, 3000)), **IMPATIENT)
    assert done.returncode == 1
    assert "0 of 3000 reviews acknowledged" in done.stderr
    assert "not acknowledged (the broker may have them): lines 2-" in done.stderr
    assert "not sent: " in done.stderr


@pytest.mark.on_cluster
def test_a_broker_that_dies_half_way_and_the_same_run_again(pipeline: Pipeline, tmp_path: Path) -> None:
    path, count = amazon(tmp_path, 10_000), 10_000
    with unread(pipeline, tmp_path, "--file", str(path), "--run-id", "again", **IMPATIENT) as (running, output):
        printed = [next(output) for _ in range(500)]
        pipeline.broker.stop()
        rows = [json.loads(line) for line in (*printed, *output)]
        assert running.wait(90) == 1
    said = (tmp_path / "said").read_text()
    became = {state: [row["line"] for row in rows if row["state"] == state] for state in {r["state"] for r in rows}}
    acknowledged, lost = became["acknowledged"], became["not acknowledged"]
    assert 500 <= len(acknowledged) < count
    assert f"{len(acknowledged)} of {count} reviews acknowledged" in said
    unsent = count - len(rows)
    assert f"not sent: {unsent} reviews, all after line {rows[-1]['line']}" in said
    named = re.search(r"not acknowledged \(the broker may have them\): lines? ([\d, -]+)$", said, re.MULTILINE)
    assert named
    spans = [span.split("-") for span in named[1].split(", ")]
    assert lost == [line for span in spans for line in range(int(span[0]), int(span[-1]) + 1)]
    assert "--run-id again" in said

    pipeline.broker.start()
    pipeline.announce_broker()
    done = pipeline.run("predict", "--file", str(path), "--json", "--run-id", "again")
    assert done.returncode == 0, done.stderr
    second = json_lines(done)
    assert {row["state"] for row in second} == {"acknowledged"}
    assert {row["id"] for row in rows} < {row["id"] for row in second}
    assert len({row["id"] for row in second}) == count


def test_a_signal_ends_it_with_an_account(pipeline: Pipeline, tmp_path: Path) -> None:
    path = amazon(tmp_path, 10_000)
    for option, what in (("--publish", "sent"), ("--no-publish", "scored")):
        with unread(pipeline, tmp_path, "--file", str(path), option) as (running, output):
            next(output)
            running.send_signal(signal.SIGTERM)
            rows = list(output)
            assert running.wait(90) == 1
        assert len(rows) < 9_999
        said = (tmp_path / "said").read_text()
        assert "the run was interrupted" in said
        assert f"not {what}: " in said


def test_a_refused_identity_is_named(pipeline: Pipeline, tmp_path: Path) -> None:
    done = pipeline.run("predict", "good", BDLAB_VAULT_IDENTITY_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "predict" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_token_is_given_back(pipeline: Pipeline) -> None:
    """Each run's token is revoked at its end: the audit log has as many revocations as logins."""
    audit = next(pipeline.vault.folder.parent.rglob("audit*.log"))

    def count(path: str) -> int:
        lines = [json.loads(line) for line in audit.read_text().splitlines() if line.startswith("{")]
        return sum(
            line["type"] == "response" and line["request"]["path"] == path and "error" not in line for line in lines
        )

    before = count("auth/approle/login"), count("auth/token/revoke-self")
    assert pipeline.run("predict", "good").returncode == 0
    assert (count("auth/approle/login"), count("auth/token/revoke-self")) == (before[0] + 1, before[1] + 1)
