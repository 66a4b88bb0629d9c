"""Producer and consumer on a secured Kafka while their login changes, and where it is refused."""

from __future__ import annotations

import threading
import time

import msgspec
import pytest

from bdlab.errors import BrokerError, BrokerRefused
from bdlab.events import Position
from bdlab.kafka.broker_admin import ensure_users_and_acls
from bdlab.kafka.consumer import Consumer
from bdlab.kafka.producer import Producer
from bdlab.settings import Secret
from tests.fix_apache import SecuredKafka
from tests.fix_kafka import Acks, Bookmarks, place, read_until
from tests.samples import event
from tests.static_credentials import StaticCredentials


@pytest.fixture
def kafka(secured_kafka: SecuredKafka) -> SecuredKafka:
    return secured_kafka


def with_new_password(kafka: SecuredKafka, service: str, which: int) -> None:
    """Give one of the service's two users another password at the broker."""
    user = kafka.users[service][which]
    kafka.users[service][which] = msgspec.structs.replace(user, password=Secret(f"changed-{time.time_ns()}"))
    ensure_users_and_acls(kafka.admin, kafka.users)


def test_a_producer_changes_its_user_under_load_and_no_event_fails(kafka: SecuredKafka) -> None:
    first, second = kafka.users["serve"]
    credentials, acks, stop = StaticCredentials(kafka=first), Acks(), threading.Event()
    sent = 0

    def load() -> None:
        nonlocal sent
        while not stop.wait(0.002):
            producer.publish(event(), acks)
            sent += 1

    thread = threading.Thread(target=load, daemon=True)
    with Producer(credentials, client_id="test", source="/tests") as producer:
        thread.start()
        acks.positions(200)
        assert credentials.in_use == {"test": first}
        credentials.kafka_login = second
        acknowledged, deadline = 200, time.monotonic() + 20
        while credentials.in_use != {"test": second}:
            assert time.monotonic() < deadline
            acknowledged += len(acks.positions(10))
        with_new_password(kafka, "serve", 0)
        acknowledged += len(acks.positions(400))
        stop.set()
        thread.join(60)
        assert producer.problem is None
    assert len(acks.positions(sent - acknowledged)) == sent - acknowledged
    assert credentials.in_use == {}


@pytest.mark.long
def test_a_consumer_changes_its_user_and_uses_it_after_a_restart_of_the_broker(kafka: SecuredKafka) -> None:
    first, second = kafka.users["consume"]
    credentials, acks, bookmarks = StaticCredentials(kafka=first), Acks(), Bookmarks()
    producers = StaticCredentials(kafka=kafka.users["predict"][0])
    with (
        Producer(producers, client_id="test", source="/tests") as producer,
        Consumer(credentials, positions=bookmarks) as consumer,
    ):
        bookmarks.keep(read_until(consumer.poll, lambda _: consumer.at_end))
        credentials.kafka_login = second
        bookmarks.keep(consumer.poll(10, 0.2))
        assert credentials.in_use == {"bdlab-consume": second}
        with_new_password(kafka, "consume", 0)
        kafka.kafka.stop()
        assert consumer.poll(10, 1.0) == []
        kafka.kafka.start()
        positions: list[Position] = []
        deadline = time.monotonic() + 60
        while len(positions) < 50 and time.monotonic() < deadline:
            producer.publish(event(), acks)
            (result,) = acks.take(1)
            positions += [result] if isinstance(result, Position) else []
        found = read_until(consumer.poll, lambda records: len(records) >= 50, timeout_s=60)
    assert {place(record) for record in found} >= set(positions)


def test_a_refused_producer_says_so_at_once_and_recovers_with_a_good_login(kafka: SecuredKafka) -> None:
    good = kafka.users["predict"][1]
    bad = msgspec.structs.replace(good, password=Secret("wrong"))
    credentials, acks = StaticCredentials(kafka=bad), Acks()
    with Producer(credentials, client_id="test", source="/tests") as producer:
        began = time.monotonic()
        producer.publish(event(), acks)
        (refused,) = acks.take(1)
        assert isinstance(refused, BrokerRefused)
        assert "Vault holds" in refused.hint
        assert time.monotonic() - began < 20
        with pytest.raises(BrokerRefused):
            producer.publish(event(), acks)
        assert "wrong" not in str(producer.problem)

        credentials.kafka_login = good
        deadline = time.monotonic() + 60
        result: Position | BrokerError = refused
        while not isinstance(result, Position) and time.monotonic() < deadline:
            try:
                producer.publish(event(), acks)
            except BrokerRefused:
                time.sleep(0.05)
                continue
            (result,) = acks.take(1)
        assert isinstance(result, Position)


def test_a_refused_consumer_waits_a_while_and_then_raises(kafka: SecuredKafka) -> None:
    bad = msgspec.structs.replace(kafka.users["consume"][1], password=Secret("wrong"))
    with Consumer(StaticCredentials(kafka=bad), positions=Bookmarks()) as consumer:
        began = time.monotonic()
        with pytest.raises(BrokerRefused):
            read_until(consumer.poll, lambda _: False, timeout_s=60)
        assert 9 < time.monotonic() - began < 40
        assert isinstance(consumer.problem, BrokerRefused)


def test_a_consumer_that_is_refused_for_a_moment_goes_on_with_the_newer_login(kafka: SecuredKafka) -> None:
    good = kafka.users["consume"][1]
    bad = msgspec.structs.replace(good, password=Secret("wrong"))
    credentials = StaticCredentials(kafka=bad)
    with Consumer(credentials, positions=Bookmarks()) as consumer:
        deadline = time.monotonic() + 60
        while not isinstance(consumer.problem, BrokerRefused) and time.monotonic() < deadline:
            consumer.poll(10, 0.3)
        assert isinstance(consumer.problem, BrokerRefused)
        credentials.kafka_login = good
        read_until(consumer.poll, lambda _: consumer.at_end)
        assert consumer.problem is None


@pytest.mark.long
def test_a_user_without_the_acl_is_refused_by_name(kafka: SecuredKafka) -> None:
    credentials, acks = StaticCredentials(kafka=kafka.login("status")), Acks()
    for _ in range(20):  # the refusal comes before the first event, with it, after it or at the end
        with Producer(credentials, client_id="test", source="/tests") as producer:
            try:
                producer.publish(event(), acks)
            except BrokerRefused:
                continue
            (refused,) = acks.take(1)
            assert isinstance(refused, BrokerRefused)
    with Consumer(credentials, positions=Bookmarks()) as consumer, pytest.raises(BrokerRefused):
        read_until(consumer.poll, lambda _: False, timeout_s=60)
