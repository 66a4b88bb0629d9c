"""The consumer group from outside: what it has committed, and a way out where it waits for a member gone."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import TimeoutError as FutureTimeout

import structlog
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from bdlab.credentials import KafkaLogin
from bdlab.errors import BrokerRefused, BrokerUnavailable
from bdlab.kafka.connection import broker_error, client_config

log = structlog.get_logger()

_TIMEOUT_S = 3.0
_PAUSE_S = 0.05
_PASSING = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}


def committed_offsets(
    admin: AdminClient, group: str, topic: str, partitions: Iterable[int], timeout_s: float
) -> dict[int, int]:
    """The group's committed offset of each partition of `topic`; negative where there is none.

    By the administrative call: a consumer's own waits out its time where the user may not see the group.
    Raises BrokerRefused there, and BrokerUnavailable.
    """
    doing = f"reading the offsets of group {group!r}"
    places = [TopicPartition(topic, partition) for partition in partitions]
    deadline = time.monotonic() + timeout_s
    while True:
        left = max(0.1, deadline - time.monotonic())
        asked = ConsumerGroupTopicPartitions(group, places)
        future = admin.list_consumer_group_offsets([asked], request_timeout=left)[group]
        try:
            answer = future.result(left + 1).topic_partitions
            refusal = next((place.error for place in answer if place.error is not None), None)
        except KafkaException as error:
            refusal = error.args[0]
        except FutureTimeout as error:
            raise BrokerUnavailable(f"{doing}: no answer within {timeout_s:g} s") from error
        if refusal is None:
            return {place.partition: place.offset for place in answer}
        if refusal.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            raise BrokerRefused(f"this user may not see group {group!r}") from KafkaException(refusal)
        if refusal.code() not in _PASSING or time.monotonic() + _PAUSE_S >= deadline:
            raise broker_error(refusal, doing)
        time.sleep(_PAUSE_S)


def release(login: KafkaLogin, *, client_id: str) -> None:
    """Ask the broker to forget the group, so that its members form it anew.

    Tansu keeps a leader that left while the group was forming, and the others then wait for it without end.
    Kafka does not, and refuses to delete a group with members in it, so that nothing happens there. What is
    lost with the group are its committed offsets, which nothing but lag tools read.
    """
    group = login.server.group
    admin = AdminClient(client_config(login, client_id=client_id))
    answer = admin.delete_consumer_groups([group], request_timeout=_TIMEOUT_S)[group]
    try:
        answer.result(_TIMEOUT_S + 1)
    except (KafkaException, FutureTimeout) as error:
        log.info("the group is still waiting for its members", group=group, broker_says=str(error))
    else:
        log.warning("the group waited for a member that is gone, and forms anew", group=group)
