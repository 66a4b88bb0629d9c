"""The consumer where its group keeps it waiting."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from bdlab.kafka.consumer import Consumer, delete_stuck_group
from tests.brokers import KIND, LocalBroker
from tests.chaos.advertised import KINDS, Member
from tests.chaos.proxy import Proxy, kafka_api_key
from tests.fix_kafka import Bookmarks, credentials_for, kafka_login, make_topic, place, published, read_until
from tests.fix_servers import start_or_skip
from tests.static_credentials import StaticCredentials

_JOIN_GROUP = 11


@pytest.mark.on_cluster
@pytest.mark.on_zookeeper
def test_a_group_whose_leader_left_while_it_was_forming_forms_anew(broker: LocalBroker) -> None:
    """Tansu would wait for the leader that is gone without end."""
    topic = credentials_for(broker, session_timeout_s=1.0)
    sent = published(topic, 100)
    leader = Consumer(topic, positions=Bookmarks())
    successor = Consumer(topic, positions=Bookmarks())
    with successor:
        with leader:
            read_until(leader.poll, lambda found: len(found) == 100)
            successor.poll(1, 0.4)
        found = read_until(successor.poll, lambda _: successor.at_end)

    assert sorted(place(record) for record in found) == sorted(sent)


@pytest.mark.parametrize(("cluster_id", "asked"), [("tansu-1", True), ("ZyN7g-TzSwmFA-bKb8Upsg", False)])
def test_a_group_is_forgotten_at_tansu_alone(cluster_id: str, asked: bool) -> None:
    """At Apache Kafka the call can end the process: librdkafka pull request 5397."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)
        delete_stuck_group(kafka_login(f"127.0.0.1:{listener.getsockname()[1]}"), cluster_id, client_id="test")
        try:
            listener.accept()[0].close()
            connected = True
        except TimeoutError:
            connected = False
    assert connected is asked


@pytest.mark.on_cluster
@pytest.mark.broker
def test_a_request_to_join_that_is_never_answered_is_made_again(tmp_path: Path) -> None:
    """librdkafka alone would wait `max.poll.interval.ms` for the answer, five minutes."""
    joins: list[bytes] = []

    def loses(request: bytes) -> bool:
        if kafka_api_key(request) != _JOIN_GROUP:
            return False
        joins.append(request)
        return len(joins) == 1

    broker = KINDS[KIND](tmp_path)
    with ExitStack() as stack:
        members: Sequence[Member] = broker.members
        proxies = [Proxy("broker", loses=loses) for _ in members]
        for member, proxy in zip(members, proxies, strict=True):
            member.advertised = proxy.address
        stack.callback(broker.stop)
        start_or_skip(broker)
        for member, proxy in zip(members, proxies, strict=True):
            proxy.start(("127.0.0.1", member.port))
            stack.callback(proxy.close)
        servers = ",".join(f"{proxy.host}:{proxy.port}" for proxy in proxies)
        topic = make_topic(StaticCredentials(kafka=kafka_login(servers, session_timeout_s=1.0)))
        sent = published(topic, 20)

        with Consumer(topic, positions=Bookmarks()) as consumer:
            found = read_until(consumer.poll, lambda found: len(found) == len(sent), timeout_s=40)

    assert sorted(place(record) for record in found) == sorted(sent)
    assert len(joins) > 1
