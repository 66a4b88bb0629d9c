"""Where the log ends, by reading up to it."""

from __future__ import annotations

import time
from collections.abc import Mapping

from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaException, TopicPartition

from bdlab.credentials import KafkaLogin
from bdlab.errors import BrokerRefused, BrokerUnavailable
from bdlab.kafka.connection import PARTITION_EOF, broker_error, client_config


def reader(login: KafkaLogin, *, client_id: str, group: str) -> Client:
    """A client that reads partitions it assigns to itself, never as a member of `group`.

    It names the group all the same, so as to read the group's committed offsets.
    """
    return Client(
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


def watermarks(client: Client, topic: str, partition: int, timeout_s: float) -> tuple[int, int]:
    """The first offset of the log, and its end as the broker reports it. Raises BrokerError."""
    try:
        return client.get_watermark_offsets(TopicPartition(topic, partition), timeout=timeout_s)
    except KafkaException as error:
        raise broker_error(error, f"asking for the offsets of {topic!r} partition {partition}") from error


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
            for message in client.consume(10_000, timeout=min(left, 0.05)):
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
