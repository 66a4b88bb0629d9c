"""The topic's set-up, and what is said of the broker."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from bdlab.credentials import KafkaLogin
from bdlab.errors import BrokerError, BrokerUnavailable, TopicMissing
from bdlab.events import Position
from bdlab.kafka import log_reader
from bdlab.kafka.admin import Admin
from bdlab.kafka.producer import Producer
from bdlab.stack import Tansu
from tests.brokers import BROKERS, LocalBroker
from tests.fix_kafka import Acks, credentials_for, kafka_login
from tests.samples import event
from tests.static_credentials import StaticCredentials


def missing_topic(broker: LocalBroker, partitions: int = 6) -> StaticCredentials:
    login = kafka_login(broker.bootstrap_servers, topic=f"t-{uuid4().hex}", partitions=partitions)
    return StaticCredentials(kafka=login)


@pytest.mark.on_cluster
@pytest.mark.on_zookeeper
def test_the_topic_is_made_once_with_the_partitions_of_the_settings(broker: LocalBroker) -> None:
    credentials = missing_topic(broker, partitions=3)
    with Admin(credentials) as admin:
        first, second = admin.ensure_topic(), admin.ensure_topic()
        assert (first.created, first.partitions, first.warning) == (True, 3, "")
        assert (second.created, second.partitions, second.warning) == (False, 3, "")
        assert admin.state().partitions == 3


def test_a_topic_with_other_partitions_is_left_as_it_is_and_said(broker: LocalBroker) -> None:
    credentials = missing_topic(broker, partitions=3)
    with Admin(credentials) as admin:
        admin.ensure_topic()
        held = credentials.kafka()
        server = msgspec.structs.replace(held.server, partitions=6)
        credentials.kafka_login = msgspec.structs.replace(held, server=server)
        outcome = admin.ensure_topic()
        assert "has 3 partitions, the settings say 6" in outcome.warning
        assert admin.state().partitions == 3


@pytest.mark.on_cluster
@pytest.mark.on_zookeeper
def test_a_compacted_topic_is_refused(broker: LocalBroker) -> None:
    credentials = missing_topic(broker)
    name = credentials.kafka().server.topic
    client = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    topic = NewTopic(name, num_partitions=6, replication_factor=1, config={"cleanup.policy": "compact"})
    client.create_topics([topic])[name].result(10)

    with Admin(credentials) as admin, pytest.raises(BrokerError, match=r"cleanup\.policy=compact"):
        admin.ensure_topic()


@pytest.mark.on_cluster
@pytest.mark.on_zookeeper
def test_ranges_have_the_true_end_where_one_batch_holds_many_records(topic: StaticCredentials) -> None:
    acks = Acks()
    with Producer(topic, client_id="test", source="/tests") as producer, Admin(topic) as admin:
        assert [(found.start, found.end) for found in admin.log_ranges()] == [(0, 0)] * 6
        for _ in range(2000):
            producer.publish(event(), acks)
        positions = acks.positions(2000)
        ranges = admin.log_ranges()

    def end(partition: int) -> int:
        return max(at.offset for at in positions if at.partition == partition) + 1

    assert [(found.partition, found.start, found.end) for found in ranges] == [
        (number, 0, end(number)) for number in range(6)
    ]
    assert {found.cluster_id for found in ranges} == {positions[0].cluster_id}


@pytest.mark.on_cluster
@pytest.mark.on_zookeeper
def test_the_topics_id_is_asked_for_by_one_client_for_all_times(
    topic: StaticCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Counted(AdminClient):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            made.append(self)

    monkeypatch.setattr(log_reader, "AdminClient", Counted)
    with Admin(topic) as admin:
        found = {admin.log_ranges()[0].topic_id for _ in range(3)}
    assert (len(found), len(made)) == (1, 1)


def test_a_missing_topic_is_an_error_for_its_ranges_and_a_problem_of_its_state(broker: LocalBroker) -> None:
    with Admin(missing_topic(broker)) as admin:
        with pytest.raises(TopicMissing, match="not at"):
            admin.log_ranges()
        state = admin.state()
        assert (state.connected, state.partitions, state.consumer_lag) == (True, 0, None)
        assert "is missing" in state.problem


@pytest.mark.on_cluster
@pytest.mark.on_zookeeper
def test_state_names_the_broker_and_the_cluster(broker: LocalBroker, topic: StaticCredentials) -> None:
    with Admin(topic, timeout_s=30) as admin:
        state = admin.state()
    assert (state.connected, state.bootstrap_servers, state.cluster_id, state.brokers, state.problem) == (
        True,
        broker.bootstrap_servers,
        broker.cluster_id,
        BROKERS,
        "",
    )


def test_a_broker_that_is_away_is_said_within_the_time_limit() -> None:
    credentials = StaticCredentials(kafka=kafka_login("127.0.0.1:1"))
    with Admin(credentials, timeout_s=1.0) as admin:
        began = time.monotonic()
        state = admin.state()
        assert time.monotonic() - began < 15
        assert not state.connected
        assert "no answer from the broker at 127.0.0.1" in state.problem
        with pytest.raises(BrokerUnavailable):
            admin.log_ranges()
        with pytest.raises(BrokerUnavailable):
            admin.ensure_topic()


def test_no_address_at_all_is_said_with_the_setting_to_set() -> None:
    with Admin(StaticCredentials(kafka=kafka_login(""))) as admin:
        assert "kafka.bootstrap_servers is empty" in admin.state().problem


@pytest.mark.long
def test_the_admin_follows_the_broker_to_its_new_address(own_tansu: Callable[[], Tansu]) -> None:
    broker = own_tansu()
    credentials = credentials_for(broker)
    with Admin(credentials, timeout_s=2.0) as admin:
        first = admin.state()
        broker.stop()
        assert not admin.state().connected
        broker.start()
        held = credentials.kafka()
        server = msgspec.structs.replace(held.server, bootstrap_servers=broker.bootstrap_servers)

        class Learning(StaticCredentials):
            """Learns the address only when it is asked to look again, as from Vault."""

            def refresh_kafka(self) -> KafkaLogin:
                self.kafka_login = msgspec.structs.replace(held, server=server)
                return super().refresh_kafka()

        with Admin(Learning(kafka=held), timeout_s=20.0) as learning:
            state = learning.state()
        assert state.connected
        assert state.cluster_id == broker.cluster_id != first.cluster_id


def test_positions_compare_between_adapters(topic: StaticCredentials) -> None:
    acks = Acks()
    with Producer(topic, client_id="test", source="/tests") as producer:
        producer.publish(event(), acks)
        (position,) = acks.positions(1)
    with Admin(topic) as admin:
        found = next(found for found in admin.log_ranges() if found.end > found.start)
    assert position == Position(found.cluster_id, found.topic, found.partition, found.start)
