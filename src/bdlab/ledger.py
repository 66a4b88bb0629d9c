"""What the sink gives to a store, and the account that a store gives of each partition. Pure.

A position of the topic is *recorded* once it is a row, a duplicate or a dead letter. Offsets are dense, so
a partition balances if the recorded positions are exactly those from its first to its next offset."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from bdlab.events import Event, Position, Record, Told

REPLAY_HEADER = "bdlab-replay-count"
"""Header of a replayed dead letter: how often it has been sent back, in decimal ASCII."""


class LogPartition(NamedTuple):
    """One partition of a log, which is one topic of one cluster between its creation and its deletion. Offsets are
    unique in it. A topic that is deleted and made again is another log."""

    cluster_id: str
    topic: str
    partition: int
    topic_id: str = ""

    def at(self, offset: int) -> Position:
        """Return the position at `offset`."""
        return Position(self.cluster_id, self.topic, self.partition, offset, self.topic_id)


class LogRange(msgspec.Struct, frozen=True, order=True):
    """The offsets of a partition: `start` is the first one there, `end` the next one to be written."""

    cluster_id: str
    topic: str
    partition: int
    start: int
    end: int
    topic_id: str = ""


def log_partition(place: Position | LogRange) -> LogPartition:
    """Return the partition of a position or range."""
    return LogPartition(place.cluster_id, place.topic, place.partition, place.topic_id)


def runs(positions: Sequence[Position]) -> Iterator[tuple[LogPartition, int, int]]:
    """Yield each run of consecutive offsets of one partition: the partition, and the run's slice."""
    begin = 0
    for index, (one, other) in enumerate(pairwise(positions), 1):
        if (
            other.offset - one.offset != 1
            or other.partition != one.partition
            or other.cluster_id != one.cluster_id
            or other.topic != one.topic
            or other.topic_id != one.topic_id
        ):
            yield log_partition(one), begin, index
            begin = index
    if positions:
        yield log_partition(positions[begin]), begin, len(positions)


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """A record that was decoded. It keeps the record, as the database may still refuse the row. `fields` is what
    PlainJson found in the record's value, and `told` what its headers tell; None if nobody looked."""

    record: Record
    event: Event
    fields: re.Match[bytes] | None = None
    told: Told | None = None


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A record that cannot become a row. `sqlstate` is empty if it could not even be decoded."""

    record: Record
    reason: str
    sqlstate: str = ""


Entry = Accepted | DeadLetter


class Fence(msgspec.Struct, frozen=True):
    """The advance of one partition by a batch: `expected` has to be its next offset, `next` will be."""

    log: LogPartition
    expected: int
    next: int


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """How much a batch wrote. Positions that were recorded before are not counted."""

    rows: int = 0
    duplicates: int = 0
    dead_letters: int = 0

    def __add__(self, other: Stored) -> Stored:
        return Stored(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})


def fences(batch: Iterable[Entry]) -> list[Fence]:
    """Return the advance of each partition in `batch`, in the order in which their rows are to be locked. Raises
    ValueError if the offsets of a partition do not ascend without a gap."""
    first: dict[LogPartition, int] = {}
    after: dict[LogPartition, int] = {}
    positions = [entry.record.position for entry in batch]
    for log, begin, end in runs(positions):
        offset = positions[begin].offset
        first.setdefault(log, offset)
        if after.setdefault(log, offset) != offset:
            raise ValueError(f"offset {offset} of {log} does not follow {after[log] - 1}")
        after[log] = offset + end - begin
    return [Fence(log, first[log], after[log]) for log in sorted(first)]


def replay_count(record: Record) -> int:
    """Return how often this event was sent back as a dead letter; 0 without a readable header."""
    for name, value in record.headers:
        if name == REPLAY_HEADER and value is not None and value.isdigit() and len(value) < 6:
            return int(value)
    return 0


class Gap(msgspec.Struct, frozen=True):
    """Offsets from `first` to `last`, both included, that are recorded nowhere."""

    first: int
    last: int


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """A position that is recorded twice, or outside its partition's range."""

    offset: int
    tables: tuple[str, ...]
    ids: tuple[str, ...] = ()
    """Of the predictions that claim the position; a dead letter has none."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What is recorded of one partition, read in one snapshot. `first_offset` and `next_offset` are None if rows exist
    and the partition is not in `sink_offsets`. The counts include rows that retention has deleted; for offsets below
    `pruned_to` its checkpoint stands in for them. `end_seen` is the highest end of the log that the sink saw.
    `missing`, `twice` and `outside` are cut to a limit; the counts beside them are complete."""

    log: LogPartition
    first_offset: int | None
    next_offset: int | None
    closed: bool = False
    end_seen: int = 0
    stored: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    pruned: int = 0
    pruned_to: int | None = None
    missing_count: int = 0
    missing: tuple[Gap, ...] = ()
    twice_count: int = 0
    twice: tuple[Sighting, ...] = ()
    outside_count: int = 0
    outside: tuple[Sighting, ...] = ()

    @property
    def recorded(self) -> int:
        return self.stored + self.duplicates + self.dead_letters

    @property
    def balanced(self) -> bool:
        """Whether each offset from the first to the next is recorded once, and no other."""
        if self.first_offset is None or self.next_offset is None:
            return False
        return self.recorded == self.next_offset - self.first_offset and not (
            self.missing_count or self.twice_count or self.outside_count
        )
