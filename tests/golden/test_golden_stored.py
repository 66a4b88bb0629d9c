"""The tables, what records become in them, and an earlier version's database and topic, which are read on."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from bdlab.stack.servers import binaries
from tests.fix_golden import FOLDER, Golden, Place, answered, ended, normalised
from tests.fix_pipeline import Pipeline
from tests.golden.records import SERVE, Record, held, judged

pytestmark = [pytest.mark.once, pytest.mark.plaintext("the same with TLS")]

#: Without the topic of the feedback, whose log might else get its number before the other's.
ALONE = {"BDLAB_KAFKA_FEEDBACK_TOPIC": "none"}
BEFORE = FOLDER / "before"
TABLES = ("logs", "sink_offsets", "duplicates", "predictions")

CATALOGUE = {
    "columns": """
        SELECT c.relname || '.' || a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
               a.attnotnull AS not_null, pg_get_expr(d.adbin, d.adrelid) AS default,
               nullif(a.attidentity::text, '') AS identity,
               nullif(l.collname, 'default') AS collation, a.attacl::text[] AS grants,
               col_description(c.oid, a.attnum) AS comment
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (c.oid, a.attnum)
        LEFT JOIN pg_collation l ON l.oid = a.attcollation
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v')
        ORDER BY c.relname, a.attnum""",
    "relations": """
        SELECT relname AS name, relkind AS kind, relowner::regrole AS owner, relacl::text[] AS grants,
               reloptions AS options, obj_description(oid, 'pg_class') AS comment
        FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind <> 'i' ORDER BY relname""",
    "constraints": """
        SELECT conrelid::regclass AS table, conname AS name, pg_get_constraintdef(oid) AS definition
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
        ORDER BY conrelid::regclass::text, conname""",
    "indexes": """
        SELECT indexname AS name, indexdef AS definition FROM pg_indexes
        WHERE schemaname = 'public' ORDER BY indexname""",
    "routines and triggers": """
        SELECT proname AS name, pg_get_functiondef(oid) AS definition FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1""",
    "schema and database": """
        SELECT 'public' AS name, nspowner::regrole AS owner, nspacl::text[] AS grants
        FROM pg_namespace WHERE nspname = 'public'
        UNION ALL SELECT 'database', NULL, datacl::text[]
        FROM pg_database WHERE datname = current_database()""",
}


#: By itself: PostgreSQL writes the views of a restored database a little differently.
VIEWS = """
    SELECT viewname AS name, definition FROM pg_views WHERE schemaname = 'public' ORDER BY viewname"""


def catalogue(place: Place, queries: Mapping[str, str] = CATALOGUE) -> str:
    blocks = [f"== {title}\n" + "".join(f"{row}\n" for row in place.rows(query)) for title, query in queries.items()]
    return normalised("\n".join(blocks).replace("\\n", "\n    "), place.names)


def becomes(place: Place, records: Sequence[Record], partition: int) -> Iterator[str]:
    """What each record of a partition, from its start, became; dead letters hold what was sent."""
    at = f'WHERE partition = {partition} ORDER BY "offset"'
    found: dict[int, str] = {}
    for table in ("predictions", "duplicates"):
        for row in place.rows(f"SELECT * FROM {table} {at}"):  # noqa: S608
            found[json.loads(row)["offset"]] = f"{table} {row}"
    letters = place.database.execute(f'SELECT "offset", key, value FROM dead_letters {at}')  # noqa: S608
    shown = place.rows(f'SELECT "offset", reason, sqlstate, replay_count, headers FROM dead_letters {at}')  # noqa: S608
    for (offset, key, value), row in zip(letters, shown, strict=True):
        kept = tuple(None if one is None else bytes(one) for one in (key, value))
        assert kept == records[offset][1:3], records[offset][0]
        fields = json.loads(row)
        same = fields["headers"] == json.loads(
            json.dumps([{"name": n, "value": (v or b"").decode()} for n, v in SERVE])
        )
        head = "" if same else f" {json.dumps(fields['headers'])}"
        found[offset] = f"dead letter {fields['replay_count']} {fields['sqlstate']}{head}: {fields['reason']}"
    for offset, (name, *_) in enumerate(records):
        yield f"{offset} {name}\n  {found.pop(offset, 'held')}\n"
    assert not found


def commands(place: Place, partition: int, *shown: str) -> Iterator[str]:
    """What the commands that read the tables print: whether all is stored once, and the dead letters."""
    yield ended("verify --json", place.run("verify", "--json", **ALONE))
    for arguments in (
        ("list", "--json", "--partition", str(partition), "--limit", "5"),
        *(("show", "--json", at) for at in shown),
    ):
        yield ended(" ".join(("dlq", *arguments)), place.run("dlq", *arguments))


def read_back(client: httpx.Client, place: Place) -> Iterator[str]:
    """Each row as GET /predictions/{id} has it; the lists have the same bytes."""
    found = place.database.execute('SELECT id::text FROM predictions ORDER BY partition, "offset"')
    single = {each: client.get(f"/predictions/{each}") for (each,) in found}
    for answer in single.values():
        yield answer.text
    for query in ("source=all&limit=1000", "limit=1000", "source=predict", "source=drill&limit=2"):
        answer = client.get(f"/predictions?{query}")
        listed = [row["id"] for row in answer.json()]
        assert answer.text == f"[{','.join(single[each].text.strip() for each in listed)}]\n"
        yield f"{query}: {len(listed)} rows, {answer.headers['content-type']}\n"
    first, answer = next(iter(single.items()))
    yield answered("one of them", f"GET /predictions/{first}", answer)


def produce(place: Place, records: Iterable[tuple[int, Record]]) -> None:
    place.produce([(partition, *record[1:]) for partition, record in records])


def consumed(place: Place) -> str:
    """Store what is there; what the command says of partitions that it had to stop."""
    done = place.run("consume", "--until-idle", BDLAB_LOG_FORMAT="json", **ALONE)
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    return "\n".join([f"consume --until-idle: exit {done.returncode}", *said]) + "\n\n"


def as_line(message: Any) -> str:
    """A record of the topic as a line of JSON: what is text as it is, other bytes in base64."""
    fields = [message.key(), message.value(), *(value for _, value in message.headers() or ())]
    key, value, *values = map(_shown, fields)
    headers = [[name, each] for (name, _), each in zip(message.headers() or (), values, strict=True)]
    found = {"partition": message.partition(), "key": key, "headers": headers, "value": value}
    return json.dumps(found, ensure_ascii=False) + "\n"


def _shown(data: bytes | None) -> str | dict[str, str] | None:
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data or b"").decode()}


def from_line(line: str) -> tuple[int, Record]:
    """The partition and the record in a line of `as_line`."""
    found = json.loads(line)
    headers = [(name, _bytes(value)) for name, value in found["headers"]]
    return found["partition"], (str(found["key"]), _bytes(found["key"]), _bytes(found["value"]), headers)


def _bytes(shown: str | dict[str, str] | None) -> bytes | None:
    if isinstance(shown, dict):
        return base64.b64decode(shown["base64"])
    return None if shown is None else shown.encode()


def make_before(pipeline: Pipeline, folder: Path) -> None:
    """Write a topic and a database of the present version into the files of an earlier one."""
    place = Place(pipeline)
    place.done("migrate")
    with place.serve() as (_, client):
        for key, text, source in (("a", "Great taste", ""), ("b", 'Caf\xe9 \t \\ "b" ☕', "demo"), ("", "Awful", "")):
            headers = {"Idempotency-Key": key, "Bdlab-Source": source}
            sent = {name: value for name, value in headers.items() if value}
            assert client.post("/predict", json={"text": text, "summary": "s"}, headers=sent).status_code == 200
        batch = [{"text": "Fine", "HelpfulnessNumerator": 3, "HelpfulnessDenominator": 4}, {"text": "Bad"}]
        assert client.post("/predict/batch", json=batch).status_code == 200
    place.done("predict", "Terrible waste", "--summary", "Awful", "--run-id", "one")
    (folder / "reviews.csv").write_text("Text,HelpfulnessNumerator\nGood coffee,2\nqwrt zxcv,\n")
    place.done("predict", "--file", str(folder / "reviews.csv"), "--run-id", "run")
    first = place.read(8)[0]
    again = (first.partition(), first.key(), first.value(), first.headers())
    place.produce([again, (first.partition(), b"k", b"\xff not JSON", [("none", None), ("bytes", b"\xff\x00")])])
    topic = "".join(map(as_line, place.read(10)))
    place.done("consume", "--until-idle")
    admin = place.database.admin
    installation = binaries.postgres()
    dump = subprocess.run(
        [str(installation / "bin" / "pg_dump"), "--inserts", "--host", admin.server.host,
         "--port", str(admin.server.port), "--username", admin.user, admin.server.dbname],
        env={"PGPASSWORD": admin.password.reveal(), "LD_LIBRARY_PATH": str(installation / "lib")},
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    statements = [line for line in dump.splitlines() if not line.startswith(("\\", "--")) and line]
    for shown, there in place.names.items():
        statements = [line.replace(f"'{there}'", f"'<{shown}>'") for line in statements]
    BEFORE.mkdir(exist_ok=True)
    (BEFORE / "topic.jsonl").write_text(topic)
    (BEFORE / "database.sql").write_text("\n".join(statements) + "\n")


@pytest.fixture
def before(golden: Golden, pipeline: Pipeline, tmp_path: Path) -> list[tuple[int, Record]]:
    """Records as an earlier version's serve and predict wrote them, with their partitions."""
    if not BEFORE.exists():
        assert golden.update, f"{BEFORE} is missing; --update-golden makes it, of the present version"
        make_before(pipeline, tmp_path)
        pytest.fail(f"{BEFORE} is made; run it again, since its moments are of this run")
    return [from_line(line) for line in (BEFORE / "topic.jsonl").read_text().splitlines()]


def test_stored(pipeline: Pipeline, golden: Golden, before: list[tuple[int, Record]]) -> None:
    place = Place(pipeline)
    place.done("migrate")
    golden.holds("schema.txt", catalogue(place))
    golden.holds("views.txt", catalogue(place, {"views": VIEWS}))
    place.database.execute("ALTER TABLE predictions ADD CONSTRAINT house_rule CHECK (text <> 'refused')")
    partitions = [judged(), *([one] for one in held()), [record for _, record in before]]
    produce(place, ((at, record) for at, records in enumerate(partitions) for record in records))
    blocks = [consumed(place)]
    for partition, records in enumerate(partitions):
        blocks += [f"== partition {partition}\n", *becomes(place, records, partition), "\n"]
    golden.holds("stored.txt", normalised("".join(blocks), place.names))
    named = {name: offset for offset, (name, *_) in enumerate(partitions[0])}
    letters = ("a dead letter with headers", "a tombstone", "no key", "a key that is no text", 'text is "refused"')
    with place.serve() as (_, client):
        read = [*read_back(client, place), *commands(place, 0, *(f"0/{named[name]}" for name in letters))]
    golden.holds("read.txt", normalised("".join(read), place.names))


def test_before(pipeline: Pipeline, golden: Golden, before: list[tuple[int, Record]]) -> None:
    place = Place(pipeline)
    produce(place, before)
    dump = (BEFORE / "database.sql").read_text()
    for shown, there in place.names.items():
        dump = dump.replace(f"'<{shown}>'", f"'{there}'")
    place.database.execute(dump)
    place.done("migrate")
    golden.holds("schema.txt", catalogue(place))
    partition = before[0][0]
    with place.serve() as (_, client):
        blocks = ["== as it is restored\n", *read_back(client, place), *commands(place, partition)]
        # A new row, a duplicate of an old one, and a dead letter.
        produce(place, [(partition, one) for one in (judged()[0], before[0][1], judged()[1])])
        blocks += ["== with three more records\n", consumed(place), *read_back(client, place)]
    blocks += commands(place, partition)
    for table in TABLES:
        blocks += [f"== {table}\n", *(f"{row}\n" for row in sorted(place.rows(f"SELECT * FROM {table}")))]  # noqa: S608
    golden.holds("before.txt", normalised("".join(blocks), place.names))
