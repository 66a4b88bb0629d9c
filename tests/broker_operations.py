"""What a client may try at a broker, one function each: whether the broker let it, for the tests of its ACLs.

Each returns False for a refusal that names the missing authorisation, and raises for any other failure, so
that a broker that is away is never taken for one that denies.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from bdlab.credentials import KafkaLogin
from bdlab.kafka.connection import client_config

_TIMEOUT_S = 15.0
_POLL_S = 0.2
_DENIED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError._NOENT,  # who may not see the topic is told of no leader
}
_COMING = {KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS}


class Target(msgspec.Struct, frozen=True):
    """A topic and a group that are there, and a client's way in."""

    login: KafkaLogin
    topic: str
    group: str

    @property
    def config(self) -> dict[str, Any]:
        return client_config(self.login, client_id="operations")


Operation = Callable[[Target], bool]
OPERATIONS: dict[str, Operation] = {}


def _operation(name: str) -> Callable[[Operation], Operation]:
    def register(function: Operation) -> Operation:
        OPERATIONS[name] = function
        return function

    return register


def _judge(error: KafkaError | None) -> bool:
    if error is None:
        return True
    if error.code() in _DENIED:
        return False
    raise KafkaException(error)


def _allowed(target: Target, ask: Callable[[AdminClient], Future[Any]]) -> bool:
    # The client has to live until the answer is there: its end would silence the question.
    client = AdminClient(target.config)
    try:
        ask(client).result(_TIMEOUT_S)
    except KafkaException as error:
        return _judge(error.args[0])
    return True


@_operation("describe topic")
def describe_topic(target: Target) -> bool:
    """A topic that one may not describe is not listed."""
    return target.topic in AdminClient(target.config).list_topics(timeout=_TIMEOUT_S).topics


@_operation("write topic")
def write_topic(target: Target) -> bool:
    client = Producer(target.config | {"message.timeout.ms": int(_TIMEOUT_S * 1000)})
    errors: list[KafkaError | None] = []
    client.produce(target.topic, b"value", b"key", on_delivery=lambda error, _: errors.append(error))
    client.flush(_TIMEOUT_S)
    return _judge(errors[0])


@_operation("write in a transaction")
def write_in_transaction(target: Target) -> bool:
    client = Producer(target.config | {"transactional.id": f"{target.group}-transaction"})
    try:
        client.init_transactions(_TIMEOUT_S)
    except KafkaException as error:
        return _judge(error.args[0])
    return True


@_operation("read topic")
def read_topic(target: Target) -> bool:
    client = Consumer(target.config | {"group.id": target.group, "enable.partition.eof": True})
    try:
        # A topic that one may not even describe is refused here; the consumer itself would stay silent.
        error = client.list_topics(target.topic, timeout=_TIMEOUT_S).topics[target.topic].error
        if error is not None:
            return _judge(error)
        client.assign([Place(target.topic, 0, 0)])
        for _ in range(int(_TIMEOUT_S / _POLL_S)):
            message = client.poll(_POLL_S)
            error = message.error() if message is not None else None
            if message is None or (error and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED):
                continue  # to read partitions that one chose oneself needs no group
            return True if error and error.code() == KafkaError._PARTITION_EOF else _judge(error)
        raise AssertionError("the broker neither answers nor refuses")
    finally:
        client.close()


@_operation("join group")
def join_group(target: Target) -> bool:
    client = Consumer(target.config | {"group.id": target.group, "enable.auto.commit": False})
    joined: list[object] = []
    try:
        client.subscribe([target.topic], on_assign=lambda _, places: joined.append(places))
        for _ in range(int(_TIMEOUT_S / _POLL_S)):
            message = client.poll(_POLL_S)
            error = message.error() if message is not None else None
            if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                return False
            if joined:
                return True
        raise AssertionError("the group neither takes nor refuses the member")
    finally:
        client.close()


@_operation("commit offsets")
def commit_offsets(target: Target) -> bool:
    """By the administrative call: a consumer's own commit is tried for 45 s before its refusal is told."""
    client = AdminClient(target.config)
    wanted = [ConsumerGroupTopicPartitions(target.group, [Place(target.topic, 0, 0)])]
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        answer = client.alter_consumer_group_offsets(wanted, request_timeout=_TIMEOUT_S)[target.group]
        try:
            return all(_judge(place.error) for place in answer.result(_TIMEOUT_S).topic_partitions)
        except KafkaException as error:
            # The first commit of all to a new broker, which has still to make the place for it.
            if error.args[0].code() not in _COMING or time.monotonic() >= deadline:
                return _judge(error.args[0])
        time.sleep(0.05)


@_operation("describe group")
def describe_group(target: Target) -> bool:
    asked = [ConsumerGroupTopicPartitions(target.group)]
    return _allowed(
        target, lambda client: client.list_consumer_group_offsets(asked, request_timeout=_TIMEOUT_S)[target.group]
    )


@_operation("describe cluster")
def describe_cluster(target: Target) -> bool:
    """Anybody may see brokers and cluster id; what to describe it means is what one may do to it."""
    client = AdminClient(target.config)
    answer = client.describe_cluster(include_authorized_operations=True, request_timeout=_TIMEOUT_S)
    return AclOperation.DESCRIBE in (answer.result(_TIMEOUT_S).authorized_operations or ())


@_operation("describe topic's settings")
def describe_settings(target: Target) -> bool:
    resource = ConfigResource(ConfigResource.Type.TOPIC, target.topic)
    return _allowed(target, lambda client: client.describe_configs([resource], request_timeout=_TIMEOUT_S)[resource])


@_operation("alter topic's settings")
def alter_settings(target: Target) -> bool:
    entry = ConfigEntry("retention.ms", "86400000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, target.topic, incremental_configs=[entry])
    return _allowed(
        target, lambda client: client.incremental_alter_configs([resource], request_timeout=_TIMEOUT_S)[resource]
    )


@_operation("add partitions")
def add_partitions(target: Target) -> bool:
    wanted = [NewPartitions(target.topic, 9)]
    return _allowed(target, lambda client: client.create_partitions(wanted, request_timeout=_TIMEOUT_S)[target.topic])


@_operation("create topic")
def create_topic(target: Target) -> bool:
    name = f"{target.topic}-another"
    topic = NewTopic(name, num_partitions=1)
    return _allowed(target, lambda client: client.create_topics([topic], request_timeout=_TIMEOUT_S)[name])


@_operation("create ACL")
def create_acl(target: Target) -> bool:
    everything = AclBinding(
        ResourceType.TOPIC,
        "*",
        ResourcePatternType.LITERAL,
        "User:nobody-at-all",
        "*",
        AclOperation.READ,
        AclPermissionType.ALLOW,
    )
    return _allowed(target, lambda client: client.create_acls([everything], request_timeout=_TIMEOUT_S)[everything])


@_operation("set another user's password")
def set_password(target: Target) -> bool:
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    upsertion = UserScramCredentialUpsertion("somebody", info, b"a-password")
    return _allowed(
        target, lambda client: client.alter_user_scram_credentials([upsertion], request_timeout=_TIMEOUT_S)["somebody"]
    )


@_operation("delete group")
def delete_group(target: Target) -> bool:
    groups = [target.group]
    return _allowed(
        target, lambda client: client.delete_consumer_groups(groups, request_timeout=_TIMEOUT_S)[target.group]
    )


@_operation("delete records")
def delete_records(target: Target) -> bool:
    place = Place(target.topic, 0, 0)
    return _allowed(target, lambda client: client.delete_records([place], request_timeout=_TIMEOUT_S)[place])


@_operation("delete topic")
def delete_topic(target: Target) -> bool:
    return _allowed(
        target, lambda client: client.delete_topics([target.topic], request_timeout=_TIMEOUT_S)[target.topic]
    )
