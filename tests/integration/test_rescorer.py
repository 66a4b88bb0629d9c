"""An export scored by `bdlab.rescorer` in another program, and its results brought in."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bdlab
from bdlab.contract import review_contract
from bdlab.errors import InvalidInput, ModelError
from bdlab.export import Folder, export
from bdlab.inputs import remote
from bdlab.model import load_scorer
from bdlab.model.arrow import read_scores
from bdlab.postgres import rescores
from bdlab.postgres.rescores import Ranges, account
from tests.fix_database import Database
from tests.integration.test_export import InParts
from tests.samples import REVIEWS

MODEL = load_scorer().name
ROWS = 400
DASK = Path(__file__).with_name("rescore_with_dask.py")


@pytest.fixture
def exported(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Database, Path]:
    """An export of 400 predictions, in parts of ten offsets; ranges to score again are of 25."""
    monkeypatch.setattr(rescores, "RANGE_OFFSETS", 25)
    database.execute("INSERT INTO logs (cluster_id, topic) VALUES ('c', 'predictions')")
    database.execute(
        f"""INSERT INTO predictions (id, summary, text, helpfulness_numerator, helpfulness_denominator, prediction,
            sentiment, confidence, explanation, model, created_at, stored_at, log_id, partition, "offset")
        SELECT gen_random_uuid(), 'Product review', 'terrible, or ' || n || ' times the best', 1, 1, 2.5, 'negative',
               0.9, '[]', 'old@1', now(), now(), 1, n % 2, n / 2 FROM generate_series(0, {ROWS - 1}) n;
        INSERT INTO sink_offsets (log_id, partition, first_offset, next_offset)
        VALUES (1, 0, 0, {ROWS // 2}), (1, 1, 0, {ROWS // 2})"""  # noqa: S608
    )
    folder = Folder(str(tmp_path / "out"))
    export(folder, InParts(database), None, None, version="1", stop=threading.Event(), tell=lambda *_: None)
    return database, tmp_path / "out" / "predictions"


def ranges_of(database: Database) -> Any:
    return closing(Ranges(database.credentials("rescore"), MODEL, review_contract(), str(uuid4())))


def bring_in(ranges: Ranges, path: Path) -> int:
    with remote.opened(str(path)) as file:
        done, window = ranges.bring_in(read_scores(file, path.name, MODEL, review_contract()))
    ranges.finish(window)
    return done.predictions - done.known


def test_a_rescorer_gives_what_the_model_says_in_each_form(exported: tuple[Database, Path]) -> None:
    table = pq.read_table(min(exported[1].iterdir()))
    rescore = pickle.loads(pickle.dumps(bdlab.rescorer("")))  # noqa: S301
    found = rescore(table)
    assert found.schema == rescore.schema
    inputs = [REVIEWS.input(**{name: row[name] for name in REVIEWS.contract.columns}) for row in table.to_pylist()]
    wanted = [(score.prediction, score.sentiment) for score in load_scorer("", many=True).score_many(inputs)]
    assert [(row["prediction"], row["sentiment"]) for row in found.to_pylist()] == wanted
    assert found.select(["id", "offset"]) == table.select(["id", "offset"])
    assert set(found["model"].to_pylist()) == {MODEL}
    batches = list(rescore(iter(table.to_batches(max_chunksize=3))))
    assert pa.Table.from_batches(batches) == found
    assert rescore(table.select(rescore.columns).to_pandas())["prediction"].tolist() == found["prediction"].to_pylist()
    with pytest.raises(InvalidInput, match="the column 'text' is missing"):
        rescore(table.drop_columns(["text"]))


def test_results_that_are_not_the_models_are_refused_by_file_and_column(
    exported: tuple[Database, Path], tmp_path: Path
) -> None:
    database, folder = exported
    good = bdlab.rescorer("")(pq.read_table(min(folder.iterdir())))

    def replaced(name: str, values: Any) -> pa.Table:
        return good.set_column(good.schema.get_field_index(name), name, values)

    path = tmp_path / "x.parquet"
    with ranges_of(database) as ranges:
        for table, kind, told in (
            (good.drop_columns(["sentiment"]), InvalidInput, "x.parquet: the column 'sentiment' is missing"),
            (replaced("prediction", pa.array(["1"] * 10)), InvalidInput, "'prediction' is of string, and has to be of"),
            (
                replaced("model", pa.array(["a@1"] * 10)),
                InvalidInput,
                "'model' has 'a@1', and what is brought in is of",
            ),
            (replaced("id", pa.array([str(uuid4())] * 10)), ModelError, "is that of no stored prediction"),
            (replaced("offset", pa.array(range(1, 11))), ModelError, "is that of no stored prediction"),
            (replaced("offset", pa.nulls(10, pa.int64())), InvalidInput, "the column 'offset' has nulls"),
            (replaced("prediction", pa.array([9.0] * 10)), ModelError, "the database refuses a score"),
        ):
            pq.write_table(table, path)
            with pytest.raises(kind, match=told):
                bring_in(ranges, path)
        path.write_bytes(b"PAR1")
        with pytest.raises(InvalidInput, match=r"x.parquet cannot be read as scores: "):
            bring_in(ranges, path)
    assert database.execute("SELECT count(*) FROM rescored") == [(0,)]


def test_a_range_is_done_once_each_of_its_predictions_has_its_score(
    exported: tuple[Database, Path], tmp_path: Path
) -> None:
    database, folder = exported
    rescore, path = bdlab.rescorer(""), tmp_path / "x.parquet"
    first, second, *rest = sorted(folder.iterdir())
    with ranges_of(database) as ranges:
        pq.write_table(rescore(pa.concat_tables(map(pq.read_table, [first, *rest]))), path)
        assert bring_in(ranges, path) == ROWS - 10
        report = account(database.credentials("reader"), MODEL, limit=9)
        assert (report.verified, [one.open_ranges for one in report.partitions]) == (False, [1, 0])
        pq.write_table(rescore(pq.read_table(second)), path)
        assert [bring_in(ranges, path) for _ in range(2)] == [10, 0]
    report = account(database.credentials("reader"), MODEL, limit=9)
    assert (report.verified, [one.rescored for one in report.partitions]) == (True, [ROWS // 2] * 2)


@pytest.mark.long
def test_dask_scores_an_export_though_a_worker_is_killed(exported: tuple[Database, Path], tmp_path: Path) -> None:
    database, folder = exported
    results = tmp_path / "results"
    done = subprocess.run(
        [sys.executable, str(DASK), str(folder), str(results)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["killed"] not in told["left"]
    assert told["written before"] < told["files"]
    with ranges_of(database) as ranges:
        assert sum(bring_in(ranges, path) for path in sorted(results.glob("*.parquet"))) == ROWS
    report = account(database.credentials("reader"), MODEL, limit=9)
    assert (report.verified, sum(one.rescored for one in report.partitions)) == (True, ROWS)
