"""What holds of the sink's store and its accounts, in Postgres and in memory alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import pytest

from bdlab.contract import Contract, review_contract
from bdlab.deadletters import DeadLetterFilter
from bdlab.errors import FenceLost, RowRejected
from bdlab.events import Record, codec_of
from bdlab.feedback import FeedbackCodec
from bdlab.ledger import Accepted, Account, DeadLetter, LogPartition, LogRange, Stored
from bdlab.log_identity import KnownRecord
from bdlab.postgres.deadletters import DeadLetters
from bdlab.postgres.reader import Reader
from bdlab.postgres.store import Store
from bdlab.sink import BatchStore
from bdlab.verification import Tables
from tests.fix_database import Database, adopt
from tests.memory.store import MemoryStore
from tests.samples import CLUSTER, TOPIC, accepted, at, dead, event, feedback, later_event, later_reviews, record, rows

ZERO = LogPartition(CLUSTER, TOPIC, 0)
ONE = LogPartition(CLUSTER, TOPIC, 1)


class System(Protocol):
    @property
    def store(self) -> BatchStore: ...

    @property
    def books(self) -> Tables: ...

    def refuse(self, text: str) -> None:
        """From now on a constraint refuses rows with this text."""

    def dead_letters(self) -> list[DeadLetter]: ...

    def migrate(self, contract: Contract) -> None:
        """Give the database a newer contract."""


class InMemory:
    def __init__(self) -> None:
        self._refused: set[str] = set()
        self.store = self.books = MemoryStore(refuses=lambda event: event.text in self._refused)

    def refuse(self, text: str) -> None:
        self._refused.add(text)

    def dead_letters(self) -> list[DeadLetter]:
        return list(self.store.dead_letters.values())

    def migrate(self, contract: Contract) -> None:
        self.store.migrated = codec_of(contract)


class InPostgres:
    def __init__(self, database: Database, store: Store, reader: Reader) -> None:
        self.database = database
        self.store = store
        self.books = reader

    def refuse(self, text: str) -> None:
        self.database.execute("ALTER TABLE predictions ADD CHECK (text <> %s)", (text,))

    def dead_letters(self) -> list[DeadLetter]:
        with DeadLetters(self.database.credentials("reader")) as letters:
            found = letters.find(DeadLetterFilter(), limit=1000)
        return [DeadLetter(record=one.record, reason=one.reason, sqlstate=one.sqlstate) for one in found]

    def migrate(self, contract: Contract) -> None:
        adopt(self.database.credentials("owner"), contract)


@pytest.fixture(params=["memory", "postgres"])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    if request.param == "memory":
        yield InMemory()
        return
    make: Callable[[], Database] = request.getfixturevalue("new_database")
    database = make()
    store = Store(database.credentials("writer"))
    store.open()
    with Reader(database.credentials("reader")) as reader:
        yield InPostgres(database, store, reader)
    store.close()


@pytest.fixture
def feedback_store(new_database: Callable[[], Database]) -> Iterator[System]:
    database = new_database()
    store = Store(database.credentials("writer"), make_codec=FeedbackCodec)
    store.open()
    with Reader(database.credentials("reader")) as reader:
        yield InPostgres(database, store, reader)
    store.close()


def account(system: System, log: LogPartition = ZERO) -> Account:
    return next(found for found in system.books.accounts(limit=10) if found.log == log)


def counts(system: System, log: LogPartition = ZERO) -> tuple[int, int, int]:
    found = account(system, log)
    assert found.balanced, found
    return found.stored, found.duplicates, found.dead_letters


def test_a_new_partition_starts_where_its_log_does_and_stays_there(system: System) -> None:
    assert system.store.start_offsets([at(7), at(0, 1)]) == [at(7), at(0, 1)]
    assert system.store.start_offsets([at(9)]) == [at(7)]
    assert system.books.next_offsets() == {ZERO: 7, ONE: 0}


def test_a_batch_advances_each_of_its_partitions(system: System) -> None:
    system.store.start_offsets([at(0), at(5, 1)])
    stored = system.store.store([*rows(range(3)), *rows([5, 6], partition=1)])
    assert stored == Stored(rows=5)
    assert system.store.start_offsets([at(0), at(0, 1)]) == [at(3), at(7, 1)]
    assert counts(system) == (3, 0, 0)
    assert counts(system, ONE) == (2, 0, 0)


def test_incarnations_of_a_log_are_apart(system: System) -> None:
    again = LogPartition("cluster-b", TOPIC, 0)
    system.store.start_offsets([at(0)])
    system.store.store(rows(range(3)))
    assert system.store.start_offsets([at(0, cluster_id="cluster-b")]) == [at(0, cluster_id="cluster-b")]
    system.store.store([accepted(at(0, cluster_id="cluster-b"))])
    assert counts(system) == (3, 0, 0)
    assert counts(system, again) == (1, 0, 0)


def found(topic_id: str, ends: Sequence[int] = (10, 10), start: int = 0) -> list[LogRange]:
    return [LogRange(CLUSTER, TOPIC, number, start, end, topic_id) for number, end in enumerate(ends)]


def test_topics_that_were_made_again_are_apart(system: System) -> None:
    first, second = LogPartition(CLUSTER, TOPIC, 0, "one"), LogPartition(CLUSTER, TOPIC, 0, "two")
    for log, count in ((first, 3), (second, 2)):
        assert system.store.known(found(log.topic_id)) is None
        assert system.store.start_offsets([log.at(0)]) == [log.at(0)]
        system.store.store([accepted(log.at(offset)) for offset in range(count)])
    assert counts(system, first) == (3, 0, 0)
    assert counts(system, second) == (2, 0, 0)
    assert system.books.next_offsets() == {first: 3, second: 2}


def test_what_is_known_of_a_log(system: System) -> None:
    """The newest position in each partition that is recorded and that the broker has, however it ended."""
    ids = [event() for _ in range(3)]
    system.store.start_offsets([at(0), at(0, 1)])
    known = system.store.known(found(""))
    assert known is not None
    assert (known.topic_id, known.recorded, known.records) == ("", False, {})
    system.store.store([accepted(at(number), one) for number, one in enumerate(ids)])
    system.store.store([accepted(at(0, 1), ids[0]), dead(at(1, 1), value=b"\xff")])
    letter = KnownRecord(offset=1, key=b"k", value=b"\xff")
    for ends, records in (
        ((10, 10), {0: KnownRecord(offset=2, id=str(ids[2].id)), 1: letter}),
        ((2, 1), {0: KnownRecord(offset=1, id=str(ids[1].id)), 1: KnownRecord(offset=0, id=str(ids[0].id))}),
        ((0, 0), {}),
    ):
        known = system.store.known(found("one", ends))
        assert known is not None
        assert (known.recorded, known.records) == (True, records)
    known = system.store.known(found("one", start=2))
    assert known is not None
    assert set(known.records) == {0}


def test_a_log_that_is_proved_gets_its_topic_id_and_keeps_its_rows(system: System) -> None:
    system.store.start_offsets([at(0)])
    system.store.store(rows(range(3)))
    system.store.confirm(found("one"))
    named = LogPartition(CLUSTER, TOPIC, 0, "one")
    assert system.store.start_offsets([named.at(0)]) == [named.at(3)]
    system.store.store([accepted(named.at(3))])
    assert counts(system, named) == (4, 0, 0)
    assert system.books.next_offsets() == {named: 4}
    assert system.store.known(found("two")) is None


def test_a_batch_that_does_not_begin_at_the_next_offset_stores_nothing(system: System) -> None:
    system.store.start_offsets([at(0), at(0, 1)])
    system.store.store(rows(range(3)))
    for first in (0, 2, 4):
        with pytest.raises(FenceLost):
            system.store.store([*rows([0], partition=1), *rows([first])])
    assert system.books.next_offsets() == {ZERO: 3, ONE: 0}
    assert counts(system, ONE) == (0, 0, 0)


def test_a_partition_that_was_never_assigned_is_fenced(system: System) -> None:
    with pytest.raises(FenceLost):
        system.store.store(rows([0]))


@pytest.mark.parametrize("offsets", [[0, 2], [1, 0], [0, 0]])
def test_offsets_of_a_batch_have_to_be_dense(system: System, offsets: Sequence[int]) -> None:
    system.store.start_offsets([at(0)])
    with pytest.raises(ValueError, match="does not follow"):
        system.store.store(rows(offsets))


def test_a_known_id_at_another_position_is_a_duplicate(system: System) -> None:
    system.store.start_offsets([at(0), at(0, 1)])
    same = event()
    assert system.store.store([accepted(at(0), same), accepted(at(1), same)]) == Stored(rows=1, duplicates=1)
    assert system.store.store([accepted(at(2), same), accepted(at(0, 1), same)]) == Stored(duplicates=2)
    assert counts(system) == (1, 2, 0)
    assert counts(system, ONE) == (0, 1, 0)


def test_dead_letters_keep_the_record_as_it_came(system: System) -> None:
    system.store.start_offsets([at(0)])
    letter = dead(at(1), key=None, value=b"\x00\xff raw")
    stored = system.store.store([accepted(at(0)), letter, dead(at(2), value=None)])
    assert stored == Stored(rows=1, dead_letters=2)
    assert counts(system) == (1, 0, 2)
    found = system.dead_letters()[0]
    assert found.reason == letter.reason
    assert (found.record.position, found.record.key, found.record.value) == (at(1), None, b"\x00\xff raw")
    assert [tuple(header) for header in found.record.headers] == [("h", None)]


def test_a_batch_with_a_refused_row_stores_nothing(system: System) -> None:
    system.store.start_offsets([at(0)])
    system.refuse("poison")
    with pytest.raises(RowRejected) as refused:
        system.store.store([accepted(at(0)), accepted(at(1), event(text="poison")), dead(at(2))])
    assert refused.value.sqlstate == "23514"
    assert system.books.next_offsets() == {ZERO: 0}
    assert counts(system) == (0, 0, 0)


def test_a_newer_contract_is_taken_when_it_is_asked_for(system: System) -> None:
    store, before = system.store, system.store.codec
    store.start_offsets([at(0)])
    assert before.contract == review_contract()
    system.migrate(later_reviews())
    assert store.codec is before
    assert store.store([accepted(at(0))]) == Stored(rows=1)
    assert [store.read_contract(), store.read_contract()] == [True, False]
    assert store.codec.contract == later_reviews()
    newer = record(at(1), later_event(store.codec, stars=5))
    entries = [Accepted(newer, *store.codec.decode(newer)), *rows([2])]
    older = entries[1].record
    assert store.store([entries[0], Accepted(older, *store.codec.decode(older))]) == Stored(rows=2)
    assert counts(system) == (3, 0, 0)


def test_what_the_logs_held_at_least_is_kept(system: System) -> None:
    system.store.start_offsets([at(0)])
    system.store.store(rows(range(2)), ends={ZERO: 9, ONE: 4})
    system.store.store(rows(range(2, 4)), ends={})
    assert account(system).end_seen == 9


def test_feedback_is_stored_as_predictions_are(feedback_store: System) -> None:
    system, same, again = feedback_store, feedback(sentiment="negative"), feedback(prediction=1.5)
    spaced = record(at(4), again)
    spaced = Record(spaced.position, spaced.key, (spaced.value or b"").replace(b":", b": ", 1), spaced.headers)
    system.store.start_offsets([at(0)])
    batch: list[Accepted | DeadLetter] = [
        accepted(at(0), same),
        accepted(at(1), same),
        dead(at(2)),
        accepted(at(3), feedback(same.prediction_id)),
    ]
    odd = Accepted(spaced, *system.store.codec.decode(spaced))
    assert odd.fields is None
    assert system.store.store([*batch, odd]) == Stored(rows=3, duplicates=1, dead_letters=1)
    with pytest.raises(FenceLost):
        system.store.store(batch)
    assert counts(system) == (3, 1, 1)
    known = system.store.known(found(""))
    assert known is not None
    assert known.records == {0: KnownRecord(offset=4, id=str(again.prediction_id))}
    assert isinstance(system, InPostgres)
    assert system.database.execute(
        "SELECT prediction, sentiment, source, stored_at IS NULL FROM feedback WHERE id IN (%s, %s) ORDER BY 1",
        (str(same.id), str(again.id)),
    ) == [(1.5, None, "tests", False), (2.0, "negative", "tests", False)]  # fmt: skip
    assert system.database.execute("SELECT kind, id FROM duplicates") == [("feedback", str(same.id))]
