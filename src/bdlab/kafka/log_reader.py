"""Where the log ends, by reading up to it, and how far the group has come."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka import Consumer as Client

from bdlab.credentials import KafkaLogin
from bdlab.errors import BrokerRefused, BrokerUnavailable
from bdlab.kafka.admin_futures import LEAST_S
from bdlab.kafka.connection import (
    BROKER_GONE,
    PARTITION_EOF,
    TIMED_OUT,
    TRANSPORT,
    UNKNOWN_PARTITION,
    broker_error,
    client_config,
)
from bdlab.retry import tries

#: How long one question for committed offsets may take before a refusal is looked for.
_GROUP_ANSWER_S = 0.25
_FIRST_GROUP_ANSWER_S = 0.02
_RETRIABLE = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.OFFSET_NOT_AVAILABLE,
    UNKNOWN_PARTITION,
    # The leader of a partition has just died, or is not listed for a moment; another will take over.
    TRANSPORT,
    BROKER_GONE,
}


class LogReader(Client):
    """A consumer that takes partitions by itself and is no member of its group, which it has to name.

    `group_refused`: the broker has said that this user may not see the group. librdkafka tells so once, among
    the messages, and then repeats each question about the group until its time is over.
    """

    group_refused = False

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Message]:
        return [message for message in super().consume(num_messages, timeout) if not self._refusal(message)]

    def poll(self, timeout: float = -1) -> Message | None:
        message = super().poll(timeout)
        return super().poll(timeout) if message is not None and self._refusal(message) else message

    def _refusal(self, message: Message) -> bool:
        error = message.error()
        refused = error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED
        self.group_refused |= refused
        return refused


def reader(login: KafkaLogin, *, client_id: str, group: str) -> LogReader:
    """A client for `reported_ranges`, `true_ends` and `committed_offsets`."""
    return LogReader(
        client_config(login, client_id=client_id)
        | {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "allow.auto.create.topics": False,
            "fetch.wait.max.ms": 50,
            "queued.max.messages.kbytes": 16 << 10,
            "fetch.max.bytes": 16 << 20,
        }
    )


def reported_ranges(
    client: Client, topic: str, partitions: Iterable[int], timeout_s: float
) -> dict[int, tuple[int, int]]:
    """For each partition the first offset of its log, and the log's end as the broker reports it.

    `client` is any consumer. Raises BrokerError.
    """
    wanted = sorted(partitions)
    # As a time stamp each of the two asks for that end of the log.
    starts = _offsets(client, topic, wanted, OFFSET_BEGINNING, timeout_s)
    ends = _offsets(client, topic, wanted, OFFSET_END, timeout_s)
    return {partition: (starts[partition], ends[partition]) for partition in wanted}


def _offsets(
    client: Client, topic: str, partitions: Sequence[int], timestamp: int, timeout_s: float
) -> dict[int, int]:
    """One question for all partitions, put again while the topic is new or its leaders are moving."""
    for left_s in tries(timeout_s):
        places = [TopicPartition(topic, partition, timestamp) for partition in partitions]
        try:
            answer = client.offsets_for_times(places, timeout=max(LEAST_S, left_s))
            refusal = next((place.error for place in answer if place.error is not None), None)
        except KafkaException as error:
            refusal = error.args[0]
        if refusal is None:
            return {place.partition: place.offset for place in answer}
        problem = broker_error(refusal, f"asking for the offsets of topic {topic!r}")
        if refusal.code() not in _RETRIABLE:
            break
    raise problem


def true_ends(client: Client, topic: str, reported: Mapping[int, int], timeout_s: float) -> dict[int, int]:
    """The end (next offset to be written) of each partition, read from its `reported` end onwards.

    A broker may report an end that is too low (Tansu gives the first offset of its last batch). Where the
    user may not read the topic, the reported ends have to do. `client` is one of `reader()`.
    Raises BrokerUnavailable where the ends are not reached within `timeout_s` seconds.
    """
    ends = dict(reported)
    open_ends = set(reported)
    deadline = time.monotonic() + timeout_s
    client.assign([TopicPartition(topic, partition, offset) for partition, offset in reported.items()])
    try:
        while open_ends:
            left = deadline - time.monotonic()
            if left <= 0:
                raise BrokerUnavailable(
                    f"the end of topic {topic!r} was not reached within {timeout_s:g} s "
                    f"(partitions {sorted(open_ends)})",
                    hint="Check that the broker runs, and try again.",
                )
            # Not as many as come within a time: that would take all of it.
            for message in client.consume(1, timeout=min(left, 0.05)) + client.consume(10_000, timeout=0):
                partition, offset, error = message.partition(), message.offset(), message.error()
                if error is not None and error.code() != PARTITION_EOF:
                    found = broker_error(error, f"reading the end of topic {topic!r}")
                    if isinstance(found, BrokerRefused):
                        return dict(reported)
                    raise found
                if partition is None or offset is None:
                    continue
                if error is not None:
                    ends[partition] = max(ends[partition], offset)
                    open_ends.discard(partition)
                else:
                    ends[partition] = max(ends[partition], offset + 1)
    except KafkaException as error:
        raise broker_error(error, f"reading the end of topic {topic!r}") from error
    finally:
        client.unassign()
    return ends


def committed_offsets(
    client: LogReader, group: str, topic: str, partitions: Iterable[int], timeout_s: float
) -> dict[int, int]:
    """The group's committed offset of each partition; negative where there is none.

    Not by the administrative call, which would be refused at once: librdkafka 2.16 ends the whole process
    where the connection breaks in the middle of one that concerns a group (librdkafka pull request 5397).
    Raises BrokerRefused where this user may not see the group, and BrokerUnavailable.
    """
    places = [TopicPartition(topic, partition) for partition in partitions]
    deadline, patience_s = time.monotonic() + timeout_s, _FIRST_GROUP_ANSWER_S
    while not client.group_refused:
        left = deadline - time.monotonic()
        try:
            answer = client.committed(places, timeout=patience_s)
        except KafkaException as error:
            if error.args[0].code() not in {TIMED_OUT, BROKER_GONE} or left <= patience_s:
                raise broker_error(error, f"reading the offsets of group {group!r}") from error
            client.consume(1, 0)
            patience_s = min(2 * patience_s, _GROUP_ANSWER_S)
        else:
            return {place.partition: place.offset for place in answer}
    raise BrokerRefused(f"this user may not see group {group!r}")
