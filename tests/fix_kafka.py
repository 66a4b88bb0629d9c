"""Topics of their own on the session's broker, and what producers and consumers need beside it."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from uuid import uuid4

import msgspec
import pytest
from confluent_kafka.admin import AdminClient

from bdlab.credentials import KafkaLogin
from bdlab.errors import BrokerError
from bdlab.events import Position, Record
from bdlab.kafka.admin import Admin
from bdlab.kafka.connection import client_config
from bdlab.kafka.producer import Producer
from bdlab.settings import KafkaSettings
from tests.brokers import LocalBroker, listing
from tests.samples import event
from tests.static_credentials import StaticCredentials


def kafka_login(
    bootstrap_servers: str,
    *,
    topic: str = "predictions",
    partitions: int = 6,
    delivery_timeout_s: float = 20.0,
    session_timeout_s: float = 4.0,
) -> KafkaLogin:
    return KafkaLogin(
        server=KafkaSettings(
            bootstrap_servers=bootstrap_servers,
            topic=topic,
            partitions=partitions,
            group=f"{topic}-readers",
            delivery_timeout_s=delivery_timeout_s,
            session_timeout_s=session_timeout_s,
        )
    )


def make_topic(credentials: StaticCredentials) -> StaticCredentials:
    """Create the topic that the credentials' settings name, and wait until each broker knows of it."""
    with Admin(credentials, timeout_s=30) as admin:
        admin.ensure_topic()
    login = credentials.kafka()
    for address in login.server.bootstrap_servers.split(","):
        deadline = time.monotonic() + 20
        while login.server.topic not in listing(address).topics:
            assert time.monotonic() < deadline, f"{address} does not learn of {login.server.topic}"
            time.sleep(0.02)
    return credentials


def credentials_for(broker: LocalBroker, **settings: float) -> StaticCredentials:
    """Credentials for a topic of its own on `broker`, which is made."""
    login = kafka_login(broker.bootstrap_servers, topic=f"t-{uuid4().hex}", **settings)  # type: ignore[arg-type]
    return make_topic(StaticCredentials(kafka=login))


def leader_address(credentials: StaticCredentials, partition: int) -> str:
    """host:port of the broker that takes what is written to this partition of the topic."""
    login = credentials.kafka()
    found = AdminClient(client_config(login, client_id="test")).list_topics(timeout=10)
    leader = found.brokers[found.topics[login.server.topic].partitions[partition].leader]
    return f"{leader.host}:{leader.port}"


@pytest.fixture
def topic(broker: LocalBroker) -> StaticCredentials:
    """Credentials for a topic of this test's own, with 6 partitions."""
    return credentials_for(broker)


class Acks:
    """A `done` that keeps what it was given, and can be waited on."""

    def __init__(self) -> None:
        self._results: queue.SimpleQueue[Position | BrokerError] = queue.SimpleQueue()
        self.count = 0

    def __call__(self, result: Position | BrokerError) -> None:
        self.count += 1
        self._results.put(result)

    def take(self, count: int, timeout_s: float = 60.0) -> list[Position | BrokerError]:
        """The next `count` results. Raises queue.Empty where they do not come in time."""
        deadline = time.monotonic() + timeout_s
        return [self._results.get(timeout=max(0.0, deadline - time.monotonic())) for _ in range(count)]

    def positions(self, count: int, timeout_s: float = 60.0) -> list[Position]:
        """The next `count` results, all of which have to be positions."""
        found = self.take(count, timeout_s)
        return [result for result in found if isinstance(result, Position) or pytest.fail(repr(result))]


def published(credentials: StaticCredentials, count: int) -> set[Position]:
    """Where `count` events are that were published for this, all at once."""
    acks = Acks()
    with Producer(credentials, client_id="test", source="/tests") as producer:
        for _ in range(count):
            producer.publish(event(), acks)
        return set(acks.positions(count))


def place(record: Record) -> Position:
    """Where it is, as its producer was told: that does not know the topic's id."""
    return msgspec.structs.replace(record.position, topic_id="")


class Bookmarks:
    """A consumer's start positions: those that were kept, else the start of the log."""

    def __init__(self) -> None:
        self.next: dict[tuple[str, int], int] = {}
        self.asked: list[list[Position]] = []

    def __call__(self, starts: Sequence[Position]) -> Sequence[Position]:
        self.asked.append(list(starts))
        return [
            Position(at.cluster_id, at.topic, at.partition, self.next.get((at.cluster_id, at.partition), at.offset))
            for at in starts
        ]

    def keep(self, records: Sequence[Record]) -> None:
        """Go on after `records`, as a store does that has them."""
        for record in records:
            at = record.position
            self.next[at.cluster_id, at.partition] = at.offset + 1


def read_until(
    poll: Callable[[int, float], list[Record]], enough: Callable[[list[Record]], bool], *, timeout_s: float = 60.0
) -> list[Record]:
    """Poll until `enough` holds of everything that was read. Fails the test where it never does."""
    deadline = time.monotonic() + timeout_s
    records: list[Record] = []
    while not enough(records):
        if time.monotonic() > deadline:
            pytest.fail(f"only {len(records)} records were read within {timeout_s:g} s")
        records += poll(1000, 0.1)
    return records
