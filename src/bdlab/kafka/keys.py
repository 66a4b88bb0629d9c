"""The keys of single records, looked up by offset."""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaException, TopicPartition

from bdlab.kafka.connection import broker_error


def keys_at(
    client: Client, topic: str, partition: int, offsets: Iterable[int], timeout_s: float
) -> dict[int, bytes]:
    """The keys of the records at `offsets`, as far as the log still has them and time allows.

    `client` is one of `ends.reader()`. Raises BrokerError.
    """
    deadline = time.monotonic() + timeout_s
    found: dict[int, bytes] = {}
    try:
        for offset in sorted(offsets):
            client.assign([TopicPartition(topic, partition, offset)])
            # The first message is the record, or says that there is none.
            message = client.poll(max(0.0, deadline - time.monotonic()))
            if message is None:
                break
            key = message.key()
            if message.error() is None and message.offset() == offset and key is not None:
                found[offset] = bytes(key)
    except KafkaException as error:
        raise broker_error(error, f"looking up records of topic {topic!r}") from error
    finally:
        client.unassign()
    return found
