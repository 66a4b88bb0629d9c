"""Apache Kafka 3.9 whose metadata ZooKeeper keeps: plain and secured, through restarts and kill -9."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from pathlib import Path

import pytest

from bdlab.events import Position
from bdlab.kafka.broker_admin import ensure_users_and_acls
from bdlab.kafka.consumer import Consumer
from bdlab.kafka.producer import Producer
from tests.broker_operations import OPERATIONS, Target
from tests.brokers import kill
from tests.fix_apache import Authority, publish, running, secured
from tests.fix_kafka import Bookmarks, credentials_for, place, read_until
from tests.servers.zookeeper import ZooKeeperKafka
from tests.static_credentials import StaticCredentials

pytestmark = pytest.mark.kafka


def write(credentials: StaticCredentials, count: int) -> list[Position]:
    with Producer(credentials, client_id="test", source="/tests") as producer:
        return publish(producer, count)


def read_positions(credentials: StaticCredentials) -> set[Position]:
    with Consumer(credentials, positions=Bookmarks()) as consumer:
        records = read_until(consumer.poll, lambda _: consumer.at_end)
    return {place(record) for record in records}


def test_it_takes_messages_and_keeps_them_over_restarts_and_kills(tmp_path: Path) -> None:
    with running(ZooKeeperKafka(tmp_path)) as kafka:
        identity = (kafka.cluster_id, kafka.bootstrap_servers)
        credentials = credentials_for(kafka, delivery_timeout_s=20.0)
        positions = write(credentials, 100)
        kafka.stop()
        assert not kafka.broker.running
        assert not kafka.zookeeper.running
        kafka.start()
        positions += write(credentials, 100)
        # ZooKeeper takes the killed broker for alive until its session has ended.
        kill(kafka.broker)
        kafka.start()
        positions += write(credentials, 100)
        # Without ZooKeeper the broker goes on serving; with it back it is whole again.
        os.kill(kafka.zookeeper.pid or 0, signal.SIGKILL)
        positions += write(credentials, 100)
        kafka.zookeeper.start()
        assert kafka.running
        positions += write(credentials, 100)
        assert (kafka.cluster_id, kafka.bootstrap_servers) == identity
        assert len(set(positions)) == 500
        assert read_positions(credentials) == set(positions)


def test_secured_it_holds_the_same_rules(tmp_path: Path, authority: Authority) -> None:
    """And ZooKeeper talks to nobody without a certificate."""
    kafka = ZooKeeperKafka(tmp_path, certificates=authority.certificates)
    with secured(kafka, authority) as ready:
        positions = write(StaticCredentials(kafka=ready.login("serve")), 50)
        assert read_positions(StaticCredentials(kafka=ready.login("consume"))) == set(positions)
        for service, operation in (
            ("serve", "read topic"),
            ("serve", "create topic"),
            ("consume", "write topic"),
            ("status", "write topic"),
            ("verify", "commit offsets"),
            ("dlq", "delete topic"),
        ):
            login = ready.login(service)
            target = Target(login, login.server.topic, login.server.group)
            assert not OPERATIONS[operation](target), (service, operation)
        assert ensure_users_and_acls(ready.admin, ready.users) == []

        port = kafka.zookeeper.port
        assert four_letter_word(port, None) == b""
        context = ssl.create_default_context(cadata=authority.broker.ca_pem)
        assert four_letter_word(port, context) == b""
        file = tmp_path / "broker.pem"
        broker = authority.broker
        file.write_text(f"{broker.key.reveal()}\n{broker.pem}")
        context.load_cert_chain(file)
        assert b"Mode: standalone" in four_letter_word(port, context)


def four_letter_word(port: int, context: ssl.SSLContext | None) -> bytes:
    """What ZooKeeper answers to `srvr`; empty where it ends the connection without a word."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection = plain
    answer = b""
    try:
        if context:
            connection = context.wrap_socket(plain, server_hostname="127.0.0.1")
        connection.sendall(b"srvr")
        while chunk := connection.recv(4096):
            answer += chunk
    except (ssl.SSLError, ConnectionError, TimeoutError):
        return b""
    finally:
        connection.close()
    return answer
