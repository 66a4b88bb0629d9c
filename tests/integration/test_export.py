"""What is stored as Parquet files: whole, resumed after kill -9, and checked without a server."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import bdlab
from bdlab.errors import BdlabError, InvalidInput
from bdlab.export import TABLES, Folder, Manifest, Plan, Range, export, verify
from bdlab.postgres.accounts import prune
from bdlab.postgres.exports import Exporter
from bdlab.postgres.store import Store
from tests.fix_database import Database
from tests.fix_pipeline import Pipeline
from tests.samples import accepted, at, dead, event

PARTITIONS, OFFSETS = 2, 40
PART = 10


class InParts:
    """A database of which an export has parts of ten offsets; `before` is called before each is read."""

    def __init__(self, database: Database, before: Callable[[int], None] = lambda _: None) -> None:
        self._source = Exporter(database.credentials("reader"))
        self._before = before
        self.read = 0

    def plan(self, since: datetime | None, until: datetime | None) -> Plan:
        return msgspec.structs.replace(self._source.plan(since, until), part_offsets=PART)

    def rows(self, part: Range, tables: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, list[Any]]]:
        self._before(self.read)
        self.read += 1
        for table, rows in self._source.rows(part, tables):
            yield table, rows
            if table == "predictions":
                self._before(-self.read)


def written(
    folder: Path | str, source: InParts, since: datetime | None = None, until: datetime | None = None
) -> Manifest:
    return export(Folder(str(folder)), source, since, until, version="1", stop=threading.Event(), tell=lambda *_: None)


def problems(folder: Path | str) -> list[str]:
    return list(verify(Folder(str(folder)), limit=50, tell=lambda *_: None).problems)


@pytest.fixture
def filled(database: Database) -> Database:
    """Forty offsets in each of two partitions: of ten two are duplicates, one is a dead letter."""
    with closing(Store(database.credentials("writer"))) as store:
        store.open()
        for partition in range(PARTITIONS):
            store.start_offsets([at(0, partition)])
            known = event()
            for offset in range(0, OFFSETS, PART):
                batch: list[Any] = [accepted(at(offset + i, partition), event()) for i in range(PART - 3)]
                again = [accepted(at(offset + PART - 3 + i, partition), known) for i in range(2)]
                store.store([*batch, *again, dead(at(offset + PART - 1, partition))])
    return database


def killed_at(database: Database, folder: Path, number: int) -> None:
    """Export in a process that kills itself before it reads part `number`, or in the middle of part -`number`."""

    def kill(reached: int) -> None:
        if reached == number:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            written(folder, InParts(database, kill))
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_an_export_goes_on_after_kill_9_and_keeps_what_is_whole(filled: Database, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed_at(filled, out, 3)
    with pytest.raises(BdlabError, match=r"has no export.json, so that no export is finished there"):
        problems(out)
    killed_at(filled, out, -2)
    kept = {path: path.stat().st_mtime_ns for path in (out / "parts").iterdir()}
    assert len(kept) == 4
    spoilt = min((out / "predictions").glob("[!.]*"))
    spoilt.write_bytes(spoilt.read_bytes()[:-9])
    source = InParts(filled)
    done = written(out, source)
    assert source.read == 1 + PARTITIONS * OFFSETS // PART - len(kept)
    assert done.counts == {"predictions": 58, "feedback": 0, "duplicates": 14, "dead_letters": 8}
    assert problems(out) == []
    table = ds.dataset(out / "predictions", format="parquet").to_table()
    stored = filled.execute(
        'SELECT id::text, partition, "offset", prediction, explanation::text, stored_at FROM predictions'
    )
    names = ("id", "partition", "offset", "prediction", "explanation", "stored_at")
    assert sorted(tuple(row[name] for name in names) for row in table.to_pylist()) == sorted(stored)
    letters = ds.dataset(out / "dead_letters", format="parquet").to_table().to_pylist()
    value = filled.execute("SELECT value FROM dead_letters LIMIT 1")[0][0]
    assert (len(letters), letters[0]["value"]) == (8, bytes(value))
    with pytest.raises(InvalidInput, match="has a finished export"):
        written(out, InParts(filled))
    (tmp_path / "other" / "x").mkdir(parents=True)
    (tmp_path / "other" / "x" / "y").touch()
    with pytest.raises(InvalidInput, match="is not empty"):
        written(tmp_path / "other", InParts(filled))


def test_files_that_were_changed_lost_or_added_are_named(filled: Database, tmp_path: Path) -> None:
    written(tmp_path, InParts(filled))
    first, second, third, *_ = sorted((tmp_path / "predictions").iterdir())
    rows = pq.read_table(first)
    pq.write_table(rows.slice(1), first)
    second.unlink()
    third.rename(third.with_name("copy.parquet"))
    found = problems(tmp_path)
    for told in (
        f"predictions/{first.name} is not what was written: its SHA-256 is another one",
        f"predictions/{first.name} has 7 rows, and 8 were written",
        "log 1, partition 0: 1 positions missing, the first 0",
        f"predictions/{second.name} is missing",
        "predictions/copy.parquet is no file of this export",
    ):
        assert told in found
    pq.write_table(pq.ParquetFile(tmp_path / "predictions/copy.parquet").read(), first)
    assert f"predictions/{first.name} has positions of other parts" in problems(tmp_path)


def test_moments_become_positions_at_an_address(filled: Database) -> None:
    filled.execute("UPDATE predictions SET stored_at = '2026-01-01Z' WHERE \"offset\" < 20")
    filled.execute("UPDATE duplicates SET recorded_at = '2026-01-01Z' WHERE \"offset\" < 20")
    filled.execute("UPDATE dead_letters SET recorded_at = '2026-01-01Z' WHERE \"offset\" < 20")
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    late = written("memory://late", InParts(filled), since=moment)
    early = written("memory://early", InParts(filled), until=moment)
    assert [one[1:] for one in late.ranges] == [(partition, 20, 40) for partition in range(PARTITIONS)]
    assert [one[1:] for one in early.ranges] == [(partition, 0, 20) for partition in range(PARTITIONS)]
    assert problems("memory://late") == problems("memory://early") == []
    assert fsspec.filesystem("memory").find("/late/predictions")
    assert all(set(one.tables) == set(TABLES) for one in (late, early))


def test_rows_that_are_pruned_meanwhile_are_noticed(filled: Database, tmp_path: Path) -> None:
    def delete(number: int) -> None:
        if number == 1:
            list(prune(filled.credentials("owner"), before=datetime.now(UTC), dry_run=False))

    with pytest.raises(
        BdlabError, match=r"of 10 positions of log 1, partition 0 from 10 on the database has 0: .*pruned"
    ):
        written(tmp_path / "out", InParts(filled, delete))


def test_the_commands_export_and_check_without_a_server(pipeline: Pipeline, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": f"good {i}"}) + "\n" for i in range(50))
    assert pipeline.run("predict", "--file", "-", "--format", "jsonl", stdin=lines).returncode == 0
    assert pipeline.run("consume", "--until-idle").returncode == 0
    out = tmp_path / "out"
    done = pipeline.run("export", str(out), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["counts"]["predictions"] >= 50
    check = pipeline.run("verify", "--export", str(out), VAULT_ADDR="http://127.0.0.1:1")
    assert (check.returncode, check.stdout.startswith("verified: ")) == (0, True), check.stderr
    (tmp_path / "scores").mkdir()
    scorer = bdlab.rescorer("")
    for path in (out / "predictions").iterdir():
        pq.write_table(scorer(pq.read_table(path)), tmp_path / "scores" / path.name)
    bring_in = ("rescore", "--from", str(tmp_path / "scores"), "--model", scorer.model, "--json")
    first, again = (json.loads(pipeline.run(*bring_in).stdout) for _ in range(2))
    assert first["predictions"] == again["predictions"] == again["known"] == found["counts"]["predictions"]
    assert (first["ranges_left"], again["ranges"]) == (0, 0)
    assert pipeline.run("verify", "--rescored", scorer.model).returncode == 0
    next((out / "predictions").iterdir()).unlink()
    check = pipeline.run("verify", "--export", str(out), "--json", VAULT_ADDR="http://127.0.0.1:1")
    assert (check.returncode, json.loads(check.stdout)["verified"]) == (10, False)
