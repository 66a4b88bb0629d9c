"""Single records, looked up by offset."""

from __future__ import annotations

import time
from collections.abc import Mapping

from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaException, Message, TopicPartition

from bdlab.errors import BrokerUnavailable
from bdlab.kafka.connection import AUTO_OFFSET_RESET, PARTITION_EOF, broker_error


def messages_at(
    client: Client, topic: str, places: Mapping[int, int], timeout_s: float
) -> dict[int, Message]:
    """The message at one offset of each partition, if the log has it.

    `client` is one of `ends.reader()`. Raises BrokerUnavailable if not all have answered within `timeout_s`
    seconds, and BrokerError.
    """
    deadline = time.monotonic() + timeout_s
    found: dict[int, Message] = {}
    waiting = set(places)
    try:
        client.assign([TopicPartition(topic, partition, offset) for partition, offset in places.items()])
        while waiting:
            if time.monotonic() >= deadline:
                raise BrokerUnavailable(
                    f"topic {topic!r}: no answer within {timeout_s:g} s of partitions {sorted(waiting)}"
                )
            for message in client.consume(100, 0.05):
                # The first message of each is the record, or says that there is none.
                partition, error = message.partition(), message.error()
                if error is not None and error.code() not in (PARTITION_EOF, AUTO_OFFSET_RESET):
                    raise broker_error(error, f"looking up records of topic {topic!r}")
                if partition in waiting:
                    waiting.discard(partition)
                    if error is None and message.offset() == places[partition]:
                        found[partition] = message
    except KafkaException as error:
        raise broker_error(error, f"looking up records of topic {topic!r}") from error
    finally:
        client.unassign()
    return found
