"""The consumer while brokers come back as another one, members come and go, and values are huge."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from confluent_kafka import Producer as RawProducer

from bdlab.errors import BrokerError, TopicMissing
from bdlab.events import Position, Record
from bdlab.kafka.admin import TOPIC_MAX_MESSAGE_BYTES, Admin
from bdlab.kafka.consumer import Consumer
from bdlab.kafka.consumer_client import MAX_POLL_BYTES
from bdlab.kafka.log_reader import UNREADABLE_HEADERS
from bdlab.stack import Tansu
from bdlab.stack.servers.server import PortRegistry
from tests import raw_records
from tests.brokers import LocalBroker, TansuAtOnePort, frozen
from tests.fix_kafka import (
    Bookmarks,
    credentials_for,
    kafka_login,
    leader_address,
    make_topic,
    place,
    published,
    read_until,
)
from tests.fix_servers import start_or_skip
from tests.samples import event_of
from tests.static_credentials import StaticCredentials


def places(records: list[Record]) -> list[Position]:
    return [place(record) for record in records]


def await_problem(consumer: Consumer, kind: type[BrokerError] = BrokerError) -> None:
    """Poll until there is one of this kind; until then there is nothing to read."""
    deadline = time.monotonic() + 60
    while not isinstance(consumer.problem, kind):
        assert time.monotonic() < deadline, consumer.problem
        assert consumer.poll(10, 0.3) == []


def at_address(credentials: StaticCredentials, servers: str) -> StaticCredentials:
    """Credentials for the same topic at another address, where it is made."""
    held = credentials.kafka()
    server = msgspec.structs.replace(held.server, bootstrap_servers=servers)
    return make_topic(StaticCredentials(kafka=msgspec.structs.replace(held, server=server)))


def test_a_new_incarnation_is_read_from_its_start(own_tansu: Callable[[], Tansu]) -> None:
    broker = own_tansu()
    credentials = credentials_for(broker)
    bookmarks = Bookmarks()
    before = published(credentials, 200)
    with Consumer(credentials, positions=bookmarks) as consumer:
        bookmarks.keep(read_until(consumer.poll, lambda found: len(found) == 200))
        broker.stop()
        await_problem(consumer)

        broker.start()
        elsewhere = at_address(credentials, broker.bootstrap_servers)
        after = published(elsewhere, 50)
        credentials.kafka_login = elsewhere.kafka()
        found = read_until(consumer.poll, lambda records: len(records) >= 50)

        assert set(places(found)) == after
        assert {at.cluster_id for at in bookmarks.asked[-1]} == {broker.cluster_id}
        assert not after & before
        assert consumer.problem is None


def test_another_log_behind_the_same_address_is_read_under_its_own_cluster_id(tmp_path: Path) -> None:
    port = PortRegistry(tmp_path / "ports.json").choose("tansu")
    credentials = StaticCredentials(kafka=kafka_login(f"127.0.0.1:{port}"))
    bookmarks = Bookmarks()
    with TansuAtOnePort(tmp_path) as broker:
        make_topic(credentials)
        published(credentials, 100)
        with Consumer(credentials, positions=bookmarks) as consumer:
            bookmarks.keep(read_until(consumer.poll, lambda found: len(found) == 100))
            broker.stop()
            start_or_skip(broker)
            make_topic(credentials)
            after = published(credentials, 100)
            found = read_until(consumer.poll, lambda records: len(records) >= 100)

    assert sorted(places(found)) == sorted(after)
    assert {at.cluster_id for at in after} == {broker.cluster_id}


@pytest.mark.on_cluster
@pytest.mark.on_zookeeper
@pytest.mark.keeps_log
def test_a_restart_is_read_on_after_without_a_gap_and_without_a_repetition(breakable_broker: LocalBroker) -> None:
    broker = breakable_broker
    credentials = credentials_for(broker)
    bookmarks = Bookmarks()
    identity = broker.cluster_id
    before = published(credentials, 200)
    with Consumer(credentials, positions=bookmarks) as consumer:
        found = read_until(consumer.poll, lambda found: len(found) == 200)
        bookmarks.keep(found)
        broker.stop()
        await_problem(consumer)

        broker.start()
        make_topic(credentials)  # with ZooKeeper a broker learns of its topics a moment after its start
        after = published(credentials, 50)
        found += read_until(consumer.poll, lambda records: len(records) >= 50)
        assert consumer.stopped == {}
    assert broker.cluster_id == identity
    assert sorted(places(found)) == sorted(before | after)


def test_an_absent_broker_is_waited_for(breakable_broker: LocalBroker) -> None:
    broker = breakable_broker
    broker.stop()
    login = kafka_login(broker.bootstrap_servers, topic=f"t-{uuid4().hex}")
    credentials = StaticCredentials(kafka=login)
    with Consumer(credentials, positions=Bookmarks()) as consumer:
        began = time.monotonic()
        assert consumer.poll(10, 0.6) == []
        assert 0.4 < time.monotonic() - began < 15
        assert consumer.problem is not None
        assert broker.bootstrap_servers in consumer.problem.message

        broker.start()
        elsewhere = at_address(credentials, broker.bootstrap_servers)
        sent = published(elsewhere, 10)
        credentials.kafka_login = elsewhere.kafka()
        assert set(places(read_until(consumer.poll, lambda found: len(found) == 10))) == sent


@pytest.mark.on_cluster
def test_a_frozen_broker_delays_and_loses_nothing(breakable_broker: LocalBroker) -> None:
    broker = breakable_broker
    credentials = credentials_for(broker, session_timeout_s=1.0)
    bookmarks = Bookmarks()
    sent = published(credentials, 100)
    with Consumer(credentials, positions=bookmarks) as consumer:
        read = read_until(consumer.poll, lambda found: len(found) == 100)
        bookmarks.keep(read)
        with frozen(broker):
            # Longer than the session time-out of 1 s.
            for _ in range(4):
                assert consumer.poll(10, 0.4) == []
        sent |= published(credentials, 100)
        read += read_until(consumer.poll, lambda found: len(found) >= 100)

    assert sorted(places(read)) == sorted(sent)


@pytest.mark.on_cluster
@pytest.mark.on_zookeeper
def test_partitions_are_handed_over_at_the_positions_that_were_kept(topic: StaticCredentials) -> None:
    """What a member read ahead of what was kept is dropped with the hand-over, and read by the other."""
    bookmarks = Bookmarks()
    sent = published(topic, 600)
    first_member = Consumer(topic, positions=bookmarks)
    other = Consumer(topic, positions=bookmarks)
    with first_member, other:
        first = read_until(lambda _, timeout_s: first_member.poll(5, timeout_s), bool)
        bookmarks.keep(first)
        both = first
        # The two share the group from here on; each hand-over begins at what was kept.
        deadline = time.monotonic() + 60
        while len(both) < 600 and time.monotonic() < deadline:
            for consumer in (other, first_member):
                found = consumer.poll(50, 0.2)
                assert all(bookmarks.next.get((at.cluster_id, at.partition), 0) <= at.offset for at in places(found)), (
                    "a record was read again that had been kept"
                )
                bookmarks.keep(found)
                both = both + found

    assert sorted(places(both)) == sorted(sent)


@pytest.mark.on_cluster
@pytest.mark.on_zookeeper
def test_members_that_come_and_go_under_load_lose_nothing(broker: LocalBroker) -> None:
    topic = credentials_for(broker, session_timeout_s=1.0)
    bookmarks, lock = Bookmarks(), threading.Lock()
    seen: set[Position] = set()
    stops = [threading.Event() for _ in range(3)]

    def consume(stop: threading.Event) -> None:
        with Consumer(topic, positions=bookmarks) as consumer:
            while not stop.is_set():
                found = consumer.poll(100, 0.05)
                with lock:
                    # As the store's fence: only what goes on from where the partition stands is kept.
                    standing = [
                        record
                        for record in found
                        if bookmarks.next.get((record.position.cluster_id, record.position.partition), 0)
                        <= record.position.offset
                    ]
                    bookmarks.keep(standing)
                    seen.update(places(found))

    threads = [threading.Thread(target=consume, args=(stop,), daemon=True) for stop in stops]
    sent: set[Position] = set()
    for thread in threads:
        thread.start()
        sent |= published(topic, 300)
    for stop, thread in zip(stops[:2], threads[:2], strict=True):
        stop.set()
        thread.join(30)
        sent |= published(topic, 300)
    deadline = time.monotonic() + 60
    while not sent <= seen and time.monotonic() < deadline:
        threads[2].join(0.05)
    stops[2].set()
    threads[2].join(30)

    assert sent - seen == set()
    assert seen - sent == set()
    ends = {(found.cluster_id, found.partition): found.end for found in Admin(topic).log_ranges()}
    assert bookmarks.next == ends


@pytest.mark.on_zookeeper
def test_a_missing_topic_is_waited_for_and_not_created(broker: LocalBroker) -> None:
    credentials = StaticCredentials(kafka=kafka_login(broker.bootstrap_servers, topic=f"t-{uuid4().hex}"))
    with Consumer(credentials, positions=Bookmarks()) as consumer:
        await_problem(consumer, TopicMissing)
        with Admin(credentials) as admin:
            assert admin.state().partitions == 0

        make_topic(credentials)
        sent = published(credentials, 5)
        assert set(places(read_until(consumer.poll, lambda found: len(found) == 5))) == sent


def raw_producer(credentials: StaticCredentials) -> RawProducer:
    return RawProducer(
        {
            "bootstrap.servers": credentials.kafka().server.bootstrap_servers,
            "message.max.bytes": 64 << 20,
            "log_level": 2,
        }
    )


def test_records_of_any_shape_come_as_they_are(topic: StaticCredentials) -> None:
    name = topic.kafka().server.topic
    producer = raw_producer(topic)
    producer.produce(name, None, None, 0)
    producer.produce(name, b"", b"", 0)
    producer.produce(name, b"\xff\xfe", b"\x00", 0, headers=[("twice", b"1"), ("twice", None), ("", b"")])
    assert producer.flush(10) == 0

    with Consumer(topic, positions=Bookmarks()) as consumer:
        records = read_until(consumer.poll, lambda found: len(found) == 3)

    assert [(r.key, r.value, list(r.headers)) for r in records] == [
        (None, None, []),
        (b"", b"", []),
        (b"\x00", b"\xff\xfe", [("twice", b"1"), ("twice", None), ("", b"")]),
    ]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_unreadable_headers_do_not_hold_up_their_record(topic: StaticCredentials, place: int) -> None:
    server, count = topic.kafka().server, 200
    headers = [(b"good", b"1"), (b"fine", b"2")]
    bad = [*headers[:place], (b"\xff\xfe", b"\x00"), *headers[place:]]
    payload = b"".join(
        raw_records.record(b"%d" % number, b"v", bad if number % 2 else headers, number=number)
        for number in range(count)
    )
    raw_records.produce(leader_address(topic, 0), server.topic, 0, raw_records.batch(payload, count=count))

    with Consumer(topic, positions=Bookmarks()) as consumer:
        records = read_until(consumer.poll, lambda found: len(found) == count)

    assert [record.position.offset for record in records] == list(range(count))
    for number, record in enumerate(records):
        assert (record.key, record.value) == (b"%d" % number, b"v")
        readable = (("good", b"1"), ("fine", b"2"))
        assert record.headers == (((UNREADABLE_HEADERS, None),) if number % 2 else readable)


LIES = raw_records.batch(b"this is not lz4", attributes=3)


@pytest.mark.keeps_log
def test_apache_kafka_takes_no_batch_that_cannot_be_unpacked(topic: StaticCredentials) -> None:
    name = topic.kafka().server.topic
    good = raw_records.batch(raw_records.record(b"k", b"v"))
    raw_records.produce(leader_address(topic, 4), name, 4, good)
    with pytest.raises(raw_records.Refused) as caught:
        raw_records.produce(leader_address(topic, 4), name, 4, LIES)
    # UNKNOWN_SERVER_ERROR for the decompressor's complaint; CORRUPT_MESSAGE or INVALID_RECORD would do, too.
    assert caught.value.code in {-1, 2, 87}


def test_a_batch_that_cannot_be_unpacked_stops_its_partition_alone(own_tansu: Callable[[], Tansu]) -> None:
    """Tansu takes one as it comes, as a disk would give back what has rotted."""
    topic = credentials_for(own_tansu())
    server = topic.kafka().server
    good = raw_records.batch(raw_records.record(b"k", b"v"))
    for records in (good, LIES, good):
        raw_records.produce(leader_address(topic, 4), server.topic, 4, records)
    raw_records.produce(leader_address(topic, 5), server.topic, 5, good)

    with Consumer(topic, positions=Bookmarks()) as consumer:
        found = read_until(consumer.poll, lambda _: consumer.at_end)
        assert set(consumer.stopped) == {4}
        assert "offset 1 cannot be unpacked" in consumer.stopped[4]

    assert [(at.partition, at.offset) for at in sorted(places(found))] == [(4, 0), (5, 0)]


def takes(credentials: StaticCredentials, size: int) -> bool:
    """Whether the broker takes a value of so many bytes; Tansu knows no limit, Kafka keeps the topic's."""
    errors: list[object] = []
    producer = raw_producer(credentials)
    producer.produce(
        credentials.kafka().server.topic, bytes(size), b"try", on_delivery=lambda error, _: errors.append(error)
    )
    assert producer.flush(30) == 0
    return errors[0] is None


def test_huge_values_come_in_bounded_portions(topic: StaticCredentials) -> None:
    sizes = [20 << 20, TOPIC_MAX_MESSAGE_BYTES - (1 << 20)]
    size = next(size for size in sizes if takes(topic, size))
    count = (160 << 20) // size
    producer = raw_producer(topic)
    for number in range(count):
        producer.produce(topic.kafka().server.topic, bytes([number]) * size, b"huge", number % 6)
        assert producer.flush(30) == 0
    after = published(topic, 20)

    portions: list[int] = []

    def poll(_: int, timeout_s: float) -> list[Record]:
        found = consumer.poll(2000, max(0.5, timeout_s))
        portions.append(sum(len(record.value or b"") for record in found))
        # Only what is to be looked at is kept: the values would fill the memory.
        return [
            Record(r.position, r.key, (r.value or b"")[:4] if len(r.value or b"") > 1 << 20 else r.value) for r in found
        ]

    with Consumer(topic, positions=Bookmarks()) as consumer:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        records = read_until(poll, lambda found: len(found) == count + 1 + 20, timeout_s=60)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    huge = [record for record in records if record.key == b"huge"]
    assert sorted(record.value or b"" for record in huge) == [bytes([n]) * 4 for n in range(count)]
    good = [record for record in records if record.key not in (b"huge", b"try")]
    assert {place(record) for record in good} == after
    assert all(event_of(record).model for record in good)
    assert max(portions) <= MAX_POLL_BYTES + (64 << 20)
    assert grown < 400 << 10, f"the process grew by {grown >> 10} MiB"


@pytest.mark.parametrize("records", [0, 7])
def test_closing_and_opening_again_continues(topic: StaticCredentials, records: int) -> None:
    bookmarks = Bookmarks()
    sent = published(topic, records) if records else set()
    with Consumer(topic, positions=bookmarks) as consumer:
        first = read_until(consumer.poll, lambda _: consumer.at_end)
        bookmarks.keep(first)
    later = published(topic, 3)
    with Consumer(topic, positions=bookmarks) as consumer:
        second = read_until(consumer.poll, lambda _: consumer.at_end)
    assert set(places(first)) == sent
    assert set(places(second)) == later
