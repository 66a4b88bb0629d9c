"""The loop, over a topic and a store in memory."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bdlab.certificates import CertificateFiles
from bdlab.errors import (
    BrokerUnavailable,
    DatabaseDenied,
    DatabaseError,
    DatabaseUnavailable,
    FenceLost,
    OffsetOutOfRange,
    VaultUnavailable,
)
from bdlab.events import EventCodec, Position, Record, encode, headers
from bdlab.ledger import Entry, LogPartition, Stored
from bdlab.settings import SinkSettings
from bdlab.sink import LagWatch, MetricsServer, Sink, SinkMetrics
from bdlab.stack.tls import temporary_certificates
from tests.memory.consumer import MemoryConsumer
from tests.memory.log import MemoryLog
from tests.memory.store import MemoryStore
from tests.samples import at, event, later_event, later_reviews, record
from tests.waiting import until

QUICK = SinkSettings(batch_size=50, batch_wait_s=0.01)


def fill(log: MemoryLog, number: int, *, partition: int | None = None) -> list[str]:
    ids = []
    for _ in range(number):
        key, value = encode(event())
        log.append(key, value, partition=partition)
        ids.append(key.decode())
    return ids


def drain(log: MemoryLog, store: MemoryStore, *, batch_size: int = 50) -> Stored:
    sink = Sink(store, SinkSettings(batch_size=batch_size, batch_wait_s=0.005))
    with MemoryConsumer(log, positions=sink.positions) as consumer:
        return sink.run(consumer, threading.Event(), until_idle=True)


def balanced(store: MemoryStore) -> bool:
    return all(account.balanced for account in store.accounts(limit=5))


@contextmanager
def running(sink: Sink, consumer: MemoryConsumer) -> Iterator[threading.Event]:
    """The sink in a thread; stopped and joined at the end. What it raised is raised."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with consumer:
                sink.run(consumer, stop)
        except BaseException as error:
            failed.append(error)
            stop.set()
            raise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda _arguments: None)
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield stop
        finally:
            stop.set()
            thread.join(20)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


class Watched(MemoryStore):
    """A store that says when something was committed, and fails as told."""

    def __init__(self, *failures: DatabaseError | VaultUnavailable) -> None:
        super().__init__()
        self._failures = list(failures)
        self.tries: list[list[int]] = []
        self.changed = threading.Condition()

    def store(self, batch: Sequence[Entry], *, ends: Mapping[LogPartition, int] | None = None) -> Stored:
        with self.changed:
            self.tries.append([entry.record.position.offset for entry in batch])
            self.changed.notify_all()
            if self._failures:
                raise self._failures.pop(0)
            return super().store(batch, ends=ends)

    def wait(self, rows: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.predictions) >= rows, timeout=20)


def test_a_topic_is_stored_to_its_end() -> None:
    log, store = MemoryLog(), MemoryStore()
    ids = fill(log, 230)
    assert drain(log, store) == Stored(rows=230)
    assert {str(key) for key in store.predictions} == set(ids)
    assert balanced(store)
    assert log.lag() == dict.fromkeys(range(6), 0)


def test_a_drained_topic_is_not_stored_again() -> None:
    log, store = MemoryLog(), MemoryStore()
    fill(log, 30)
    drain(log, store)
    assert drain(log, store) == Stored()
    fill(log, 5)
    assert drain(log, store) == Stored(rows=5)


def test_delivery_of_the_whole_topic_again_writes_nothing() -> None:
    log, store = MemoryLog(), MemoryStore(refuses=lambda event: event.text == "poison")
    fill(log, 40)
    log.append(b"k", b"no JSON")
    log.append(*encode(event(text="poison")))
    again = encode(event())
    log.append(*again)
    log.append(*again)
    drain(log, store)
    before = store.accounts(limit=5)
    store.next = dict.fromkeys(store.next, 0)
    assert drain(log, store) == Stored()
    assert store.accounts(limit=5) == before


def test_the_log_names_the_ids_of_a_small_batch() -> None:
    log = MemoryLog()
    ids = fill(log, 3, partition=1)
    with capture_logs() as lines:
        drain(log, MemoryStore())
    stored = next(line for line in lines if line["event"] == "batch stored")
    assert stored["ids"] == ids
    assert (stored["rows"], stored["offsets"]) == (3, {1: "0-2"})


@pytest.mark.parametrize("failure", [DatabaseUnavailable("gone"), VaultUnavailable("sealed")])
def test_a_batch_is_tried_again_until_it_holds(failure: DatabaseError | VaultUnavailable) -> None:
    log, store = MemoryLog(partitions=1), Watched(failure, failure, failure)
    fill(log, 20)
    assert drain(log, store) == Stored(rows=20)
    assert store.tries == [list(range(20))] * 4
    assert store.dead_letters == {}


def test_an_outage_is_a_few_lines_however_long_it_lasts() -> None:
    closed, sealed = DatabaseUnavailable("closed by the server"), VaultUnavailable("sealed")
    log, store = MemoryLog(partitions=1), Watched(closed, sealed, sealed, closed, sealed)
    fill(log, 5)
    with capture_logs() as lines:
        assert drain(log, store) == Stored(rows=5)
    told = [line for line in lines if line["event"] in ("batch not stored yet", "going on")]
    assert [line.get("problem") for line in told] == ["closed by the server", "sealed", None]
    assert told[-1]["after"] == "batch not stored yet"


def test_a_denial_under_fresh_credentials_ends_the_run() -> None:
    log, store = MemoryLog(), Watched(DatabaseDenied("no INSERT on predictions"))
    fill(log, 5)
    with pytest.raises(DatabaseDenied, match="no INSERT"):
        drain(log, store)
    assert store.commits == 0


def test_a_lost_fence_reads_again_from_what_is_stored() -> None:
    """As after a batch whose commit held and whose answer was lost."""
    log = MemoryLog(partitions=1)

    class Forgetful(Watched):
        lost = False

        def store(self, batch: Sequence[Entry], *, ends: Mapping[LogPartition, int] | None = None) -> Stored:
            stored = super().store(batch, ends=ends)
            if not self.lost:
                self.lost = True
                raise DatabaseUnavailable("the answer was lost")
            return stored

    store = Forgetful()
    fill(log, 120)
    drain(log, store)
    assert [tried[0] for tried in store.tries] == [0, 0, 50, 100]
    assert len(store.predictions) == 120
    assert balanced(store)


def test_a_rival_that_stored_the_batch_first_wins() -> None:
    log = MemoryLog(partitions=1)
    ids = fill(log, 80)

    class Raced(Watched):
        def store(self, batch: Sequence[Entry], *, ends: Mapping[LogPartition, int] | None = None) -> Stored:
            if not self.tries:
                super().store(batch[:30], ends=ends)  # the rival
                raise FenceLost("somebody was here")
            return super().store(batch, ends=ends)

    store = Raced()
    drain(log, store)
    assert sorted(map(str, store.predictions)) == sorted(ids)
    assert store.tries[1][0] == 30
    assert balanced(store)


class GappySource:
    """A source whose partition 0 lacks offset 3, as a log that was compacted."""

    def __init__(self) -> None:
        self.batches = [[record(at(n)) for n in (0, 1, 2, 4, 5)] + [record(at(n, 1)) for n in range(3)]]
        self.assigned = frozenset({0, 1})
        self.at_end = True
        self.stopped: Mapping[int, str] = {}
        self.problem: BrokerUnavailable | None = None
        self.acknowledged: list[Position] = []

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        del max_records, timeout_s
        return self.batches.pop(0) if self.batches else []

    def rewind(self) -> None:
        pytest.fail("a gap is no reason to read again")

    def acknowledge(self, positions: Sequence[Position]) -> None:
        self.acknowledged += positions


def test_a_gap_stops_its_partition_and_no_other() -> None:
    source, store = GappySource(), MemoryStore()
    sink = Sink(store, QUICK)
    sink.positions([at(0), at(0, 1)])
    with pytest.raises(OffsetOutOfRange, match="partition 0: offsets 3 to 3 are missing in the log"):
        sink.run(source, threading.Event(), until_idle=True)
    assert {(log.partition, offset) for log, offset in store.next.items()} == {(0, 3), (1, 3)}
    assert source.acknowledged == [at(3), at(3, 1)]


def test_an_event_of_a_later_version_holds_its_partition_and_is_no_dead_letter() -> None:
    source, store = GappySource(), MemoryStore()
    first, *_ = source.batches
    newer = Record(at(2), first[2].key, first[2].value, (("bdlab-contract", b"2"),))
    source.batches = [[*first[:2], newer, *(one for one in first if one.position.partition == 1)]]
    metrics = SinkMetrics()
    sink = Sink(store, QUICK, metrics=metrics)
    sink.positions([at(0), at(0, 1)])
    with pytest.raises(OffsetOutOfRange, match="partition 0: offset 2: the header bdlab-contract is 2, and"):
        sink.run(source, threading.Event(), until_idle=True)
    assert {(log.partition, offset) for log, offset in store.next.items()} == {(0, 2), (1, 3)}
    assert not any(account.dead_letters for account in store.accounts(limit=1))
    assert metrics.registry.get_sample_value("bdlab_sink_stopped_partitions") == 1


def test_a_held_partition_goes_on_by_itself_once_the_database_has_the_contract() -> None:
    """Nothing is skipped, nothing is a dead letter, and events of both numbers are stored."""
    log, store, codec = MemoryLog(partitions=1), Watched(), EventCodec(later_reviews())
    sink = Sink(store, QUICK)
    kept = [event(), later_event(codec, stars=7), event(), later_event(codec, stars=8)]
    with capture_logs() as lines, running(sink, MemoryConsumer(log, positions=sink.positions)):
        for one in kept:
            log.append(*encode(one), headers(one, source="/tests", traceparent="t"))
        until(lambda: any("contract here is 1" in line.get("reason", "") for line in lines))
        store.migrated = codec
        store.wait(4)
    assert [getattr(found, "stars", None) for _, found in store.predictions.values()] == [None, 7, 3, 8]
    assert balanced(store)
    assert not store.dead_letters
    told = [line["event"] for line in lines]
    assert (told.count("partition stopped"), told.count("the database has another contract")) == (1, 1)


def test_a_broker_that_stays_away_ends_a_drain_with_its_reason() -> None:
    source = GappySource()
    source.batches, source.at_end, source.problem = [], False, BrokerUnavailable("nobody answers")
    with pytest.raises(BrokerUnavailable, match="nobody answers"):
        Sink(MemoryStore(), QUICK).run(source, threading.Event(), until_idle=True, patience_s=0.01)


def test_a_drain_that_is_given_no_partition_says_so() -> None:
    source = GappySource()
    source.batches, source.at_end, source.assigned = [], False, frozenset()
    with pytest.raises(BrokerUnavailable, match=r"no partition for 0\.5 s: others have them all"):
        Sink(MemoryStore(), QUICK).run(source, threading.Event(), until_idle=True, patience_s=0.5)


def test_what_another_consumer_has_now_is_no_lag_of_this_one() -> None:
    source = GappySource()
    sink = Sink(MemoryStore(), QUICK)
    sink.positions([at(0), at(0, 1)])
    source.assigned = frozenset({1})
    sink.run(source, threading.Event(), until_idle=True)
    assert {where.partition: recorded for where, recorded in sink.recorded.items()} == {1: 3}


def test_a_topic_that_is_made_again_is_stored_beside_the_old_one() -> None:
    """And a log whose topic id is not known is refused if it holds other records."""
    log, store = MemoryLog(partitions=1), Watched()
    sink = Sink(store, QUICK)
    log.make_again()
    for before in (0, 60):
        with running(sink, MemoryConsumer(log, positions=sink.positions, check_log=sink.check_log)):
            fill(log, 20)
            store.wait(before + 20)
            log.make_again()
            fill(log, 40)
            store.wait(before + 60)
    assert balanced(store)
    assert len({where.topic_id for where in store.next}) == 3
    log.topic_id, where = "", LogPartition(log.cluster_id, log.topic, 0)
    store = Watched()
    store.first, store.next = {where: 0}, {where: 5}
    sink = Sink(store, QUICK)
    source = MemoryConsumer(log, positions=sink.positions, check_log=sink.check_log)
    with source, pytest.raises(OffsetOutOfRange, match="is not proved to be the log that is recorded"):
        sink.run(source, threading.Event(), until_idle=True)


def test_a_new_incarnation_of_the_log_is_stored_beside_the_old_one() -> None:
    log, store = MemoryLog(partitions=2), Watched()
    sink = Sink(store, QUICK)
    with running(sink, MemoryConsumer(log, positions=sink.positions)):
        fill(log, 40)
        store.wait(40)
        log.replace()
        fill(log, 30)
        store.wait(70)
    assert balanced(store)
    assert len({where.cluster_id for where in store.next}) == 2


def test_consumers_that_come_and_go_store_each_event_once() -> None:
    log, store = MemoryLog(), Watched()
    sinks = [Sink(store, QUICK) for _ in range(3)]
    consumers = [MemoryConsumer(log, positions=sink.positions) for sink in sinks]
    with running(sinks[0], consumers[0]):
        fill(log, 300)
        with running(sinks[1], consumers[1]):
            fill(log, 300)
            store.wait(400)
            with running(sinks[2], consumers[2]):
                fill(log, 300)
        store.wait(900)
    assert len(store.predictions) == 900
    assert store.duplicates == {}
    assert balanced(store)


def test_stopping_finishes_the_batch_and_gives_up_on_a_database_that_is_away() -> None:
    log, store = MemoryLog(partitions=1), Watched()
    sink = Sink(store, QUICK)
    store.failure = DatabaseUnavailable("gone")
    fill(log, 10)
    consumer = MemoryConsumer(log, positions=sink.positions)
    with running(sink, consumer) as stop:
        stop.set()
    assert store.commits == 0
    store.failure = None
    with running(sink, consumer) as stop, store.changed:
        assert store.changed.wait_for(lambda: store.tries, timeout=20)
        stop.set()
    assert len(store.predictions) == 10


@settings(deadline=None, max_examples=40)
@given(
    content=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["good", "again", "garbage", "tombstone", "refused"])),
        max_size=120,
    ),
    batch_size=st.integers(1, 40),
)
def test_whatever_is_on_the_topic_each_position_ends_once(content: list[tuple[int, str]], batch_size: int) -> None:
    log = MemoryLog(partitions=3)
    store = MemoryStore(refuses=lambda event: event.text == "refused")
    same = encode(event())
    for partition, kind in content:
        match kind:
            case "good":
                log.append(*encode(event()), partition=partition)
            case "again":
                log.append(*same, partition=partition)
            case "garbage":
                log.append(b"k", b'{"id": ', partition=partition)
            case "tombstone":
                log.append(b"k", None, partition=partition)
            case "refused":
                log.append(*encode(event(text="refused")), partition=partition)
    with structlog.testing.capture_logs():
        total = drain(log, store, batch_size=batch_size)
    kinds = [kind for _, kind in content]
    again = kinds.count("again")
    assert total == Stored(
        rows=kinds.count("good") + min(again, 1),
        duplicates=max(0, again - 1),
        dead_letters=sum(kinds.count(kind) for kind in ("garbage", "tombstone", "refused")),
    )
    assert balanced(store)
    refused = [letter for letter in store.dead_letters.values() if letter.sqlstate]
    assert len(refused) == kinds.count("refused")


def get(server: MetricsServer, path: str, ca_pem: str = "") -> tuple[int, str]:
    verify = ssl.create_default_context(cadata=ca_pem) if ca_pem else True
    answer = httpx.get(server.url + path, verify=verify, timeout=5, trust_env=False)
    return answer.status_code, answer.text


def test_the_metrics_server_serves_metrics_and_liveness() -> None:
    log, store, metrics = MemoryLog(partitions=1), MemoryStore(), SinkMetrics()
    fill(log, 7)
    log.append(b"k", b"garbage")
    sink = Sink(store, QUICK, metrics=metrics)
    with MemoryConsumer(log, positions=sink.positions) as consumer:
        sink.run(consumer, threading.Event(), until_idle=True)

    def ends() -> dict[LogPartition, int]:
        return {LogPartition(one.cluster_id, one.topic, one.partition): one.end for one in log.log_ranges()}

    fill(log, 4)
    LagWatch(sink, metrics, ends).measure()
    alive = [True]
    with MetricsServer(metrics.registry, lambda: alive[0], host="127.0.0.1", port=0) as server:
        status, text = get(server, "/metrics")
        assert status == 200
        assert "bdlab_sink_rows_total 7.0" in text
        assert 'bdlab_sink_dead_letters_total{reason="undecodable"} 1.0' in text
        assert 'bdlab_sink_lag_events{partition="0"} 4.0' in text
        assert get(server, "/health/live") == (200, "alive\n")
        alive[0] = False
        assert get(server, "/health/live")[0] == 503
        assert get(server, "/elsewhere")[0] == 404
    # The ends that were seen are stored with the next batch.
    with MemoryConsumer(log, positions=sink.positions) as consumer:
        sink.run(consumer, threading.Event(), until_idle=True)
    assert list(store.end_seen.values()) == [12]


def test_the_metrics_server_speaks_tls_alone_and_takes_a_renewed_certificate(tmp_path: Path) -> None:
    first, second = (temporary_certificates(["sink"], ttl_s=600)["sink"] for _ in range(2))
    files = CertificateFiles(tmp_path)
    files.write(first, [], ttl_s=600)
    pair = {"cert_file": str(files.server_file), "key_file": str(files.server_file)}
    registry = SinkMetrics().registry
    with MetricsServer(registry, lambda: True, host="127.0.0.1", port=0, **pair) as server:
        assert server.url.startswith("https://")
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as silent:
            # A client that says nothing, and one that speaks no TLS, stop no other.
            assert get(server, "/health/live", first.ca_pem) == (200, "alive\n")
            silent.sendall(b"GET /health/live HTTP/1.1\r\n\r\n")
            assert b"200" not in silent.recv(1000)
        files.server_file.write_text("half of a")
        assert get(server, "/health/live", first.ca_pem)[0] == 200
        files.write(second, [], ttl_s=600)

        def renewed() -> bool:
            with contextlib.suppress(httpx.ConnectError):
                return "bdlab_sink_rows_total" in get(server, "/metrics", second.ca_pem)[1]
            return False

        until(renewed)
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            get(server, "/metrics", first.ca_pem)
