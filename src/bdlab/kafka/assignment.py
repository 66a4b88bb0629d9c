"""The partitions that the group assigned to a consumer: how far each was read, and why it stopped."""

from collections.abc import Callable, Sequence
from datetime import datetime

import structlog
from confluent_kafka import Message

from bdlab.events import Position, Record
from bdlab.kafka.log_reader import to_record
from bdlab.ledger import LogPartition
from bdlab.log_identity import ADVICE

log = structlog.get_logger()

StartPositions = Callable[[Sequence[Position]], Sequence[Position]]


class Assignment:
    """The state of the assigned partitions. `started`: they were given their start positions (true without partitions).
    `unconfirmed`: records that were read, and that the topic is not yet known to hold. `next`: the offset to be read
    next of each partition that is read. `ended`: the partitions that were read to their ends."""

    def __init__(self, partitions: frozenset[int] = frozenset()) -> None:
        self.partitions = partitions
        self.started = not partitions
        self.stopped: dict[int, str] = {}
        self.unconfirmed: list[Record] = []
        self.next: dict[int, int] = {}
        self.ended: set[int] = set()

    @property
    def at_end(self) -> bool:
        """Whether each partition was read to its end or is stopped; false without partitions."""
        return bool(self.partitions) and self.started and self.partitions <= self.ended | set(self.stopped)

    def stop(self, partition: int, reason: str) -> None:
        """Note, and log once, why a partition cannot be read on."""
        if partition not in self.stopped:
            log.error("partition stopped", partition=partition, reason=reason)
        self.stopped[partition] = reason

    def take(self, message: Message, log: LogPartition, read_at: datetime) -> Record | None:
        """Return the record, of the topic of `log`, if it is the next one of its partition, else None."""
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None or partition in self.stopped or offset != self.next.get(partition):
            return None
        self.next[partition] = offset + 1
        self.ended.discard(partition)
        return to_record(message, Position(log.cluster_id, log.topic, partition, offset, log.topic_id), read_at)


def out_of_range(topic: str, partition: int, offset: int, start: int, end: int) -> str:
    """Return why the next offset to store is not in the log, with the numbers."""
    what = (
        f"{start - offset} events were deleted at the broker before they were stored"
        if offset < start
        else f"the log is shorter than what was stored from it. {ADVICE}"
    )
    return (
        f"the next offset to store of {topic} partition {partition} is {offset}, "
        f"and the broker's log has {start} to {end}: {what}"
    )
