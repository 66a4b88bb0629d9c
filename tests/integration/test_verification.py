"""`verify` finds what is wrong, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pytest
from psycopg2 import sql

from bdlab.errors import BrokerUnavailable
from bdlab.events import Record, encode
from bdlab.postgres.reader import Reader
from bdlab.postgres.session import queries
from bdlab.postgres.store import Store
from bdlab.settings import SinkSettings
from bdlab.sink import Sink
from bdlab.verification import Report, verify
from tests.fix_database import Database
from tests.memory.consumer import MemoryConsumer
from tests.memory.log import MemoryLog
from tests.samples import event


@dataclass
class Pipeline:
    """A topic in memory, stored in Postgres: 30 rows, 2 duplicates and 1 dead letter in 3 partitions."""

    log: MemoryLog
    database: Database
    store: Store
    reader: Reader

    def fill(self, number: int, partition: int) -> list[str]:
        ids = []
        for _ in range(number):
            key, value = encode(event())
            self.log.append(key, value, partition=partition)
            ids.append(key.decode())
        return ids

    def drain(self) -> None:
        sink = Sink(self.store, SinkSettings(batch_wait_s=0.01))
        with MemoryConsumer(self.log, positions=sink.positions) as consumer:
            sink.run(consumer, threading.Event(), until_idle=True)

    def verify(self, wait_s: float = 0) -> Report:
        return verify(self.log.log_ranges, self.reader, wait_s=wait_s, limit=5)

    def tamper(self, statement: str, **values: object) -> None:
        self.database.execute(statement, {"cluster_id": self.log.cluster_id, **values})


@pytest.fixture
def pipeline(database: Database) -> Iterator[Pipeline]:
    log = MemoryLog(partitions=3)
    store = Store(database.credentials("writer"))
    with Reader(database.credentials("reader")) as reader:
        pipeline = Pipeline(log, database, store, reader)
        for partition in range(3):
            pipeline.fill(10, partition)
        same = log.read(1, 0, 1)[0]
        for _ in range(2):
            log.append(same.key, same.value, partition=1)
        log.append(b"k", b"garbage", partition=2)
        pipeline.drain()
        yield pipeline
    store.close()


def test_a_sound_pipeline_is_verified_with_numbers(pipeline: Pipeline) -> None:
    report = pipeline.verify()
    assert report.verified, report.problems
    numbers = [(one.stored, one.duplicates, one.dead_letters, one.end) for one in report.partitions]
    assert numbers == [(10, 0, 0, 10), (10, 2, 0, 12), (10, 0, 1, 11)]
    assert pipeline.database.execute("SELECT * FROM missing_offsets") == []


DELETE = 'DELETE FROM predictions WHERE partition = 0 AND "offset" = ANY (%(offsets)s)'


@pytest.mark.parametrize(
    ("offsets", "shown"), [([4], "offsets 4"), ([0, 1, 9], "offsets 0 to 1, 9"), ([3, 5, 6], "offsets 3, 5 to 6")]
)
def test_deleted_rows_are_named(pipeline: Pipeline, offsets: Sequence[int], shown: str) -> None:
    pipeline.tamper(DELETE, offsets=list(offsets))
    report = pipeline.verify()
    assert report.problems == [f"predictions/0: {len(offsets)} recorded nowhere: {shown}"]
    assert not report.verified


def test_deleted_rows_are_named_by_id_where_the_broker_still_has_them(pipeline: Pipeline) -> None:
    def read(offsets: Mapping[int, int]) -> dict[int, Record]:
        return {partition: pipeline.log.read(partition, offset, 1)[0] for partition, offset in offsets.items()}

    pipeline.tamper(DELETE, offsets=[4])
    gone = pipeline.log.read(0, 4, 1)[0]
    assert gone.key is not None
    report = verify(pipeline.log.log_ranges, pipeline.reader, read_records=lambda _: read)
    assert report.problems == [f"predictions/0: 1 recorded nowhere: offsets 4 (ids {gone.key.decode()} at 4)"]


def test_the_list_of_missing_offsets_is_bounded_and_its_count_is_not(pipeline: Pipeline) -> None:
    pipeline.tamper('DELETE FROM predictions WHERE "offset" %% 2 = 0')
    report = pipeline.verify()
    assert report.problems[0] == "predictions/0: 5 recorded nowhere: offsets 0, 2, 4, 6, 8"
    assert pipeline.database.execute("SELECT count(*) FROM missing_offsets") == [(15,)]


@pytest.mark.parametrize("partition", [0, 1, 2])
def test_what_is_missing_is_stored_again_from_the_broker(pipeline: Pipeline, partition: int) -> None:
    """The way back that docs/accounting.md names."""
    before = pipeline.verify().partitions
    pipeline.tamper(
        'DELETE FROM predictions WHERE partition = %(partition)s AND "offset" IN (4, 7)', partition=partition
    )
    pipeline.tamper("UPDATE sink_offsets SET next_offset = 4 WHERE partition = %(partition)s", partition=partition)
    pipeline.drain()
    report = pipeline.verify()
    assert report.verified, report.problems
    assert report.partitions == before


INSERT = """
INSERT INTO predictions (id, summary, text, helpfulness_numerator, helpfulness_denominator, prediction,
                         sentiment, confidence, explanation, model, created_at,
                         log_id, partition, "offset")
SELECT 'aaaaaaaa-0000-7000-8000-000000000000', summary, text, 1, 1, 2, sentiment, 0.5, '[]', model,
       created_at, coalesce((SELECT log_id FROM logs WHERE cluster_id = %(into)s), log_id), partition,
       %(offset)s
FROM predictions WHERE partition = %(partition)s LIMIT 1
"""


@pytest.mark.parametrize(
    ("partition", "offset", "into", "problem"),
    [
        (0, 10, None, "predictions/0: 1 recorded outside of [0, 10): offset 10 (predictions, id aaaaaaaa"),
        (1, 11, None, "predictions/1: 1 recorded twice: offset 11 (predictions and duplicates, id 01"),
        (2, 10, None, "predictions/2: 1 recorded twice: offset 10 (predictions and dead_letters, id aaaaaaaa"),
        (2, 7, "other", "t/2 of the closed log other: 1 rows without a line in sink_offsets: offset 7"),
    ],
)
def test_an_inserted_row_is_named(
    pipeline: Pipeline, partition: int, offset: int, into: str | None, problem: str
) -> None:
    if into is not None:
        pipeline.tamper("INSERT INTO logs (cluster_id, topic) VALUES (%(into)s, 't')", into=into)
    pipeline.tamper(INSERT, partition=partition, offset=offset, into=into)
    report = pipeline.verify()
    assert len(report.problems) == 1
    assert report.problems[0].startswith(problem)
    assert "aaaaaaaa-0000-7000-8000-000000000000" in report.problems[0]


def test_a_row_that_was_moved_is_found_at_both_ends(pipeline: Pipeline) -> None:
    pipeline.tamper('UPDATE predictions SET "offset" = 99 WHERE partition = 0 AND "offset" = 5')
    problems = pipeline.verify().problems
    assert problems[0] == "predictions/0: 1 recorded nowhere: offsets 5"
    assert problems[1].startswith("predictions/0: 1 recorded outside of [0, 10): offset 99 (predictions, id ")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("next_offset = 8", "next_offset is 8 and the log's end was 10: 2 events are not recorded yet"),
        ("next_offset = 8", "2 recorded outside of [0, 8): offset 8 (predictions"),
        ("next_offset = 13", "next_offset is 13, beyond the log's end, 10"),
        ("next_offset = 13", "3 recorded nowhere: offsets 10 to 12"),
        ("first_offset = 2", "first_offset is 2 and the log starts at 0: 2 events before it"),
        ("first_offset = 2", "2 recorded outside of [2, 10): offset 0 (predictions"),
    ],
)
def test_an_altered_offset_is_found(pipeline: Pipeline, change: str, problem: str) -> None:
    column, value = change.split(" = ")
    statement = sql.SQL("UPDATE sink_offsets SET {} = %s WHERE partition = 0")
    pipeline.database.execute(statement.format(sql.Identifier(column)), (int(value),))
    assert any(one.startswith(f"predictions/0: {problem}") for one in pipeline.verify().problems)


def test_a_partition_that_the_sink_forgot_is_found(pipeline: Pipeline) -> None:
    pipeline.tamper("DELETE FROM sink_offsets WHERE partition = 1")
    problems = pipeline.verify().problems
    assert problems[0].startswith("predictions/1: it was never assigned to a consumer: offsets 0 to 11 (12 events)")
    assert problems[1].startswith("predictions/1: 12 rows without a line in sink_offsets: offset 0 (")


def test_rows_that_claim_positions_of_no_event_are_found_though_they_balance(pipeline: Pipeline) -> None:
    pipeline.tamper(INSERT, partition=0, offset=10, into=None)
    pipeline.tamper("UPDATE sink_offsets SET next_offset = 11 WHERE partition = 0")
    (problem,) = pipeline.verify().problems
    assert problem.startswith(
        "predictions/0: next_offset is 11, beyond the log's end, 10: rows claim positions that no event has"
    )
    assert "bdlab migrate --new-log" in problem


def test_events_that_are_not_stored_yet_are_counted(pipeline: Pipeline) -> None:
    pipeline.fill(3, 1)
    assert pipeline.verify().problems == [
        "predictions/1: next_offset is 12 and the log's end was 15: 3 events are not recorded yet"
    ]


def test_retention_that_outran_the_sink_is_found(pipeline: Pipeline) -> None:
    pipeline.fill(5, 0)
    pipeline.log.trim(0, 13)
    assert pipeline.verify().problems == [
        "predictions/0: offsets 10 to 12 were deleted by the broker's retention before they were recorded",
        "predictions/0: next_offset is 10 and the log's end was 15: 2 events are not recorded yet",
    ]


def test_retention_of_what_was_stored_is_no_problem(pipeline: Pipeline) -> None:
    pipeline.log.trim(0, 7)
    assert pipeline.verify().verified


def test_it_waits_for_a_running_consumer(pipeline: Pipeline) -> None:
    sink = Sink(pipeline.store, SinkSettings(batch_wait_s=0.01))
    stop = threading.Event()
    consumer = MemoryConsumer(pipeline.log, positions=sink.positions)

    def consume() -> None:
        with consumer:
            sink.run(consumer, stop)

    for partition in range(3):
        pipeline.fill(200, partition)
    thread = threading.Thread(target=consume)
    thread.start()
    try:
        report = pipeline.verify(wait_s=20)
        assert report.verified, report.problems
        assert sum(one.stored for one in report.partitions) == 630
    finally:
        stop.set()
        thread.join(20)


def test_it_is_right_while_events_keep_coming(pipeline: Pipeline) -> None:
    sink = Sink(pipeline.store, SinkSettings(batch_wait_s=0.01, batch_size=20))
    stop = threading.Event()
    consumer = MemoryConsumer(pipeline.log, positions=sink.positions)

    def consume() -> None:
        with consumer:
            sink.run(consumer, stop)

    def produce() -> None:
        while not stop.wait(0.002):
            pipeline.fill(1, 0)
            pipeline.fill(1, 2)

    threads = [threading.Thread(target=consume), threading.Thread(target=produce)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            report = pipeline.verify(wait_s=20)
            assert report.verified, report.problems
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)


def test_a_closed_incarnation_is_listed_with_what_it_lost(pipeline: Pipeline) -> None:
    former = pipeline.log.cluster_id
    pipeline.fill(4, 0)
    pipeline.tamper("UPDATE sink_offsets SET end_seen = 14 WHERE partition = 0")
    pipeline.log.replace()
    pipeline.fill(2, 0)
    pipeline.drain()
    report = pipeline.verify()
    assert report.verified, report.problems
    assert [(one.cluster_id, one.partition, one.stored, one.lost) for one in report.closed] == [
        (former, 0, 10, 4),
        (former, 1, 10, 0),
        (former, 2, 10, 0),
    ]
    # A closed one still has to balance.
    pipeline.database.execute(DELETE, {"offsets": [1]})
    assert [one.split(": ", 1)[1] for one in pipeline.verify().problems] == [
        "1 recorded nowhere: offsets 1",
        "1 recorded nowhere: offsets 1",
    ]


def test_a_broker_that_is_away_cannot_be_verified_against(pipeline: Pipeline) -> None:
    pipeline.log.online = False
    with pytest.raises(BrokerUnavailable):
        pipeline.verify()


def test_counting_uses_the_indexes_alone(new_database: Callable[[], Database]) -> None:
    """The plan of the counts and of the walk for gaps, on tables that a planner would rather scan."""
    database = new_database()
    database.execute("VACUUM ANALYZE predictions")
    texts = queries("accounts")
    values = {"log_id": 1, "partition": 0, "base": 0, "next": 9, "limit": 5}
    for name in ("counts", "gaps", "twice", "outside"):
        plan = database.execute(f"{texts['index_scans_only']}; EXPLAIN {texts[name]}", values)
        text = "\n".join(line for (line,) in plan)
        assert "Seq Scan" not in text, (name, text)
        assert "Index Only Scan" in text, (name, text)
