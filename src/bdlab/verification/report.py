"""What `verify` found."""

from __future__ import annotations

import msgspec


class PartitionReport(msgspec.Struct, frozen=True, kw_only=True):
    """One partition of the log that the broker has now. Offsets; `end` was read before the counts.

    `first_offset` and `next_offset` are None for a partition that no consumer was ever given.
    """

    cluster_id: str
    topic: str
    partition: int
    log_start: int
    end: int
    first_offset: int | None
    next_offset: int | None
    stored: int
    duplicates: int
    dead_letters: int
    pruned: int
    topic_id: str = ""
    problems: tuple[str, ...] = ()


class ClosedPartition(msgspec.Struct, frozen=True, kw_only=True):
    """A partition of a log that the broker has no more, as of a memory-only broker that was restarted.

    `lost` events are known to have been in it and were never recorded. There may have been more: those that
    came after the sink last saw the log's end.
    """

    cluster_id: str
    topic: str
    partition: int
    first_offset: int | None
    next_offset: int | None
    stored: int
    duplicates: int
    dead_letters: int
    pruned: int
    lost: int
    topic_id: str = ""
    problems: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`verified` where there is no problem anywhere. `waited_s` for a consumer to catch up."""

    verified: bool
    partitions: tuple[PartitionReport, ...]
    closed: tuple[ClosedPartition, ...] = ()
    waited_s: float = 0.0

    @property
    def problems(self) -> list[str]:
        """All of them, each naming its partition."""
        current = [f"partition {one.partition}: {text}" for one in self.partitions for text in one.problems]
        former = [
            f"partition {one.partition} of the closed log {one.cluster_id}"
            f"{f' (topic id {one.topic_id})' if one.topic_id else ''}: {text}"
            for one in self.closed
            for text in one.problems
        ]
        return current + former
