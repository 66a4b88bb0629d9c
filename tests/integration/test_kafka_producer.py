"""The producer while brokers stop, freeze, come back as another one, or are not there at all."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
import structlog
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from bdlab.errors import BrokerError, BrokerUnavailable, NotAcknowledged, TopicMissing
from bdlab.events import Position, PredictionEvent
from bdlab.kafka.admin import Admin
from bdlab.kafka.connection import client_config
from bdlab.kafka.consumer import Consumer
from bdlab.kafka.producer import Producer
from bdlab.serving.publisher import AsyncPublisher
from bdlab.stack import Tansu
from bdlab.stack.servers.server import PortRegistry
from tests.brokers import LocalBroker, TansuAtOnePort, frozen
from tests.fix_apache import publish
from tests.fix_kafka import Acks, Bookmarks, credentials_for, kafka_login, make_topic, place, read_until
from tests.fix_servers import start_or_skip
from tests.samples import event, event_of
from tests.static_credentials import StaticCredentials
from tests.waiting import until


def producer_of(credentials: StaticCredentials) -> Producer:
    return Producer(credentials, client_id="test", source="/tests")


def read_all(credentials: StaticCredentials) -> dict[Position, PredictionEvent]:
    """Everything on the topic."""
    with Consumer(credentials, positions=Bookmarks()) as consumer:
        records = read_until(consumer.poll, lambda _: consumer.at_end)
    return {place(record): event_of(record) for record in records}


class Load:
    """Publishes from a thread of its own without end; remembers what each event came to."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.handed_over = 0
        self.refused: list[BrokerError] = []
        self.acknowledged: dict[Position, PredictionEvent] = {}
        self.failed: list[BrokerError] = []
        self.longest_s = 0.0
        self.settled_twice = 0
        self.progress = threading.Condition()

    def _run(self) -> None:
        while not self._stop.wait(0.001):
            sent, began = event(), time.monotonic()
            seen: list[object] = []

            def done(
                result: Position | BrokerError,
                sent: PredictionEvent = sent,
                began: float = began,
                seen: list[object] = seen,
            ) -> None:
                with self.progress:
                    seen.append(result)
                    self.settled_twice += len(seen) > 1
                    self.longest_s = max(self.longest_s, time.monotonic() - began)
                    if isinstance(result, Position):
                        self.acknowledged[result] = sent
                    else:
                        self.failed.append(result)
                    self.progress.notify_all()

            try:
                self._producer.publish(sent, done)
                self.handed_over += 1
            except BrokerError as error:
                self.refused.append(error)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join(60)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        with self.progress:
            assert self.progress.wait_for(condition, timeout_s), "the load made no progress"

    def wait_for_more(self, count: int = 100) -> None:
        goal = len(self.acknowledged) + count
        self.wait_for(lambda: len(self.acknowledged) >= goal)


def test_a_new_incarnation_under_load_gets_the_new_events_and_has_all_that_it_acknowledged(
    own_tansu: Callable[[], Tansu],
) -> None:
    broker = own_tansu()
    credentials = credentials_for(broker, delivery_timeout_s=3.0)
    producer = producer_of(credentials)
    load = Load(producer)
    with producer, load.running():
        load.wait_for_more()
        first = broker.cluster_id
        broker.stop()
        broker.start()
        assert broker.cluster_id != first
        held = credentials.kafka()
        server = msgspec.structs.replace(held.server, bootstrap_servers=broker.bootstrap_servers)
        newer = msgspec.structs.replace(held, server=server)
        make_topic(StaticCredentials(kafka=newer))
        credentials.kafka_login = newer
        began = time.monotonic()
        load.wait_for(lambda: any(at.cluster_id == broker.cluster_id for at in load.acknowledged))
        recovered_s = time.monotonic() - began
        load.wait_for_more()

    assert {at.cluster_id for at in load.acknowledged} == {first, broker.cluster_id}
    acknowledged_here = {at: e for at, e in load.acknowledged.items() if at.cluster_id == broker.cluster_id}
    stored = read_all(credentials)
    assert {at: stored.get(at) for at in acknowledged_here} == acknowledged_here
    assert load.handed_over == len(load.acknowledged) + len(load.failed)
    assert load.settled_twice == 0
    assert load.longest_s < 3.0 + 7.0  # its time, and a busy machine's
    assert recovered_s < 20
    assert all(isinstance(error, NotAcknowledged | BrokerUnavailable) for error in load.failed)


def test_another_log_behind_the_same_address_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    port = PortRegistry(tmp_path / "ports.json").choose("tansu")
    credentials = StaticCredentials(kafka=kafka_login(f"127.0.0.1:{port}", delivery_timeout_s=3.0))
    with TansuAtOnePort(tmp_path) as broker:
        make_topic(credentials)
        producer = producer_of(credentials)
        load = Load(producer)
        with producer, load.running():
            for _ in range(3):
                load.wait_for_more()
                broker.stop()
                start_or_skip(broker)
                make_topic(credentials)
            last = broker.cluster_id
            load.wait_for(lambda: any(at.cluster_id == last for at in load.acknowledged))
            load.wait_for_more()
        stored = read_all(credentials)

    acknowledged_here = {at: e for at, e in load.acknowledged.items() if at.cluster_id == last}
    assert {at: stored.get(at) for at in acknowledged_here} == acknowledged_here
    assert load.handed_over == len(load.acknowledged) + len(load.failed)
    assert load.settled_twice == 0


@pytest.mark.on_cluster
@pytest.mark.on_zookeeper
@pytest.mark.keeps_log
def test_a_restart_under_load_loses_nothing_that_was_acknowledged(breakable_broker: LocalBroker) -> None:
    broker = breakable_broker
    credentials = credentials_for(broker, delivery_timeout_s=3.0)
    identity = (broker.cluster_id, broker.bootstrap_servers)
    producer = producer_of(credentials)
    load = Load(producer)
    with producer, load.running():
        load.wait_for_more()
        broker.stop()
        load.wait_for(lambda: producer.problem is not None)
        broker.start()
        load.wait_for_more()
    assert (broker.cluster_id, broker.bootstrap_servers) == identity
    assert load.handed_over == len(load.acknowledged) + len(load.failed)
    assert load.settled_twice == 0
    assert load.longest_s < 3.0 + 7.0  # its time, and a busy machine's
    assert all(isinstance(error, NotAcknowledged | BrokerUnavailable) for error in load.failed)
    stored = read_all(credentials)
    assert {at: stored.get(at) for at in load.acknowledged} == load.acknowledged


def test_a_stopped_broker_gives_errors_within_the_delivery_time_out(breakable_broker: LocalBroker) -> None:
    broker = breakable_broker
    credentials, acks = credentials_for(broker, delivery_timeout_s=1.5), Acks()
    with producer_of(credentials) as producer:
        publish(producer, 1)
        broker.stop()

        began = time.monotonic()
        for _ in range(100):
            producer.publish(event(), acks)
        results = acks.take(100)
        took_s = time.monotonic() - began

        assert producer.problem is not None
    assert {type(result) for result in results} <= {NotAcknowledged, BrokerUnavailable}
    assert 1.4 < took_s < 20


@pytest.mark.on_cluster
def test_a_frozen_broker_gives_not_acknowledged_in_time_and_the_pipeline_goes_on_after_it(
    breakable_broker: LocalBroker,
) -> None:
    broker = breakable_broker
    credentials, acks = credentials_for(broker, delivery_timeout_s=1.5), Acks()
    with producer_of(credentials) as producer:
        publish(producer, 1)
        with frozen(broker):
            began = time.monotonic()
            for _ in range(100):
                producer.publish(event(), acks)
            results = acks.take(100)
            took_s = time.monotonic() - began
        assert {type(result) for result in results} == {NotAcknowledged}
        assert 1.4 < took_s < 20

        sent: dict[Position, PredictionEvent] = {}
        deadline = time.monotonic() + 60
        while not sent and time.monotonic() < deadline:
            retried = event()
            producer.publish(retried, acks)
            (result,) = acks.take(1)
            if isinstance(result, Position):
                sent[result] = retried
    assert sent
    assert sent.items() <= read_all(credentials).items()


def test_closing_while_the_broker_is_frozen_is_bounded_and_settles_everything(breakable_broker: LocalBroker) -> None:
    broker = breakable_broker
    credentials, acks = credentials_for(broker, delivery_timeout_s=30.0), Acks()
    producer = producer_of(credentials)
    producer.open()
    producer.publish(event(), acks)
    acks.positions(1)
    with frozen(broker):
        for _ in range(50):
            producer.publish(event(), acks)
        began = time.monotonic()
        producer.close(timeout_s=0.5)
        took_s = time.monotonic() - began

    assert {type(result) for result in acks.take(50)} == {NotAcknowledged}
    assert took_s < 5


def test_a_broker_that_is_absent_at_the_start_is_found_when_it_comes(breakable_broker: LocalBroker) -> None:
    broker = breakable_broker
    broker.stop()
    topic = f"t-{uuid4().hex}"
    login = kafka_login(broker.bootstrap_servers, topic=topic, delivery_timeout_s=1.0)
    credentials, acks = StaticCredentials(kafka=login), Acks()
    began = time.monotonic()
    with producer_of(credentials) as producer:
        assert time.monotonic() - began < 5
        producer.publish(event(), acks)
        (result,) = acks.take(1)
        assert isinstance(result, BrokerUnavailable)
        assert "is not on the topic" in result.hint

        broker.start()
        credentials.kafka_login = kafka_login(broker.bootstrap_servers, topic=topic, delivery_timeout_s=20.0)
        make_topic(credentials)
        sent = event()
        deadline = time.monotonic() + 60
        # It may have seen the broker before the topic was there.
        while producer.problem is not None and time.monotonic() < deadline:
            time.sleep(0.02)
        position = None
        while position is None and time.monotonic() < deadline:
            producer.publish(sent, acks)
            (outcome,) = acks.take(1)
            position = outcome if isinstance(outcome, Position) else None
    assert position is not None
    assert read_all(credentials)[position] == sent


@pytest.mark.on_cluster
@pytest.mark.on_zookeeper
def test_a_missing_topic_is_said_at_once_and_is_not_created(broker: LocalBroker) -> None:
    name = f"t-{uuid4().hex}"
    credentials = StaticCredentials(kafka=kafka_login(broker.bootstrap_servers, topic=name))
    acks = Acks()
    with producer_of(credentials) as producer:
        producer.publish(event(), acks)
        (result,) = acks.take(1)
        assert isinstance(result, TopicMissing)
        with pytest.raises(TopicMissing, match=name):
            producer.publish(event(), acks)
        with Admin(credentials) as admin:
            assert admin.state().partitions == 0

        make_topic(credentials)
        deadline = time.monotonic() + 60
        while producer.problem is not None and time.monotonic() < deadline:
            threading.Event().wait(0.05)
        producer.publish(event(), acks)
        acks.positions(1)


@pytest.mark.on_cluster
def test_a_newer_login_takes_over_without_one_event_lost(topic: StaticCredentials) -> None:
    producer = producer_of(topic)
    load = Load(producer)
    with producer, load.running():
        for _ in range(5):
            load.wait_for_more(50)
            topic.kafka_login = msgspec.structs.replace(topic.kafka())
        load.wait_for_more(50)
    assert load.failed == load.refused == []
    assert load.acknowledged == read_all(topic)


def test_a_newer_login_that_does_not_work_leaves_the_older_in_place(topic: StaticCredentials) -> None:
    producer = producer_of(topic)
    load = Load(producer)
    good = topic.kafka()
    with structlog.testing.capture_logs() as logs, producer, load.running():
        load.wait_for_more(50)
        server = msgspec.structs.replace(good.server, bootstrap_servers="127.0.0.1:1")
        topic.kafka_login = msgspec.structs.replace(good, server=server)
        load.wait_for(lambda: any("newer Kafka login does not work" in entry["event"] for entry in logs))
        load.wait_for_more(50)
        assert producer.problem is None
    assert load.failed == load.refused == []


def test_too_many_events_in_flight_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdlab.kafka.producer.QUEUE_EVENTS", 10)
    credentials = StaticCredentials(kafka=kafka_login("127.0.0.1:1", delivery_timeout_s=1.0))
    acks = Acks()
    with producer_of(credentials) as producer:
        for _ in range(10):
            producer.publish(event(), acks)
        with pytest.raises(BrokerUnavailable, match="too many events"):
            producer.publish(event(), acks)
        assert {type(result) for result in acks.take(10)} == {BrokerUnavailable}
    assert acks.count == 10


@pytest.mark.parametrize("made_again", [False, True])
def test_partitions_are_taken_in_turn_and_follow_the_topic(broker: LocalBroker, made_again: bool) -> None:
    """More partitions are used once they are there, and fewer ones of a topic that is made again too."""
    credentials, acks = credentials_for(broker), Acks()
    server = credentials.kafka().server
    admin = AdminClient(client_config(credentials.kafka(), client_id="test"))
    with producer_of(credentials) as producer:
        for _ in range(200):
            producer.publish(event(), acks)
        assert {at.partition for at in acks.positions(200)} == set(range(6))
        if made_again:
            admin.delete_topics([server.topic])[server.topic].result(timeout=30)
            until(lambda: server.topic not in admin.list_topics(timeout=10).topics)
            admin.create_topics([NewTopic(server.topic, 2, 1)])[server.topic].result(timeout=30)
        else:
            admin.create_partitions([NewPartitions(server.topic, 9)])[server.topic].result(timeout=30)
        wanted = 2 if made_again else 9
        until(lambda: {at.partition for at in publish(producer, 200)} == set(range(wanted)), timeout_s=60)


def test_asyncio_gets_positions_and_errors(topic: StaticCredentials) -> None:
    async def publish_many(producer: Producer) -> list[Position]:
        publisher = AsyncPublisher(producer)
        abandoned = publisher.publish(event())
        await asyncio.sleep(0)
        abandoned.cancel()
        return await asyncio.gather(*(publisher.publish(event()) for _ in range(2000)))

    async def publish_one(producer: Producer) -> Position:
        return await AsyncPublisher(producer).publish(event())

    with producer_of(topic) as producer:
        positions = asyncio.run(publish_many(producer))
    assert len(set(positions)) == 2000

    gone = StaticCredentials(kafka=kafka_login("127.0.0.1:1", delivery_timeout_s=0.5))
    with producer_of(gone) as producer, pytest.raises(BrokerUnavailable, match=r"within 0\.5 s"):
        asyncio.run(publish_one(producer))
