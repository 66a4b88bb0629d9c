"""What only a broker with limits shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from bdlab.errors import EventTooLarge
from bdlab.kafka.admin import TOPIC_MAX_MESSAGE_BYTES
from bdlab.kafka.connection import client_config
from bdlab.kafka.consumer import Consumer
from bdlab.kafka.producer import Producer
from bdlab.stack.servers.kafka import ApacheKafka
from tests.fix_kafka import Acks, Bookmarks, credentials_for, read_until
from tests.samples import event
from tests.static_credentials import StaticCredentials


@pytest.fixture
def kafka(single_kafka: ApacheKafka) -> ApacheKafka:
    return single_kafka


def noise(size: int) -> str:
    """Text that does not compress much."""
    import random

    return random.Random(1).randbytes(size // 2).hex()


def test_an_event_above_the_topics_limit_is_refused_as_such_and_blocks_no_other(kafka: ApacheKafka) -> None:
    credentials, acks = credentials_for(kafka, delivery_timeout_s=10.0), Acks()
    with Producer(credentials, client_id="test", source="/tests") as producer:
        producer.publish(event(text=noise(2 * TOPIC_MAX_MESSAGE_BYTES + (8 << 20))), acks)
        (refused,) = acks.take(1)
        assert isinstance(refused, EventTooLarge)
        assert "max.message.bytes" in refused.hint
        for _ in range(100):
            producer.publish(event(), acks)
        acks.positions(100)
        producer.publish(event(text=noise(TOPIC_MAX_MESSAGE_BYTES // 2)), acks)
        acks.positions(1)


def test_a_position_before_the_logs_start_stops_the_partition_with_the_numbers(kafka: ApacheKafka) -> None:
    credentials, acks = credentials_for(kafka), Acks()
    with Producer(credentials, client_id="test", source="/tests") as producer:
        for _ in range(200):
            producer.publish(event(), acks)
        acks.positions(200)
    trim(credentials, partition=3, start=10)
    bookmarks = Bookmarks()
    bookmarks.next[kafka.cluster_id, 3] = 4

    with Consumer(credentials, positions=bookmarks) as consumer:
        records = read_until(consumer.poll, lambda _: consumer.at_end)
        assert set(consumer.stopped) == {3}
        assert "is 4, and the broker's log has 10 to" in consumer.stopped[3]
        assert "6 events were deleted" in consumer.stopped[3]
        assert {record.position.partition for record in records} == {0, 1, 2, 4, 5}
        assert dict(bookmarks.next) == {(kafka.cluster_id, 3): 4}
        asked = {at.partition: at.offset for at in bookmarks.asked[-1]}
        assert asked == {0: 0, 1: 0, 2: 0, 3: 10, 4: 0, 5: 0}


def test_events_deleted_ahead_of_a_consumer_stop_that_partition_alone(kafka: ApacheKafka) -> None:
    from confluent_kafka import Producer as Client

    credentials = credentials_for(kafka)
    login = credentials.kafka()
    client = Client(client_config(login, client_id="test") | {"message.max.bytes": 16 << 20})
    # More than a consumer reads ahead.
    for number in range(12):
        client.produce(login.server.topic, bytes([number]) * (7 << 20), b"k", 1)
    client.produce(login.server.topic, b"x", b"k", 2)
    assert client.flush(60) == 0

    with Consumer(credentials, positions=Bookmarks()) as consumer:
        records = read_until(lambda _, timeout_s: consumer.poll(1, timeout_s), bool)
        trim(credentials, partition=1, start=12)
        records += read_until(consumer.poll, lambda _: consumer.at_end)
        assert set(consumer.stopped) == {1}
        read = sorted(record.position.offset for record in records if record.position.partition == 1)
        assert f"is {len(read)}, and the broker's log has 12 to 12" in consumer.stopped[1]

    assert read == list(range(len(read)))
    assert [record.value for record in records if record.position.partition == 2] == [b"x"]


def trim(credentials: StaticCredentials, *, partition: int, start: int) -> None:
    """Delete what is before `start`, as retention does."""
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient

    login = credentials.kafka()
    place = TopicPartition(login.server.topic, partition, start)
    client = AdminClient(client_config(login, client_id="test"))
    client.delete_records([place])[place].result(10)


def test_a_compacted_gap_stops_the_partition_instead_of_being_skipped(kafka: ApacheKafka, tmp_path: Path) -> None:
    """A transaction's marker takes an offset that no reader ever sees."""
    from confluent_kafka import Producer as Client

    credentials = credentials_for(kafka)
    login = credentials.kafka()
    client = Client(client_config(login, client_id="test") | {"transactional.id": f"t-{tmp_path.name}"})
    client.init_transactions(20)
    for _ in range(4):  # behind the gap comes more than one record, in one chunk
        client.begin_transaction()
        client.produce(login.server.topic, b"x", b"k", 0)
        client.commit_transaction(20)

    with Consumer(credentials, positions=Bookmarks()) as consumer:
        records = read_until(consumer.poll, lambda _: bool(consumer.stopped))
        assert {record.position.offset for record in records} == {0}
        assert "offsets 1 to 1 of" in consumer.stopped[0]
        read_until(consumer.poll, lambda _: consumer.at_end)
