"""Hostile messages among good ones: each ends where it belongs, and none holds the others up."""

from __future__ import annotations

import copy
import json
import random
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg2 import sql
from uuid_utils.compat import uuid7

from bdlab.contract import Contract, column_name, example_of, parse_contract, review_contract
from bdlab.deadletters import DeadLetterFilter
from bdlab.errors import ContractInvalid
from bdlab.events import Record, Term, _codecs, encode, headers
from bdlab.inputs import Validator
from bdlab.inputs.schema import input_schema
from bdlab.ledger import Accepted, DeadLetter, replay_count
from bdlab.postgres.contracts import _alter, read_contract
from bdlab.postgres.deadletters import DeadLetters
from bdlab.postgres.reader import Reader
from bdlab.postgres.session import Session, queries
from bdlab.postgres.store import Store
from bdlab.selection import Selection
from bdlab.serving.responses import Answers, encode_json
from bdlab.settings import SinkSettings
from bdlab.sink import Sink
from bdlab.verification import verify
from tests.fix_database import Database, Logins, adopt
from tests.memory.consumer import MemoryConsumer
from tests.memory.log import MemoryLog
from tests.random_contracts import changed_documents, fields_of
from tests.rounds import ALL, rounds
from tests.samples import accepted, at, dead, event

Message = tuple[bytes | None, bytes | None]
GOOD = json.loads(encode(event())[1])


def altered(**fields: Any) -> Message:
    identity = str(uuid7())
    return identity.encode(), json.dumps(GOOD | {"id": identity} | fields).encode("utf-8", "surrogatepass")


def raw(old: bytes, new: bytes) -> Message:
    key, value = encode(event())
    return key, value.replace(old, new)


def truncated(generator: random.Random) -> Message:
    key, value = encode(event())
    return key, value[: generator.randrange(len(value))]


def repeated_field() -> Message:
    key, value = encode(event())
    return key, value[:-1] + b',"text":"another"}'


HOSTILE: dict[str, Callable[[random.Random], Message]] = {
    "random bytes": lambda generator: (b"k", generator.randbytes(generator.randrange(300))),
    "truncated": truncated,
    "deep arrays": lambda _: (b"k", b"[" * 50_000 + b"]" * 50_000),
    "deep objects": lambda _: (b"k", b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "deep explanation": lambda _: altered(explanation=[[[[[["x"]]]]]]),
    "wrong type": lambda generator: altered(**{generator.choice(sorted(GOOD)): {"not": "this"}}),
    "not a number": lambda _: raw(b"1.37", b"NaN"),
    "infinity": lambda _: raw(b"1.37", b"Infinity"),
    "beyond a float": lambda _: raw(b"-1.9", b"1e999"),
    "six stars": lambda _: altered(prediction=6.0),
    "count beyond an integer": lambda _: altered(helpfulness_numerator=2**31),
    "year 0 in UTC": lambda _: altered(created_at="0001-01-01T00:00:00+23:59"),
    "year 10000": lambda _: altered(created_at="10000-01-01T00:00:00Z"),
    "32nd of January": lambda _: altered(timestamp="2026-01-32T00:00:00Z"),
    "no zone": lambda _: altered(created_at="2026-01-01T00:00:00"),
    "NUL": lambda _: altered(text="a\x00b"),
    "NUL in a term": lambda _: altered(explanation=[["a\x00b", 1.0]]),
    "lone surrogate": lambda _: raw(b"terrible", b"\\ud83d"),
    "surrogate in UTF-8": lambda _: raw(b"terrible", b"\xed\xa0\xbd"),
    "UTF-16": lambda _: (b"k", json.dumps(GOOD).encode("utf-16")),
    "no key": lambda _: (None, encode(event())[1]),
    "another key": lambda _: (b"another", encode(event())[1]),
    "no value": lambda _: (b"k", None),
    "empty": lambda _: (b"k", b""),
    "field twice": lambda _: repeated_field(),
    "unknown field": lambda _: altered(unknown=1),
    "missing field": lambda _: (b"k", b'{"id":"' + str(uuid7()).encode() + b'"}'),
    "earlier schema": lambda _: altered(schema_version=0),
    "unknown field in a term": lambda _: altered(explanation=[{"term": "a", "weight": 1, "of": 2}]),
    "schema of another kind": lambda _: altered(schema_version={"major": 1}),
    "refused by a constraint": lambda _: altered(text="refused"),
    "too long for an index": lambda generator: altered(summary="".join(generator.choices("abcdefgh0123", k=9000))),
}


def run(database: Database, count: int, seed: int) -> None:
    generator = random.Random(seed)
    database.execute("ALTER TABLE predictions ADD CONSTRAINT house_rule CHECK (text <> 'refused')")
    database.execute("CREATE INDEX ON predictions (summary)")
    log = MemoryLog(partitions=3)
    kinds = sorted(HOSTILE)
    sent: dict[tuple[int, int], str] = {}
    good = set()
    for number in range(count):
        if number % 4 == 0:
            key, value = encode(event())
            good.add(key.decode())
            log.append(key, value, partition=number % 3)
            continue
        kind = kinds[number % len(kinds)]
        position = log.append(*HOSTILE[kind](generator), partition=number % 3)
        sent[position.partition, position.offset] = kind
    store = Store(database.credentials("writer"))
    store.open()
    sink = Sink(store, SinkSettings(batch_size=500, batch_wait_s=0.01))
    with MemoryConsumer(log, positions=sink.positions) as consumer:
        sink.run(consumer, threading.Event(), until_idle=True)
    store.close()

    stored = {str(row[0]) for row in database.execute("SELECT id FROM predictions")}
    assert stored == good
    letters = database.execute('SELECT partition, "offset", reason, sqlstate FROM dead_letters')
    assert {(partition, offset) for partition, offset, _, _ in letters} == set(sent)
    by_database = Counter(sent[partition, offset] for partition, offset, _, code in letters if code)
    assert set(by_database) == {"refused by a constraint", "too long for an index"}
    assert all(len(reason) > 10 and reason.isprintable() for _, _, reason, _ in letters)
    with Reader(database.credentials("reader")) as reader:
        report = verify(log.log_ranges, reader)
    assert report.verified, report.problems


def test_each_hostile_message_is_a_dead_letter_and_each_good_one_a_row(database: Database) -> None:
    run(database, 1_200, seed=1)


@pytest.mark.storm
def test_a_flood_of_poison(database: Database) -> None:
    run(database, rounds(2_400, 134_000), seed=2)


def test_huge_values_pass_through_in_flat_memory(database: Database) -> None:
    """20 MiB each, garbage and a valid review. A transaction must not hold many of them."""
    size_mib = 20
    log = MemoryLog(partitions=1)
    garbage = b"\xff" * (size_mib << 20)  # the log keeps this object once
    for _ in range(5):
        log.append(b"k", garbage)
        log.append(*encode(event()))
    log.append(*encode(event(text="x" * (size_mib << 20))))
    store = Store(database.credentials("writer"))
    store.open()
    sink = Sink(store, SinkSettings(batch_wait_s=0.01))
    tracemalloc.start()
    try:
        with MemoryConsumer(log, positions=sink.positions) as consumer:
            total = sink.run(consumer, threading.Event(), until_idle=True)
        peak_mib = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    store.close()
    assert (total.rows, total.dead_letters) == (6, 5)
    # The review decoded, and some copies of one value in text form; all at once take 200 MiB in hex alone.
    assert peak_mib < 8 * size_mib


# What is stored is what was sent.


class Slate:
    """A database that is wiped after each contract: that takes a tenth of the time of another one."""

    owner: Logins
    writer: Logins
    reader: Reader

    def __init__(self, make: Callable[[], Database]) -> None:
        self._make = make
        self._columns = _MOST_COLUMNS

    @contextmanager
    def clean(self) -> Iterator[None]:
        if self._columns >= _MOST_COLUMNS:
            database = self._make()
            self.owner, self.writer = database.credentials("owner"), database.credentials("writer")
            self.reader = Reader(database.credentials("reader"))
            self._wiping = Session(self.owner, application_name="wipe")
            self._columns = 0
        before, self._columns = self._columns, _MOST_COLUMNS  # also after a failure
        yield
        self.reader._rows = None
        _codecs.clear()
        with self._wiping.transaction() as cursor:
            contract = read_contract(cursor)
            columns = [field.column for field in contract]
            cursor.execute("DELETE FROM predictions; DELETE FROM sink_offsets; DROP VIEW quality")
            for table in ("feedback", "rescored"):
                drop, outputs = sql.SQL("DROP COLUMN IF EXISTS {}"), contract.outputs
                drops = sql.SQL(", ").join(drop.format(sql.Identifier(one.column)) for one in outputs)
                cursor.execute(sql.SQL("ALTER TABLE {} {}").format(sql.Identifier(table), drops))
            _alter(cursor, queries("contracts"), columns, list(review_contract()))
        self._columns = before + len(columns) + 7
        if self._columns >= _MOST_COLUMNS:
            self.close()

    def close(self) -> None:
        self.reader.close()
        self._wiping.close()


_MOST_COLUMNS = 1200
"""PostgreSQL counts a table's dropped columns too, up to 1600."""


def without_later(document: dict[str, Any]) -> dict[str, Any]:
    """The document without the fields that were added later."""
    found = copy.deepcopy(document)
    for part in ("input", "output"):
        for name, field in document[part]["properties"].items():
            if field.get("since", 1) > 1:
                del found[part]["properties"][name]
                if column_name(name) in found.get("columns", ()):
                    found["columns"].remove(column_name(name))
    return found


def parsed(document: dict[str, Any]) -> Contract | ContractInvalid:
    try:
        return parse_contract(json.loads(json.dumps(document)))
    except ContractInvalid as refused:
        return refused


@pytest.mark.parametrize("examples", [200, *([pytest.param(10_000, marks=pytest.mark.long)] if ALL else [])])
def test_any_contract_is_refused_by_the_fields_name_or_gives_back_what_was_sent(
    new_database: Callable[[], Database], examples: int
) -> None:
    """From the body of a request, through the event, COPY and the table, to the row."""
    slate = Slate(new_database)

    @settings(
        max_examples=examples,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate] if examples > 200 else list(Phase),
    )
    @given(changed_documents(), st.data())
    def check(changed: tuple[dict[str, Any], tuple[str, ...]], data: st.DataObject) -> None:
        document, names = changed
        contract = parsed(document)
        if isinstance(contract, ContractInvalid):
            assert any(name in contract.message for name in names), (names, contract.message)
            return
        assert parse_contract(contract.document) == contract
        Validator(contract).decode(encode_json(example_of(contract)))
        encode_json(input_schema(contract))
        before = parsed(without_later(document))
        several = [contract] if isinstance(before, ContractInvalid) or before == contract else [before, contract]
        # Drawn first: hypothesis may break off, and would leave a database that was not wiped.
        values = [
            (each, plain, data.draw(fields_of(each.inputs)), data.draw(fields_of(each.outputs)))
            for each in several
            for plain in (True, False)
        ]
        with slate.clean():
            there_and_back(slate, values)

    check()
    slate.close()


def there_and_back(slate: Slate, values: list[tuple[Contract, bool, dict[str, Any], dict[str, Any]]]) -> None:
    sent: dict[UUID, dict[str, Any]] = {}
    newest = values[-1][0]
    store = Store(slate.writer)
    for contract, plain, inputs, outputs in values:
        if plain:
            adopt(slate.owner, contract)
            if sent:
                assert store.read_contract()
            else:
                store.open()
                store.start_offsets([at(0)])
        codec = store.codec
        assert codec.contract == contract
        body = encode_json({field.name: inputs[field.column] for field in contract.inputs})
        given = Validator(contract).decode(body)
        assert given == codec.input(**inputs)
        score = codec.score(**outputs, explanation=(Term("it's \\", -0.5),))
        event = codec.make(uuid7(), given, score, model="m@1")
        encode_json(Answers(codec)(event, score))
        record = Record(at(len(sent)), *encode(event), headers(event, source="/bdlab/serve", traceparent=""))
        decoded, fields = codec.decode(record)
        assert decoded == event
        store.store([Accepted(record, decoded, fields if plain else None)])
        later = {field.column: field.default for field in newest if field.since > contract.number}
        sent[event.id] = later | msgspec.structs.asdict(event)
    store.close()
    rows = slate.reader.page(Selection(source="serve"), 100).rows
    assert {row.id for row in rows} == set(sent)
    encode_json(rows)
    for number, (each, wanted) in enumerate(sent.items()):
        row = slate.reader.get(each)
        assert row is not None
        assert row.position == at(number)
        names = set(row.__struct_fields__) - {"position", "source", "stored_at"}
        assert {name: getattr(row, name) for name in names} == {name: wanted[name] for name in names}


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def test_any_dead_letter_is_read_back_as_it_was(database: Database) -> None:
    store = Store(database.credentials("writer"))
    store.open()
    offset = store.start_offsets([at(0)])[0].offset
    anything = st.none() | st.binary(max_size=60)

    with DeadLetters(database.credentials("reader")) as letters:

        @settings(max_examples=60, deadline=None)
        @given(key=anything, value=anything, headers=st.lists(st.tuples(names, anything), max_size=4), reason=st.text())
        def check(key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]], reason: str) -> None:
            nonlocal offset
            record = Record(at(offset), key, value, headers)
            store.store([DeadLetter(record=record, reason=reason)])
            [found] = letters.find(DeadLetterFilter(offset=offset), limit=2)
            assert (found.record.key, found.record.value) == (key, value)
            assert [tuple(header) for header in found.record.headers] == headers
            assert found.replays == replay_count(record)
            offset += 1

        check()
    store.close()


def test_a_replay_count_that_is_no_count_is_none() -> None:
    letter = dead(at(0))
    for value, count in ((b"3", 3), (b"x", 0), (None, 0), (b"9" * 40, 0), (b"-1", 0)):
        headers = [("bdlab-replay-count", value)]
        assert replay_count(Record(at(0), letter.record.key, None, headers)) == count


def test_rows_of_a_mebibyte_are_not_read_all_at_once(database: Database) -> None:
    store = Store(database.credentials("writer"))
    store.open()
    store.start_offsets([at(0)])
    huge = [accepted(at(offset), event(text="x" * (1 << 20))) for offset in range(20)]
    for one in huge:
        store.store([one])
    store.store([accepted(at(20))])
    with Reader(database.credentials("reader")) as reader:
        found = reader.page(Selection(), 1000).rows
        # The small one, and then no more once there are 4 MiB.
        assert [row.position.offset for row in found] == [20, *range(19, 15, -1)]
        assert [row.position.offset for row in reader.page(Selection(), 3).rows] == [20, 19, 18]
    store.close()
