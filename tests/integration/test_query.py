"""Stored predictions by filters and cursor: over HTTP, and with `bdlab query`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
import pyarrow.parquet as pq
import pytest

from bdlab.postgres.reader import Reader
from bdlab.selection import Condition, PageCursor, Selection
from tests.fix_api import MemoryApi, serving
from tests.fix_database import Database
from tests.fix_pipeline import Pipeline

#: `first` to `last`: the numbers of the rows, five of them a batch, from the first second of 2026 on.
ROWS = """
    INSERT INTO predictions (id, summary, text, helpfulness_numerator, helpfulness_denominator, prediction, sentiment,
        confidence, explanation, model, source, created_at, stored_at, log_id, partition, "offset")
    SELECT ('00000000-0000-7000-8000-' || lpad(i::text, 12, '0'))::uuid, 's', repeat('x', {size}), 0, 0, 1 + i % 5,
        CASE i % 2 WHEN 0 THEN 'negative' ELSE 'positive' END, 0.5, '[]', 'm@' || i % 3,
        CASE i % 7 WHEN 0 THEN 'drill' ELSE 'serve' END, timestamptz '2026-01-01Z' + i * interval '1 ms',
        timestamptz '2026-01-01Z' + i / 5 * interval '1 s', 1, 0, i
    FROM generate_series({first}, {last}) i"""


def insert(database: Database, first: int, last: int, *, size: int = 10) -> None:
    database.execute(ROWS.format(first=first, last=last, size=size))


@pytest.fixture
def stored(database: Database) -> Iterator[httpx.Client]:
    """A client of an API over the rows of `database`."""
    api = MemoryApi()
    with Reader(database.credentials("reader")) as api.stored, api.producer, serving(api.parts) as client:  # type: ignore[assignment]
        yield client


def walk(client: httpx.Client, query: str, meanwhile: Callable[[], None] = lambda: None) -> list[int]:
    """The offsets of all pages, one after the other; `meanwhile` happens between two."""
    found: list[int] = []
    address: str | None = f"/predictions?{query}"
    while address:
        answer = client.get(address)
        assert answer.status_code == 200, answer.text
        page = [row["position"]["offset"] for row in answer.json()]
        assert page
        found += page
        address = cast("dict[str, Any]", answer.links).get("next", {}).get("url")
        meanwhile()
    return found


def test_pages_go_back_in_time_while_rows_are_inserted(database: Database, stored: httpx.Client) -> None:
    insert(database, 1, 100)
    batches = iter(range(100, 1000, 10))

    def more() -> None:
        first = next(batches)
        insert(database, first + 1, first + 10)

    real = [i for i in range(100, 0, -1) if i % 7]
    assert walk(stored, "limit=9", more) == real
    assert walk(stored, "limit=7&source=all&until=2026-01-01T00:00:20%2B00:00") == [*range(99, 0, -1)]
    assert walk(stored, "limit=1000&until=2026-01-01T00:00:20+00:00") == real[1:] != []
    since = walk(stored, "since=2026-01-01T00:00:10Z&until=2026-01-01T00:00:12&limit=4&source=all")
    assert since == [*range(59, 49, -1)]
    assert walk(stored, "limit=1000&model=m@1&source=all&until=2026-01-01T00:00:20Z") == [*range(97, 0, -3)]
    assert len(walk(stored, "limit=1000&model=m&until=2026-01-01T00:00:20Z")) == len(real) - 1
    found = walk(stored, "sentiment=negative&prediction.min=4&prediction.max=4.5&source=all&until=2026-01-01T00:00:20Z")
    assert found == [i for i in range(99, 0, -1) if i % 2 == 0 and 1 + i % 5 == 4]
    assert "link" not in stored.get("/predictions?limit=1000&until=2026-01-01T00:00:20Z").headers


def test_a_page_that_its_size_ends_is_followed_by_the_next(database: Database, stored: httpx.Client) -> None:
    insert(database, 1, 9, size=1 << 20)
    first = stored.get("/predictions?limit=100&source=all")
    assert len(first.json()) == 4
    assert walk(stored, "limit=100&source=all") == [*range(9, 0, -1)]


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("cursor=x", "is none that a page has given"),
        ("cursor=", "is none that a page has given"),
        ("cursor=" + "!" * 43, "is none that a page has given"),
        ("since=yesterday", "has to be an ISO 8601 date or time, and is 'yesterday'"),
        ("sentiment=bad", "has to be one of negative, positive, and is 'bad'"),
        (
            "prediction=3",
            "is no query parameter of /predictions; there are: limit, source, since, until, model, cursor,",
        ),
        ("prediction.min=x", "has to be a number from 1 to 5, and is 'x'"),
        ("prediction.max=nan", "has to be a number from 1 to 5, and is 'nan'"),
        ("model=a%00", "holds a character that cannot be stored"),
    ],
)
def test_a_wrong_filter_is_422_and_named(api: httpx.Client, query: str, why: str) -> None:
    answer = api.get(f"/predictions?{query}")
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["field"] == query.partition("=")[0]
    assert why in error["why"]


def test_filters_by_time_scan_no_large_table(database: Database) -> None:
    insert(database, 1, 100_000)
    database.execute("VACUUM ANALYZE predictions")
    at = datetime(2026, 1, 1, 1, tzinfo=UTC)
    with Reader(database.credentials("reader")) as reader, reader._cursor() as cursor:
        rows = reader._rows_of(cursor)
        for wanted in (
            Selection(),
            Selection(since=at),
            Selection(until=at, source="all"),
            Selection(until=at, model="m@1", where=(Condition("sentiment", "=", "negative"),)),
            Selection(after=PageCursor(at, at, UUID(int=0))),
        ):
            query, values = rows.page(wanted)
            cursor.execute(
                b"EXPLAIN (ANALYZE, FORMAT json) " + cursor.mogrify(query, {**values, "limit": 50, "bytes": 9})
            )
            [[[plan]]] = cursor.fetchall()
            text = json.dumps(plan)
            assert "Seq Scan" not in text.replace('"Relation Name": "logs"', "").split('"predictions"')[0]
            assert '"predictions_stored_at"' in text
            assert read_rows(plan["Plan"]) < 2000, text


def read_rows(plan: dict[str, Any]) -> int:
    """How many rows the scans of predictions have looked at."""
    own = (
        plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) if plan.get("Relation Name") == "predictions" else 0
    )
    return int(own) + sum(read_rows(each) for each in plan.get("Plans", ()))


def test_query_shows_what_is_stored_in_each_form(pipeline: Pipeline, tmp_path: Path) -> None:
    began = datetime.now(UTC).isoformat()
    texts = ["=1+1 great", "terrible", "the best ever", "awful waste", "love it\r\nso much"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    assert pipeline.run("predict", "--file", "-", "--format", "jsonl", stdin=lines).returncode == 0
    assert pipeline.run("consume", "--until-idle").returncode == 0

    def query(*options: str) -> str:
        done = pipeline.run("query", "--since", began, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    rows = [json.loads(line) for line in query("--json").splitlines()]
    assert sorted(row["text"] for row in rows) == sorted(texts)
    negative = [json.loads(line) for line in query("--json", "--where", "sentiment=negative").splitlines()]
    assert {row["id"] for row in negative} == {row["id"] for row in rows if row["sentiment"] == "negative"}
    low = query("--json", "--where", "prediction>=1", "--where", "prediction <= 2.5", "--source", "predict")
    assert [json.loads(line)["id"] for line in low.splitlines()] == [r["id"] for r in rows if r["prediction"] <= 2.5]
    assert query("--json", "--source", "drill") == query("--json", "--model", "none") == ""
    cells = list(csv.DictReader(io.StringIO(query("--csv"), newline="")))
    assert [row["id"] for row in cells] == [row["id"] for row in rows]
    assert "'=1+1 great" in {row["text"] for row in cells}
    assert query("--csv", "--raw-cells").count("'=1+1") == 0
    assert "negative" in query()
    done = pipeline.run("query", "--limit", "2", "--output", str(tmp_path / "x.parquet"))
    assert "2 stored reviews; there are more: --limit 2 was reached, and 0 is all" in done.stderr
    assert [row["id"] for row in pq.read_table(tmp_path / "x.parquet").to_pylist()] == [row["id"] for row in rows[:2]]
    for condition, why in (("colour=red", "is no condition"), ("sentiment=sad", "one of negative, positive")):
        done = pipeline.run("query", "--where", condition)
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr
