"""Apache Kafka as a local server: one broker, and a cluster of three. What is acknowledged stays."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigEntry, ConfigResource, PartitionMetadata

from bdlab.errors import BrokerError, ServerNotStarted
from bdlab.events import Position, Record
from bdlab.kafka.admin import Admin
from bdlab.kafka.connection import client_config
from bdlab.kafka.consumer import Consumer
from bdlab.kafka.producer import Producer
from bdlab.stack.servers.kafka import ApacheKafka
from tests.brokers import frozen, kill, listing
from tests.fix_apache import publish, running
from tests.fix_kafka import Acks, Bookmarks, credentials_for, kafka_login, place, read_until
from tests.samples import event, event_of
from tests.servers.kafka_cluster import KafkaCluster
from tests.static_credentials import StaticCredentials

T = TypeVar("T")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    with running(KafkaCluster(tmp_path_factory.mktemp("cluster"))) as started:
        yield started


def read_all(credentials: StaticCredentials) -> list[Record]:
    with Consumer(credentials, positions=Bookmarks()) as consumer:
        return read_until(consumer.poll, lambda _: consumer.at_end)


def settled(producer: Producer) -> Position | BrokerError:
    acks = Acks()
    producer.publish(event(), acks)
    return acks.take(1)[0]


def test_construction_does_nothing(tmp_path: Path) -> None:
    for kafka in (ApacheKafka(tmp_path / "one"), KafkaCluster(tmp_path / "three")):
        assert not kafka.running
        assert kafka.cluster_id == ""
        kafka.stop()
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_broker_keeps_its_log_its_id_and_its_port(tmp_path: Path) -> None:
    """One that was killed while it was set up; and a start that fails says why."""
    folder = tmp_path / "daten für ünïcode =: #1"
    half = folder / "kafka" / "data.new"
    half.mkdir(parents=True)
    (half / "meta.properties").write_text("cluster.id=half\n")
    with running(ApacheKafka(folder)) as kafka:
        assert kafka.cluster_id != "half"
        assert not half.exists()

        identity = (kafka.cluster_id, kafka.bootstrap_servers)
        credentials = credentials_for(kafka, delivery_timeout_s=20.0)
        with Producer(credentials, client_id="test", source="/tests") as producer:
            positions = publish(producer, 200)
            kafka.stop()
            assert not kafka.running
            kafka.start()
            assert (kafka.cluster_id, kafka.bootstrap_servers) == identity
            positions += publish(producer, 200)
            kill(kafka)
            kafka.start()
            assert (kafka.cluster_id, kafka.bootstrap_servers) == identity
            positions += publish(producer, 200)
        assert {place(record) for record in read_all(credentials)} >= set(positions)
        assert len(set(positions)) == 600
        another = ApacheKafka(folder)
        assert another.cluster_id == identity[0]
        no_topic_is_made_by_asking_for_it(credentials)

        kafka.stop()
        meta = kafka.folder / "data" / "meta.properties"
        meta.write_text(meta.read_text().replace("node.id=1", "node.id=2"))
        with pytest.raises(ServerNotStarted, match=r"(?s)ended at once .*Stored node id 2") as caught:
            kafka.start()
        assert str(kafka.log_file) in caught.value.hint


def no_topic_is_made_by_asking_for_it(credentials: StaticCredentials) -> None:
    from confluent_kafka import Producer as Client

    client = Client(client_config(credentials.kafka(), client_id="test") | {"message.timeout.ms": 3000})
    errors: list[object] = []
    client.produce("never-made", b"x", on_delivery=lambda error, _: errors.append(error))
    client.flush(10)
    assert len(errors) == 1
    assert errors[0] is not None
    assert "never-made" not in client.list_topics(timeout=10).topics


@pytest.mark.kafka
@pytest.mark.xdist_group("cluster")
def test_a_topic_of_the_cluster_has_three_copies_and_needs_two(cluster: KafkaCluster) -> None:
    credentials = credentials_for(cluster)
    client = AdminClient(client_config(credentials.kafka(), client_id="test"))
    name = credentials.kafka().server.topic
    partitions = partitions_of(credentials)
    assert {len(found.replicas) for found in partitions.values()} == {3}
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)

    def settings() -> dict[str, ConfigEntry] | None:
        try:
            return dict(client.describe_configs([resource], request_timeout=10)[resource].result(10))
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return None
            raise

    found = eventually(settings)
    assert found["min.insync.replicas"].value == "2"
    assert found["unclean.leader.election.enable"].value == "false"


@pytest.mark.kafka
@pytest.mark.xdist_group("cluster")
def test_the_cluster_loses_a_partition_leader_and_recovers(cluster: KafkaCluster) -> None:
    credentials = credentials_for(cluster, delivery_timeout_s=20.0)
    with Producer(credentials, client_id="test", source="/tests") as producer:
        positions = publish(producer, 300)
        victim = cluster.brokers[leader_of(credentials, 0)]
        acks = Acks()
        for number in range(300):
            if number == 100:
                kill(victim)
            producer.publish(event(), acks)
        positions += acks.positions(300, timeout_s=60)
        assert victim.exit_status == -signal.SIGKILL
        assert leader_of(credentials, 0) != victim.node_id
        victim.start()
        assert cluster.running
        positions += publish(producer, 100)
    check_all_there(credentials, positions)


@pytest.mark.kafka
@pytest.mark.xdist_group("cluster")
def test_without_the_in_sync_majority_nothing_is_acknowledged_and_nothing_lost(cluster: KafkaCluster) -> None:
    credentials = credentials_for(cluster, delivery_timeout_s=3.0)
    with Producer(credentials, client_id="test", source="/tests") as producer:
        positions = publish(producer, 100)
        for node in (1, 2):
            kill(cluster.brokers[node])
        refused = [settled(producer) for _ in range(3)]
        assert all(isinstance(result, BrokerError) for result in refused), refused
        cluster.start()
        assert cluster.running
        positions += publish(producer, 100)
    check_all_there(credentials, positions)


@pytest.mark.kafka
@pytest.mark.xdist_group("cluster")
def test_topics_are_made_while_the_list_of_brokers_changes(cluster: KafkaCluster) -> None:
    """librdkafka lets go of a broker that is off the list for a moment, and of what that one was asked."""
    over = threading.Event()

    def make_topics() -> int:
        made = 0
        while not over.is_set():
            login = kafka_login(cluster.bootstrap_servers, topic=f"t-{uuid4().hex}")
            with Admin(StaticCredentials(kafka=login), timeout_s=60) as admin:
                assert admin.ensure_topic().partitions == 6
            made += 1
        return made

    def await_listed(node: int, *, listed: bool) -> None:
        address = cluster.brokers[1].bootstrap_servers
        eventually(lambda: (node in listing(address).brokers) is listed or None)

    with ThreadPoolExecutor(10) as pool:
        makers = [pool.submit(make_topics) for _ in range(10)]
        try:
            for node in (2, 3):
                with frozen(cluster.brokers[node]):
                    await_listed(node, listed=False)
                await_listed(node, listed=True)
        finally:
            over.set()
        assert all(maker.result() for maker in makers)


@pytest.mark.kafka
@pytest.mark.xdist_group("cluster")
def test_the_cluster_restarts_as_a_whole(cluster: KafkaCluster) -> None:
    credentials = credentials_for(cluster)
    with Producer(credentials, client_id="test", source="/tests") as producer:
        positions = publish(producer, 100)
    identity = (cluster.cluster_id, cluster.bootstrap_servers)
    cluster.stop()
    assert not any(broker.running for broker in cluster.brokers.values())
    cluster.start()
    assert (cluster.cluster_id, cluster.bootstrap_servers) == identity
    check_all_there(credentials, positions)


def eventually(ask: Callable[[], T | None], timeout_s: float = 60.0) -> T:
    """What `ask` says once it says something: each broker learns of a new topic in its own time."""
    deadline = time.monotonic() + timeout_s
    while (found := ask()) is None:
        assert time.monotonic() < deadline, f"no answer within {timeout_s:g} s"
        time.sleep(0.05)
    return found


def partitions_of(credentials: StaticCredentials) -> dict[int, PartitionMetadata]:
    login = credentials.kafka()
    client = AdminClient(client_config(login, client_id="test"))

    def partitions() -> dict[int, PartitionMetadata] | None:
        found = client.list_topics(timeout=10).topics.get(login.server.topic)
        return dict(found.partitions) or None if found is not None else None

    return eventually(partitions)


def leader_of(credentials: StaticCredentials, partition: int) -> int:
    return int(partitions_of(credentials)[partition].leader)


def check_all_there(credentials: StaticCredentials, positions: list[Position]) -> None:
    """Each acknowledged position holds an event, which is nowhere else; offsets have no gap.

    An event that was not acknowledged may be there twice: once librdkafka has given one up, it gives those
    that it still repeats new sequence numbers.
    """
    records = read_all(credentials)
    found = [place(record) for record in records]
    assert len(set(positions)) == len(positions)
    assert set(positions) <= set(found)
    times = Counter(event_of(record).id for record in records)
    acknowledged = [event_of(record).id for record in records if place(record) in set(positions)]
    assert {times[one] for one in acknowledged} == {1}
    with Admin(credentials, timeout_s=20) as admin:
        for log_range in admin.log_ranges():
            offsets = sorted(at.offset for at in found if at.partition == log_range.partition)
            assert offsets == list(range(log_range.start, log_range.end))
