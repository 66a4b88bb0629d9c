"""Dead letters that are sent back, and rows that are pruned: the accounting stays right."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from bdlab import deadletters
from bdlab.deadletters import OPEN, DeadLetterFilter, LetterResult, ReplayOutcome, await_replays, replay
from bdlab.errors import DatabaseUnavailable, Unhealthy
from bdlab.events import Headers, Position, encode
from bdlab.ledger import REPLAY_HEADER, LogPartition
from bdlab.postgres.accounts import Pruned, prune
from bdlab.postgres.deadletters import DeadLetters
from bdlab.postgres.reader import Reader
from bdlab.postgres.store import Store
from bdlab.selection import Selection
from bdlab.settings import SinkSettings
from bdlab.sink import Sink
from bdlab.verification import Report, verify
from tests.fix_database import Database
from tests.memory.consumer import MemoryConsumer
from tests.memory.log import MemoryLog, MemoryProducer
from tests.samples import at, dead, event, rows

NOW = datetime.now(UTC)


@dataclass
class Pipeline:
    """A topic of one partition in memory, stored in Postgres."""

    log: MemoryLog
    database: Database
    store: Store
    letters: DeadLetters
    reader: Reader

    def append(self, text: str = "fine", headers: Headers = ()) -> None:
        self.log.append(*encode(event(text=text)), headers, partition=0)

    def drain(self) -> None:
        sink = Sink(self.store, SinkSettings(batch_wait_s=0.01))
        with MemoryConsumer(self.log, positions=sink.positions) as consumer:
            sink.run(consumer, threading.Event(), until_idle=True)

    def find(self, **wanted: object) -> list[int]:
        found = self.letters.find(DeadLetterFilter(**wanted), limit=100)  # type: ignore[arg-type]
        assert self.letters.count(DeadLetterFilter(**wanted)) == len(found)  # type: ignore[arg-type]
        return [letter.record.position.offset for letter in found]

    def replay(self, max_replays: int = 3, **wanted: object) -> list[LetterResult]:
        found = self.letters.find(DeadLetterFilter(**wanted), limit=100)  # type: ignore[arg-type]
        with MemoryProducer(self.log, source="/tests") as producer:
            return list(replay(found, producer.publish_raw, self.letters.record_replays, max_replays=max_replays))

    def verify(self) -> Report:
        return verify(self.log.log_ranges, self.reader)

    def refuse(self, text: str) -> None:
        self.database.execute("ALTER TABLE predictions ADD CONSTRAINT on_purpose CHECK (text <> %s)", (text,))

    def prune(self, older_than: timedelta = timedelta(days=30), **options: object) -> list[Pruned]:
        found = prune(self.database.credentials("owner"), before=NOW - older_than, **options)  # type: ignore[arg-type]
        return list(found)

    def age(self, offsets: Sequence[int], by: timedelta = timedelta(days=60)) -> None:
        """Make the positions look as if they had been recorded so much earlier."""
        for table, column in (
            ("predictions", "stored_at"),
            ("duplicates", "recorded_at"),
            ("dead_letters", "recorded_at"),
        ):
            statement = f'UPDATE {table} SET {column} = {column} - %s WHERE "offset" = ANY (%s)'  # noqa: S608
            self.database.execute(statement, (by, list(offsets)))


@pytest.fixture
def pipeline(database: Database) -> Iterator[Pipeline]:
    store = Store(database.credentials("writer"))
    with DeadLetters(database.credentials("dlq")) as letters, Reader(database.credentials("reader")) as reader:
        yield Pipeline(MemoryLog(partitions=1), database, store, letters, reader)
    store.close()


def test_a_replay_is_stored_once_its_cause_is_mended(pipeline: Pipeline) -> None:
    pipeline.refuse("poison")
    for text in ("fine", "poison", "poison", "fine"):
        pipeline.append(text, [("traceparent", b"00-aa-bb-01")])
    pipeline.drain()
    assert pipeline.find() == pipeline.find(sqlstate="23") == pipeline.find(reason="ON_PURPOSE") == [1, 2]

    pipeline.database.execute("ALTER TABLE predictions DROP CONSTRAINT on_purpose")
    results = pipeline.replay()
    assert [one.replay and one.replay.offset for one in results] == [4, 5]
    assert [tuple(header) for header in pipeline.log.read(0, 4, 1)[0].headers] == [
        ("traceparent", b"00-aa-bb-01"),
        (REPLAY_HEADER, b"1"),
    ]
    pipeline.drain()
    report = pipeline.verify()
    assert report.verified, report.problems
    found = report.partitions[0]
    assert (found.stored, found.duplicates, found.dead_letters) == (4, 0, 2)
    assert pipeline.find() == [1, 2]
    assert pipeline.find(states=OPEN) == []
    rows = pipeline.database.execute('SELECT "offset", new_offset FROM replays ORDER BY 1')
    assert rows == [(1, 4), (2, 5)]


def test_a_replay_that_fails_again_counts_on_and_is_guarded(pipeline: Pipeline) -> None:
    pipeline.refuse("poison")
    pipeline.append("poison")
    for expected in (1, 2, 3):
        pipeline.drain()
        results = pipeline.replay(states=OPEN)
        assert [one.problem for one in results] == [""]
        pipeline.drain()
        newest = pipeline.letters.find(DeadLetterFilter(states=OPEN), limit=9)
        assert [letter.replays for letter in newest] == [expected]
    results = pipeline.replay(states=OPEN)
    assert [one.problem for one in results] == ["it was replayed 3 times already, and the limit is 3"]
    assert pipeline.replay(max_replays=4, states=OPEN)[0].replay is not None
    pipeline.drain()
    assert pipeline.verify().verified
    # The first of them was sent back once from its own position.
    assert pipeline.letters.find(DeadLetterFilter(offset=0), limit=1)[0].replays == 1


def test_a_replay_that_was_sent_twice_is_a_duplicate(pipeline: Pipeline) -> None:
    pipeline.refuse("poison")
    pipeline.append("poison")
    pipeline.drain()
    pipeline.database.execute("ALTER TABLE predictions DROP CONSTRAINT on_purpose")
    first, again = pipeline.replay(), pipeline.replay()
    pipeline.drain()
    settled = await_replays([*first, *again], pipeline.letters.replay_outcomes, wait_s=0, stop=threading.Event())
    assert [one.outcome and one.outcome.became for one in settled] == ["stored", "duplicate"]
    found = pipeline.verify()
    assert found.verified, found.problems
    assert (found.partitions[0].stored, found.partitions[0].duplicates) == (1, 1)


class ForgetfulBook:
    """Cannot note anything for the first `failing` tries."""

    def __init__(self, book: DeadLetters, failing: int) -> None:
        self._book = book
        self.failing = failing

    def record_replays(self, replays: Sequence[tuple[Position, Position]]) -> None:
        self.failing -= 1
        if self.failing >= 0:
            raise DatabaseUnavailable("the connection was cut")
        self._book.record_replays(replays)


def test_a_replay_is_noted_once_the_database_is_back(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """And told where it is not: otherwise the next run sends it once more, and nobody knows."""
    pipeline.refuse("poison")
    pipeline.append("poison")
    pipeline.drain()
    found = pipeline.letters.find(DeadLetterFilter(), limit=9)
    with MemoryProducer(pipeline.log, source="/tests") as producer:
        (result,) = replay(found, producer.publish_raw, ForgetfulBook(pipeline.letters, 2).record_replays)
        assert result.replay
        assert pipeline.find(states=OPEN) == []
        monkeypatch.setattr(deadletters, "_NOTED_WITHIN_S", 0.0)
        told = replay(found, producer.publish_raw, ForgetfulBook(pipeline.letters, 9).record_replays)
        assert next(told).replay
        with pytest.raises(DatabaseUnavailable):
            next(told)


def test_a_letter_tells_what_was_done_about_it(pipeline: Pipeline) -> None:
    def states() -> dict[int, str]:
        return {
            letter.record.position.offset: letter.state
            for letter in pipeline.letters.find(DeadLetterFilter(), limit=99)
        }

    pipeline.refuse("poison")
    for text in ("poison", "fine", "poison", "poison"):
        pipeline.append(text)
    pipeline.drain()
    assert states() == {0: "open", 2: "open", 3: "open"}

    results = pipeline.replay(offset=0)
    assert states() == {2: "open", 3: "open", 0: "sent"}
    pipeline.drain()
    # One matter is open once, at its newest position, and comes before what is closed.
    assert list(states().items()) == [(2, "open"), (3, "open"), (4, "returned"), (0, "superseded")]
    stop = threading.Event()
    [told] = await_replays(results, pipeline.letters.replay_outcomes, wait_s=5, stop=stop)
    assert told.outcome is not None
    assert told.outcome.became == "dead"
    assert "on_purpose" in told.outcome.reason
    [old] = pipeline.letters.find(DeadLetterFilter(offset=0), limit=2)
    assert old.replayed_to == (0, 4)

    pipeline.letters.discard([old.record.position, at_offset(pipeline, 3)], because="a\x00test")
    pipeline.letters.discard([at_offset(pipeline, 3)], because="once more")
    assert states() == {2: "open", 4: "returned", 0: "discarded", 3: "discarded"}
    assert pipeline.letters.find(DeadLetterFilter(offset=3), limit=2)[0].discarded_because == "a\\0test"
    assert pipeline.find(states=OPEN) == [2, 4]
    assert pipeline.find(states=["discarded"]) == [0, 3]
    with Reader(pipeline.database.credentials("reader")) as reader:
        assert reader.state().open_dead_letters == 2

    pipeline.database.execute("ALTER TABLE predictions DROP CONSTRAINT on_purpose")
    results = pipeline.replay(states=OPEN)
    stop.set()
    assert [one.outcome for one in await_replays(results, pipeline.letters.replay_outcomes, wait_s=60, stop=stop)] == [
        None,
        None,
    ]
    pipeline.drain()
    settled = await_replays(results, pipeline.letters.replay_outcomes, wait_s=0, stop=stop)
    assert [one.outcome for one in settled] == [ReplayOutcome("stored"), ReplayOutcome("stored")]
    assert states() == {0: "discarded", 2: "stored", 3: "discarded", 4: "stored"}
    assert pipeline.verify().verified


def test_a_row_says_where_its_event_came_from_and_a_replay_keeps_it(pipeline: Pipeline) -> None:
    pipeline.refuse("poison")
    for source in (b"/bdlab/serve", b"/bdlab/predict", b"/bdlab/drill", b"/bdlab/demo", b"\xff\\N\t"):
        pipeline.append(f"of {source!r}", [("ce_source", source)])
    pipeline.append("old")
    pipeline.append("poison", [("ce_source", b"/bdlab/drill")])
    pipeline.drain()
    pipeline.database.execute("ALTER TABLE predictions DROP CONSTRAINT on_purpose")
    pipeline.replay()
    pipeline.drain()

    def offsets(source: str) -> list[int]:
        return sorted(row.position.offset for row in pipeline.reader.page(Selection(source=source), 99).rows)

    assert offsets("all") == [0, 1, 2, 3, 4, 5, 7]
    assert offsets("real") == [0, 1, 4, 5]
    assert offsets("drill") == [2, 7]
    assert [offsets(source) for source in ("serve", "predict", "demo")] == [[0], [1], [3]]
    found = {row.position.offset: row for row in pipeline.reader.page(Selection(source="all"), 99).rows}
    assert [found[offset].source for offset in (0, 4, 5, 7)] == ["serve", None, None, "drill"]
    assert pipeline.reader.get(found[7].id) == found[7]
    report = pipeline.verify()
    assert report.verified, report.problems
    assert report.partitions[0].stored == 7


def at_offset(pipeline: Pipeline, offset: int) -> Position:
    return pipeline.letters.find(DeadLetterFilter(offset=offset), limit=1)[0].record.position


def test_what_the_broker_does_not_take_is_not_noted(pipeline: Pipeline) -> None:
    pipeline.refuse("poison")
    pipeline.append("poison")
    pipeline.drain()
    found = pipeline.letters.find(DeadLetterFilter(), limit=9)
    pipeline.log.online = False
    with MemoryProducer(pipeline.log, source="/tests", delivery_timeout_s=0.05) as producer:
        results = list(replay(found, producer.publish_raw, pipeline.letters.record_replays))
    assert "did not acknowledge" in results[0].problem
    assert pipeline.find(states=OPEN) == [0]


def test_filters(pipeline: Pipeline) -> None:
    store = pipeline.store
    store.start_offsets([at(0), at(0, 1), at(0, cluster_id="other")])
    store.store([dead(at(0)), *rows([1]), dead(at(2)), dead(at(0, 1)), dead(at(0, cluster_id="other"))])
    pipeline.age([2], timedelta(hours=2))
    assert sorted(pipeline.find()) == [0, 0, 0, 2]
    assert pipeline.find(partition=1) == [0]
    assert pipeline.find(cluster_id="other") == [0]
    assert pipeline.find(offset=2) == [2]
    assert pipeline.find(sqlstate="23") == []
    assert sorted(pipeline.find(reason="utf-8")) == [0, 0, 0, 2]
    assert pipeline.find(until=datetime.now(UTC) - timedelta(hours=1)) == [2]
    assert 2 not in pipeline.find(since=datetime.now(UTC) - timedelta(hours=1))
    assert pipeline.find(topic="elsewhere") == []
    # A tombstone can never be an event.
    store.start_offsets([at(0, 3)])
    store.store([dead(at(0, 3), value=None)])
    assert pipeline.replay(partition=3)[0].problem == "it has no value, which can never be an event"


def test_accounting_survives_pruning(pipeline: Pipeline) -> None:
    same = encode(event())
    for _ in range(20):
        pipeline.append()
    pipeline.log.append(*same, partition=0)
    pipeline.log.append(*same, partition=0)
    pipeline.log.append(b"k", b"garbage", partition=0)
    for _ in range(20):
        pipeline.append()
    pipeline.drain()
    pipeline.age(range(30))
    log = LogPartition(pipeline.log.cluster_id, pipeline.log.topic, 0)
    wanted = Pruned(log=log, pruned_to=30, stored=28, duplicates=1, dead_letters=1)
    assert pipeline.prune(dry_run=True) == [wanted]
    assert pipeline.verify().partitions[0].pruned == 0
    assert pipeline.prune(offsets_a_transaction=7) == [wanted]
    assert pipeline.prune() == []
    report = pipeline.verify()
    assert report.verified, report.problems
    found = report.partitions[0]
    assert (found.stored, found.duplicates, found.dead_letters, found.pruned) == (41, 1, 1, 30)
    assert pipeline.database.execute("SELECT count(*) FROM recorded_positions") == [(13,)]
    assert pipeline.database.execute("SELECT * FROM missing_offsets") == []

    # It goes on from there: more rows, and another prune.
    for _ in range(5):
        pipeline.append()
    pipeline.drain()
    pipeline.age(range(44))
    assert pipeline.prune()[0].stored == 13 + 1
    assert pipeline.verify().verified
    # And it still finds what is wrong, below the checkpoint as above it.
    pipeline.database.execute('DELETE FROM predictions WHERE "offset" = 46')
    assert pipeline.verify().problems == ["predictions/0: 1 recorded nowhere: offsets 46"]


def test_pruning_stops_at_the_first_young_position(pipeline: Pipeline) -> None:
    for _ in range(10):
        pipeline.append()
    pipeline.drain()
    pipeline.age([0, 1, 2, 4, 5])
    assert pipeline.prune()[0].pruned_to == 3
    assert pipeline.verify().verified


def test_what_does_not_balance_is_not_pruned(pipeline: Pipeline) -> None:
    for _ in range(10):
        pipeline.append()
    pipeline.drain()
    pipeline.age(range(10))
    pipeline.database.execute('DELETE FROM predictions WHERE "offset" = 4')
    with pytest.raises(Unhealthy, match="offsets 4 to 7 have 3 positions recorded"):
        pipeline.prune(offsets_a_transaction=4)
    assert pipeline.database.execute('SELECT count(*) FROM predictions WHERE "offset" > 3') == [(5,)]
    assert pipeline.verify().problems == ["predictions/0: 1 recorded nowhere: offsets 4"]


def test_pruning_beside_a_running_sink(pipeline: Pipeline) -> None:
    sink = Sink(pipeline.store, SinkSettings(batch_wait_s=0.01, batch_size=10))
    stop = threading.Event()
    consumer = MemoryConsumer(pipeline.log, positions=sink.positions)

    def consume() -> None:
        with consumer:
            sink.run(consumer, stop)

    thread = threading.Thread(target=consume)
    thread.start()
    try:
        for _ in range(10):
            for _ in range(30):
                pipeline.append()
            list(prune(pipeline.database.credentials("owner"), before=datetime.now(UTC), offsets_a_transaction=17))
            report = verify(pipeline.log.log_ranges, pipeline.reader, wait_s=20)
            assert report.verified, report.problems
    finally:
        stop.set()
        thread.join(20)
    assert pipeline.verify().partitions[0].stored == 300
