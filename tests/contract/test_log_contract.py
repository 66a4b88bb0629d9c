"""What holds of a topic's producer, consumers and ranges, on Kafka's protocol and in memory alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import pytest

from bdlab.errors import BrokerUnavailable, DatabaseUnavailable
from bdlab.events import Headers, Origin, Position, Record
from bdlab.kafka.admin import Admin
from bdlab.kafka.consumer import Consumer
from bdlab.kafka.producer import Producer
from bdlab.ledger import LogRange, log_partition
from bdlab.probes import BrokerState
from tests.fix_kafka import Acks, Bookmarks, place, read_until
from tests.memory.consumer import MemoryConsumer
from tests.memory.log import MemoryLog, MemoryProducer
from tests.samples import event, event_of
from tests.static_credentials import StaticCredentials

Positions = Callable[[Sequence[Position]], Sequence[Position]]


class LogSystem(Protocol):
    """A topic of 6 partitions; what it gives is opened by the test."""

    def producer(self) -> Any: ...

    def consumer(self, positions: Positions) -> Any: ...

    def log_ranges(self) -> list[LogRange]: ...

    def state(self) -> BrokerState: ...


class KafkaSystem:
    def __init__(self, credentials: StaticCredentials, admin: Admin) -> None:
        self._credentials = credentials
        self._admin = admin
        self.log_ranges = admin.log_ranges
        self.state = admin.state

    def producer(self) -> Producer:
        return Producer(self._credentials, client_id="contract", source="/tests")

    def consumer(self, positions: Positions) -> Consumer:
        return Consumer(self._credentials, positions=positions)


class MemorySystem:
    def __init__(self) -> None:
        self._log = MemoryLog()
        self.log_ranges = self._log.log_ranges
        self.state = self._log.state

    def producer(self) -> MemoryProducer:
        return MemoryProducer(self._log, source="/tests")

    def consumer(self, positions: Positions) -> MemoryConsumer:
        return MemoryConsumer(self._log, positions=positions)


ON_EACH_KIND = [pytest.mark.broker, pytest.mark.on_cluster, pytest.mark.on_zookeeper]


@pytest.fixture(params=["memory", pytest.param("kafka", marks=ON_EACH_KIND)])
def system(request: pytest.FixtureRequest) -> Iterator[LogSystem]:
    if request.param == "memory":
        yield MemorySystem()
        return
    credentials = request.getfixturevalue("topic")
    with Admin(credentials, timeout_s=30) as admin:
        yield KafkaSystem(credentials, admin)


def publish(system: LogSystem, count: int) -> list[Position]:
    acks = Acks()
    with system.producer() as producer:
        for _ in range(count):
            producer.publish(event(), acks)
        return acks.positions(count)


def places(records: Sequence[Record]) -> list[Position]:
    return sorted(place(record) for record in records)


def test_each_event_gets_a_place_of_its_own_and_the_ranges_show_them(system: LogSystem) -> None:
    positions = publish(system, 500)

    ranges = system.log_ranges()
    expected = {
        (found.cluster_id, found.topic, found.partition, offset)
        for found in ranges
        for offset in range(found.start, found.end)
    }
    assert {(at.cluster_id, at.topic, at.partition, at.offset) for at in positions} == expected
    assert len(set(positions)) == 500
    assert [found.partition for found in ranges] == list(range(6))


def test_what_was_published_is_read_as_it_was(system: LogSystem) -> None:
    acks, sent = Acks(), event(text='Ünïcödé ☕ and a "quote"')
    with system.producer() as producer:
        producer.publish(sent, acks, Origin(traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01"))
        (position,) = acks.positions(1)

    with system.consumer(Bookmarks()) as consumer:
        (record,) = read_until(consumer.poll, bool)

    headers: Headers = record.headers
    assert place(record) == position
    assert event_of(record) == sent
    assert dict(headers)["ce_id"] == str(sent.id).encode()
    assert dict(headers)["traceparent"] == b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"


def test_a_consumer_reads_each_position_once_and_knows_when_it_is_at_the_end(system: LogSystem) -> None:
    positions = publish(system, 300)

    with system.consumer(Bookmarks()) as consumer:
        assert not consumer.at_end
        records = read_until(consumer.poll, lambda _: consumer.at_end)
        assert consumer.assigned == frozenset(range(6))

        (later,) = publish(system, 1)
        assert places(read_until(consumer.poll, bool)) == [later]

    assert places(records) == sorted(positions)


def test_offsets_ascend_within_a_partition(system: LogSystem) -> None:
    publish(system, 300)

    with system.consumer(Bookmarks()) as consumer:
        records = read_until(consumer.poll, lambda found: len(found) == 300)

    following: Counter[int] = Counter()
    for record in records:
        assert record.position.offset == following[record.position.partition]
        following[record.position.partition] += 1


def test_the_positions_say_where_to_start_and_the_committed_offsets_do_not(system: LogSystem) -> None:
    publish(system, 300)
    bookmarks = Bookmarks()
    with system.consumer(bookmarks) as consumer:
        records = read_until(consumer.poll, lambda found: len(found) == 300)
        ends = [log_partition(f).at(f.end) for f in system.log_ranges()]
        consumer.acknowledge(ends)
    half = [record for record in records if record.position.offset < 20]
    bookmarks.keep(half)

    with system.consumer(bookmarks) as consumer:
        again = read_until(consumer.poll, lambda _: consumer.at_end)

    assert places(again) == places([record for record in records if record not in half])


def test_positions_are_asked_with_the_start_of_each_assigned_partition(system: LogSystem) -> None:
    publish(system, 50)
    bookmarks = Bookmarks()

    with system.consumer(bookmarks) as consumer:
        read_until(consumer.poll, lambda found: len(found) == 50)

    assert [(at.partition, at.offset) for at in bookmarks.asked[-1]] == [(number, 0) for number in range(6)]
    assert {at.cluster_id for at in bookmarks.asked[-1]} == {system.state().cluster_id}


def test_rewind_reads_again_from_where_the_positions_are_now(system: LogSystem) -> None:
    positions = publish(system, 200)
    bookmarks = Bookmarks()

    with system.consumer(bookmarks) as consumer:
        first = read_until(consumer.poll, lambda found: len(found) >= 200)
        consumer.rewind()
        assert not consumer.at_end
        again = read_until(consumer.poll, lambda found: len(found) >= 200)
        bookmarks.keep(again)
        consumer.rewind()
        assert read_until(consumer.poll, lambda _: consumer.at_end) == []

    assert places(first) == places(again) == sorted(positions)


def test_a_position_outside_the_log_stops_that_partition_alone(system: LogSystem) -> None:
    positions = publish(system, 200)
    bookmarks = Bookmarks()
    end = {found.partition: found.end for found in system.log_ranges()}
    bookmarks.next[system.state().cluster_id, 2] = end[2] + 5

    with system.consumer(bookmarks) as consumer:
        records = read_until(consumer.poll, lambda _: consumer.at_end)

        assert set(consumer.stopped) == {2}
        assert f"is {end[2] + 5}, and" in consumer.stopped[2]
        assert f"has 0 to {end[2]}" in consumer.stopped[2]
        assert places(records) == sorted(at for at in positions if at.partition != 2)

        bookmarks.next.clear()
        consumer.rewind()
        cured = read_until(consumer.poll, lambda _: consumer.at_end)

        assert consumer.stopped == {}
        assert places(cured) == sorted(positions)


def test_a_position_at_the_very_end_is_in_the_log(system: LogSystem) -> None:
    publish(system, 200)
    bookmarks = Bookmarks()
    for found in system.log_ranges():
        bookmarks.next[found.cluster_id, found.partition] = found.end

    with system.consumer(bookmarks) as consumer:
        assert read_until(consumer.poll, lambda _: consumer.at_end) == []
        assert consumer.stopped == {}
        (later,) = publish(system, 1)
        assert places(read_until(consumer.poll, bool)) == [later]


def test_what_the_positions_raise_reaches_the_caller_and_the_next_poll_asks_again(system: LogSystem) -> None:
    positions = publish(system, 20)
    bookmarks, failures = Bookmarks(), [DatabaseUnavailable("gone"), DatabaseUnavailable("still gone")]

    def failing(starts: Sequence[Position]) -> Sequence[Position]:
        if failures:
            raise failures.pop()
        return bookmarks(starts)

    with system.consumer(failing) as consumer:
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                read_until(consumer.poll, bool)
        records = read_until(consumer.poll, lambda found: len(found) == 20)

    assert places(records) == sorted(positions)


def test_poll_gives_no_more_than_it_is_asked_for(system: LogSystem) -> None:
    publish(system, 25)

    batches: list[list[Record]] = []
    with system.consumer(Bookmarks()) as consumer:

        def poll_ten(_: int, timeout_s: float) -> list[Record]:
            batches.append(consumer.poll(10, timeout_s))
            return batches[-1]

        read_until(poll_ten, lambda found: len(found) == 25)

    assert max(len(batch) for batch in batches) == 10


def test_two_consumers_share_the_partitions_and_one_takes_over_from_the_other(system: LogSystem) -> None:
    positions = publish(system, 300)
    bookmarks = Bookmarks()

    def both(count: int, timeout_s: float) -> list[Record]:
        records: list[Record] = []
        for consumer in (left, right):
            found = consumer.poll(count, timeout_s)
            bookmarks.keep(found)
            records += found
        return records

    with ExitStack() as stack:
        left = stack.enter_context(system.consumer(bookmarks))
        right = stack.enter_context(system.consumer(bookmarks))
        read_until(both, lambda _: len(left.assigned) == len(right.assigned) == 3 and left.at_end and right.at_end)
        assert not left.assigned & right.assigned

        right.close()
        later = publish(system, 60)
        taken_over = read_until(left.poll, lambda found: len({place(r) for r in found} & set(later)) == 60)

    assert left.assigned == frozenset()
    assert set(places(taken_over)) >= set(later)
    assert not set(places(taken_over)) & set(positions)


def test_acknowledged_positions_show_as_lag_only(system: LogSystem) -> None:
    publish(system, 120)
    assert system.state().consumer_lag == 120

    with system.consumer(Bookmarks()) as consumer:
        read_until(consumer.poll, lambda found: len(found) == 120)
        written = [found for found in system.log_ranges() if found.end > found.start]
        ends = [log_partition(found).at(found.end - 1) for found in written]
        consumer.acknowledge(ends)
        consumer.acknowledge([Position("another-cluster", at.topic, at.partition, 0) for at in ends])
        read_until(consumer.poll, lambda _: system.state().consumer_lag == len(ends))

    state = system.state()
    assert (state.connected, state.partitions, state.consumer_lag) == (True, 6, len(ends))


def test_a_producer_that_is_closed_takes_nothing(system: LogSystem) -> None:
    producer = system.producer()
    with pytest.raises(BrokerUnavailable, match="not open"):
        producer.publish(event(), Acks())
    producer.open()
    producer.close()
    with pytest.raises(BrokerUnavailable, match="not open"):
        producer.publish(event(), Acks())


def test_close_waits_for_what_is_in_flight(system: LogSystem) -> None:
    acks = Acks()
    producer = system.producer()
    producer.open()
    for _ in range(1000):
        producer.publish(event(), acks)
    producer.close(timeout_s=10)

    assert acks.count == 1000
    assert len(set(acks.positions(1000))) == 1000
