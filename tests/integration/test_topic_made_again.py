"""Logs that are not the ones that were recorded: a topic made again under its name, a broker's older disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from bdlab.errors import OffsetOutOfRange
from bdlab.kafka.admin import Admin
from bdlab.kafka.connection import client_config
from bdlab.kafka.consumer import Consumer
from bdlab.kafka.producer import Producer
from bdlab.postgres.accounts import decide_log
from bdlab.postgres.reader import Reader
from bdlab.postgres.store import Store
from bdlab.settings import SinkSettings
from bdlab.sink import Sink
from bdlab.stack.servers.kafka import ApacheKafka
from bdlab.verification import Report, verify
from tests.fix_apache import publish, running
from tests.fix_database import Database
from tests.fix_kafka import kafka_login, make_topic
from tests.static_credentials import StaticCredentials
from tests.waiting import until

CHILD = """
import sys, threading
import msgspec
sys.path.insert(0, {root!r})
from bdlab.credentials import DatabaseLogin, KafkaLogin
from bdlab.kafka.consumer import Consumer
from tests.static_credentials import StaticCredentials
from bdlab.postgres.store import Store
from bdlab.settings import KafkaSettings, PostgresSettings, Secret, SinkSettings
from bdlab.sink import Sink

server, user, password, kafka = sys.stdin.read().splitlines()
login = DatabaseLogin(
    server=msgspec.json.decode(server, type=PostgresSettings), user=user, password=Secret(password)
)
credentials = StaticCredentials(
    database=login, kafka=KafkaLogin(server=msgspec.json.decode(kafka, type=KafkaSettings))
)
store = Store(credentials)
store.open()
sink = Sink(store, SinkSettings(batch_wait_s=0.05))
with Consumer(credentials, positions=sink.positions, check_log=sink.check_log) as source:
    sink.run(source, threading.Event())
"""


class World(msgspec.Struct):
    """A topic of its own at the broker, and a database of its own."""

    credentials: StaticCredentials
    database: Database

    @property
    def topic(self) -> str:
        return self.credentials.kafka().server.topic

    def admin(self) -> AdminClient:
        return AdminClient(client_config(self.credentials.kafka(), client_id="test"))

    def delete_topic(self) -> None:
        admin = self.admin()
        admin.delete_topics([self.topic], operation_timeout=20)[self.topic].result(20)
        until(lambda: self.topic not in admin.list_topics(timeout=10).topics)

    def make_again(self) -> None:
        self.delete_topic()
        make_topic(self.credentials)

    def publish(self, count: int) -> None:
        with Producer(self.credentials, client_id="test", source="/tests") as producer:
            publish(producer, count)

    @contextmanager
    def consumer(self) -> Iterator[subprocess.Popen[str]]:
        """`bdlab consume`'s loop in a process of its own, killed at the end."""
        login = self.database.login("writer")
        given = (
            msgspec.json.encode(login.server).decode(),
            login.user,
            login.password.reveal(),
            msgspec.json.encode(self.credentials.kafka().server).decode(),
        )
        program = CHILD.format(root=str(Path(__file__).parents[2]))
        with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            process.stdin.write("\n".join(given))
            process.stdin.close()
            process.stdin = None
            try:
                yield process
            finally:
                process.kill()

    def drain(self) -> int:
        """Store what the topic holds, as `bdlab consume --until-idle`; the rows."""
        store = Store(self.database.credentials("writer"))
        store.open()
        sink = Sink(store, SinkSettings(batch_wait_s=0.05))
        try:
            with Consumer(self.credentials, positions=sink.positions, check_log=sink.check_log) as source:
                return sink.run(source, threading.Event(), until_idle=True).rows
        finally:
            store.close()

    def rows(self) -> int:
        return int(self.database.execute("SELECT count(*) FROM predictions")[0][0])

    def verify(self, wait_s: float = 0) -> Report:
        with Admin(self.credentials, timeout_s=20) as admin, Reader(self.database.credentials("reader")) as reader:
            return verify(admin.log_ranges, reader, wait_s=wait_s, read_records=admin.record_reader)

    def topic_ids(self) -> list[str]:
        return [row[0] for row in self.database.execute("SELECT topic_id FROM logs ORDER BY log_id")]

    def decide(self, *, same: bool) -> None:
        with Admin(self.credentials, timeout_s=20) as admin:
            assert decide_log(self.database.credentials("owner"), admin.log_ranges()[0], same=same)


@pytest.fixture(autouse=True)
def _few_events_reach_all_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdlab.kafka.producer_client.SLOT_EVENTS", 1)


@pytest.fixture
def kafka(single_kafka: ApacheKafka) -> ApacheKafka:
    return single_kafka


def make_world(kafka: ApacheKafka, database: Database) -> World:
    login = kafka_login(kafka.bootstrap_servers, topic=f"t-{uuid4().hex}", partitions=3)
    return World(make_topic(StaticCredentials(kafka=login)), database)


@pytest.fixture
def world(kafka: ApacheKafka, database: Database) -> World:
    return make_world(kafka, database)


def check_two_logs(world: World, closed: int, current: int) -> None:
    """The accounts say that the first log is closed, with all of it stored, and the second is complete."""
    report = world.verify(wait_s=60)
    assert report.verified, report.problems
    assert sum(one.stored for one in report.closed) == closed
    assert sum(one.lost for one in report.closed) == 0
    assert [sum(one.stored for one in report.partitions), sum(one.end for one in report.partitions)] == [
        current,
        current,
    ]
    ids = world.topic_ids()
    assert len(ids) == len(set(ids)) == 2
    assert {one.topic_id for one in report.closed} == {ids[0]}
    assert {one.topic_id for one in report.partitions} == {ids[1]}


def test_a_frozen_consumer_finds_the_topic_made_again(world: World) -> None:
    """A producer that outlives the topic reports success for what is on the new one alone."""
    with Producer(world.credentials, client_id="test", source="/tests") as producer, world.consumer() as consumer:
        publish(producer, 50)
        until(lambda: world.rows() == 50)
        os.kill(consumer.pid, signal.SIGSTOP)
        world.make_again()
        publish(producer, 60)
        os.kill(consumer.pid, signal.SIGCONT)
        until(lambda: world.rows() == 110)
    check_two_logs(world, 50, 60)


def test_a_consumer_that_runs_meanwhile_and_one_that_starts_afterwards(world: World) -> None:
    with world.consumer():
        world.publish(60)
        until(lambda: world.rows() == 60)
        world.make_again()
        world.publish(20)
        until(lambda: world.rows() == 80)
    world.publish(180)
    assert world.drain() == 180
    check_two_logs(world, 60, 200)


def test_a_consumer_that_starts_when_the_topic_has_grown(world: World) -> None:
    world.publish(60)
    assert world.drain() == 60
    world.make_again()
    world.publish(200)
    assert [one.split(":")[1].strip() for one in world.verify().problems] == ["it was never assigned to a consumer"] * 3
    assert world.drain() == 200
    check_two_logs(world, 60, 200)


def test_what_a_deleted_topic_still_held_is_said_to_be_lost(world: World) -> None:
    world.publish(30)
    assert world.drain() == 30
    world.database.execute("UPDATE sink_offsets SET end_seen = end_seen + 4 WHERE partition = 1")
    world.make_again()
    assert world.drain() == 0
    report = world.verify()
    assert report.verified, report.problems
    assert sum(one.lost for one in report.closed) == 4


def test_a_log_from_before_is_proved_by_a_record(world: World) -> None:
    world.publish(30)
    assert world.drain() == 30
    (number,) = world.topic_ids()
    world.database.execute("UPDATE logs SET topic_id = ''")
    assert world.verify().verified
    world.publish(5)
    assert world.drain() == 5
    assert world.topic_ids() == [number]
    assert world.verify().verified


def refused(world: World, saying: str) -> None:
    """`consume` says it, `verify` does not verify, and both say what to do."""
    rows = world.rows()
    with pytest.raises(OffsetOutOfRange, match=saying) as stopped:
        world.drain()
    report = world.verify()
    assert not report.verified
    for text in (stopped.value.message, " ".join(report.problems)):
        assert "bdlab migrate --adopt-log" in text
        assert "bdlab migrate --new-log" in text
    assert world.rows() == rows


def test_a_log_from_before_that_was_made_again_is_refused(world: World) -> None:
    world.publish(30)
    assert world.drain() == 30
    world.database.execute("UPDATE logs SET topic_id = ''")
    world.make_again()
    world.publish(90)
    refused(world, "the broker has another record there")
    world.decide(same=False)
    assert world.drain() == 90
    report = world.verify()
    assert report.verified, report.problems
    assert (sum(one.stored for one in report.closed), len(world.topic_ids())) == (30, 2)


def test_a_log_from_before_without_a_record_to_compare_is_refused_until_it_is_adopted(world: World) -> None:
    world.publish(30)
    assert world.drain() == 30
    with Admin(world.credentials, timeout_s=20) as admin:
        ends = [TopicPartition(found.topic, found.partition, found.end) for found in admin.log_ranges()]
    admin_client = world.admin()
    for answer in admin_client.delete_records(ends).values():
        answer.result(20)
    assert world.verify().verified  # by its topic id
    world.database.execute("UPDATE logs SET topic_id = ''")
    refused(world, "is not proved to be the log that is recorded")
    world.decide(same=True)
    world.publish(10)
    assert world.drain() == 10
    report = world.verify()
    assert report.verified, report.problems
    assert len(world.topic_ids()) == 1


def test_a_log_of_another_record_can_be_adopted_too(world: World) -> None:
    world.publish(30)
    assert world.drain() == 30
    world.database.execute(
        "UPDATE predictions p SET id = gen_random_uuid() FROM sink_offsets s"
        ' WHERE p.partition = s.partition AND p."offset" = s.next_offset - 1 AND p.partition = 2'
    )
    with pytest.raises(OffsetOutOfRange, match="partition 2"):
        world.drain()
    world.decide(same=True)
    world.publish(10)
    assert world.drain() == 10
    assert world.verify().verified


def test_a_broker_restored_from_an_older_disk_is_refused(tmp_path: Path, database: Database) -> None:
    with running(ApacheKafka(tmp_path / "kafka")) as kafka:
        world = make_world(kafka, database)
        world.publish(30)
        assert world.drain() == 30
        kafka.stop()
        data = kafka.folder / "data"
        shutil.copytree(data, tmp_path / "older")
        kafka.start()
        world.publish(30)
        assert world.drain() == 30
        kafka.stop()
        shutil.rmtree(data)
        shutil.copytree(tmp_path / "older", data)
        kafka.start()
        refused(world, "the log is shorter than what was stored from it")
        world.publish(90)
        refused(world, "the broker has another record there")
        assert len(set(world.topic_ids())) == 1
        world.decide(same=False)
        assert world.drain() == 90  # and what is on the disk and recorded already is a duplicate
        report = world.verify()
    assert report.verified, report.problems
    assert sum(one.duplicates for one in report.partitions) == 30
    assert sum(one.stored for one in report.closed) == 60


def test_partitions_that_are_added_are_taken_within_30_s(world: World) -> None:
    """By the consumer, by a producer that was there before, and by the accounting."""
    with Producer(world.credentials, client_id="test", source="/tests") as producer, world.consumer():
        publish(producer, 10)
        until(lambda: world.rows() == 10)
        admin = world.admin()
        admin.create_partitions([NewPartitions(world.topic, 5)])[world.topic].result(20)
        began = time.monotonic()
        count = 10

        def taken() -> bool:
            nonlocal count
            publish(producer, 10)
            count += 10
            found = world.database.execute("SELECT count(DISTINCT partition) FROM predictions")
            return found == [(5,)]

        until(taken, timeout_s=30)
        until(lambda: world.rows() == count, timeout_s=max(1.0, 30 - (time.monotonic() - began)))
    report = world.verify()
    assert report.verified, report.problems
    assert len(report.partitions) == 5
