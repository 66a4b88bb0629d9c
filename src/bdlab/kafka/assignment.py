"""The partitions that the group gave a consumer: where each starts, how far it was read, why it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller

import structlog
from confluent_kafka import Consumer as Client
from confluent_kafka import Message

from bdlab.credentials import KafkaLogin
from bdlab.events import Headers, Position, Record
from bdlab.kafka.connection import fetch_metadata
from bdlab.kafka.log_reader import reader, reported_ranges, true_ends
from bdlab.kafka.records import messages_at
from bdlab.ledger import LogRange, log_partition
from bdlab.log_identity import ADVICE, CheckLog, ReadRecords

log = structlog.get_logger()

UNREADABLE_HEADERS = "bdlab-unreadable-headers"
"""Stands for the headers of a record where one of their names is not UTF-8."""

StartPositions = Callable[[Sequence[Position]], Sequence[Position]]

ASK_TIMEOUT_S = 5.0
"""How long one question to the broker may take while a consumer is at work."""


class Assignment:
    """`started`: the partitions were given their start positions; where there are none that is vacuous."""

    def __init__(self, partitions: frozenset[int] = frozenset()) -> None:
        self.partitions = partitions
        self.started = not partitions
        self.stopped: dict[int, str] = {}
        self.unconfirmed: list[Record] = []
        """Read, and not yet known to be of the topic that this was started for."""
        self._next: dict[int, int] = {}
        self._ended: set[int] = set()

    def restart(self) -> None:
        """Forget how far it was read: start positions have to be asked for again."""
        self.started = not self.partitions
        self.unconfirmed = []
        self.stopped.clear()
        self._next.clear()
        self._ended.clear()

    def start(self, offsets: dict[int, int]) -> None:
        self._next = dict(offsets)
        self.started = True

    @property
    def at_end(self) -> bool:
        return bool(self.partitions) and self.started and self.partitions <= self._ended | set(self.stopped)

    def end(self, partition: int) -> None:
        self._ended.add(partition)

    def stop(self, partition: int, reason: str) -> None:
        if partition not in self.stopped:
            log.error("partition stopped", partition=partition, reason=reason)
        self.stopped[partition] = reason

    def next_offset(self, partition: int) -> int:
        """The offset to be read next, -1 where the partition is not read."""
        return self._next.get(partition, -1)

    def gap(self, message: Message) -> int:
        """How many offsets are missing between what was read last and `message`."""
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None or partition not in self._next:
            return 0
        return max(0, offset - self._next[partition])

    def take(self, message: Message, cluster_id: str, topic_id: str) -> Record | None:
        """The record, where it is one that was not read yet; what an earlier assignment left over is none."""
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if topic is None or partition is None or offset is None:
            return None
        if partition in self.stopped or not 0 <= self.next_offset(partition) <= offset:
            return None
        self._next[partition] = offset + 1
        self._ended.discard(partition)
        return record_of(message, Position(cluster_id, topic, partition, offset, topic_id))


def record_of(message: Message, position: Position) -> Record:
    key, value = message.key(), message.value()
    return Record(
        position,
        key.encode() if isinstance(key, str) else key,
        value.encode() if isinstance(value, str) else value,
        _headers(message),
    )


#: Called from C, where CPython checks that a result comes without an error. A direct call is specialised and
#: skips the check, and what confluent_kafka then returns for such a name crashes the interpreter.
_read_headers = methodcaller("headers")


def _headers(message: Message) -> Headers:
    try:
        return tuple(_read_headers(message) or ())
    except (SystemError, UnicodeDecodeError):
        return ((UNREADABLE_HEADERS, None),)


def record_lookup(client: Client, found: LogRange, timeout_s: float) -> ReadRecords:
    """Look up records of the topic of `found` with `client`, one of `ends.reader()`."""

    def look(places: Mapping[int, int]) -> dict[int, Record]:
        if not places:
            return {}
        messages = messages_at(client, found.topic, places, timeout_s)
        log = log_partition(found)
        return {
            partition: record_of(message, log._replace(partition=partition).at(places[partition]))
            for partition, message in messages.items()
        }

    return look


def ask_starts(  # noqa: PLR0917 - one caller, which has just these
    client: Client,
    login: KafkaLogin,
    cluster_id: str,
    topic_id: str,
    assignment: Assignment,
    positions: StartPositions,
    prove: CheckLog | None,
    *,
    client_id: str,
) -> dict[int, int]:
    """Ask `positions` where to start, and stop in `assignment` each partition whose log has no such place, or
    is not proved by `prove` to be the one that is recorded.

    Gives the offsets of the others. Raises BrokerError, and what `positions` and `prove` raise.
    """
    topic = login.server.topic
    scout = reader(login, client_id=f"{client_id}-ends", group=login.server.group)
    try:
        refused: Mapping[int, str] = {}
        if prove is not None:
            # Of all partitions: one that nobody can compare any more is proved by another.
            metadata = fetch_metadata(client, server=login.server, timeout_s=ASK_TIMEOUT_S)
            every = metadata.topics[topic].partitions if topic in metadata.topics else assignment.partitions
            ranges = [
                LogRange(cluster_id, topic, partition, low, end, topic_id)
                for partition, (low, end) in reported_ranges(client, topic, every, ASK_TIMEOUT_S).items()
            ]
            refused = prove(ranges, record_lookup(scout, ranges[0], ASK_TIMEOUT_S))
        log_range = reported_ranges(client, topic, assignment.partitions, ASK_TIMEOUT_S)
        answer = positions(
            [
                Position(cluster_id, topic, partition, low, topic_id)
                for partition, (low, _) in log_range.items()
                if partition not in refused
            ]
        )
        starts = {position.partition: position.offset for position in answer}
        # The end that a broker reports may be too low, never too high: read on where that matters.
        ends = {partition: end for partition, (_, end) in log_range.items()}
        unsure = {partition: end for partition, end in ends.items() if starts.get(partition, end) > end}
        if unsure:
            ends |= true_ends(scout, topic, unsure, ASK_TIMEOUT_S)
    finally:
        scout.close()
    for partition, (low, _) in log_range.items():
        if partition in refused:
            assignment.stop(partition, refused[partition])
        elif partition not in starts:
            assignment.stop(partition, "the store gave no position to start at")
        elif not low <= starts[partition] <= ends[partition]:
            reason = out_of_range(topic, partition, starts.pop(partition), low, ends[partition])
            assignment.stop(partition, reason)
    return starts


def out_of_range(topic: str, partition: int, offset: int, start: int, end: int) -> str:
    """The sentence that names the numbers."""
    what = (
        f"{start - offset} events were deleted at the broker before they were stored"
        if offset < start
        else f"the log is shorter than what was stored from it. {ADVICE}"
    )
    return (
        f"the next offset to store of {topic} partition {partition} is {offset}, "
        f"and the broker's log has {start} to {end}: {what}"
    )
