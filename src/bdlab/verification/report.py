"""The result of `verify`."""

import msgspec


class _Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Offsets, and how many records each table has of a partition.

    `first_offset` and `next_offset` are None for a partition that was never assigned to a consumer.
    """

    cluster_id: str
    topic: str
    partition: int
    first_offset: int | None = None
    next_offset: int | None = None
    stored: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    pruned: int = 0
    topic_id: str = ""
    problems: tuple[str, ...] = ()


class PartitionReport(_Counts, frozen=True, kw_only=True):
    """A partition of the log that the broker has now, which begins at `log_start` and had this `end` before
    the tables were counted.
    """

    log_start: int
    end: int


class ClosedPartition(_Counts, frozen=True, kw_only=True):
    """A partition of a log that the broker has no longer, as after the restart of a broker without a disk.

    `lost` events are known to have been in it and were never recorded. There may have been more, after the
    consumer last saw the end of the log.
    """

    lost: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`verified` if there is no problem. `waited_s` is the time spent waiting for a consumer."""

    verified: bool
    partitions: tuple[PartitionReport, ...]
    closed: tuple[ClosedPartition, ...] = ()
    waited_s: float = 0.0

    @property
    def problems(self) -> list[str]:
        """All problems, each with its partition."""
        current = [f"partition {one.partition}: {text}" for one in self.partitions for text in one.problems]
        former = [
            f"partition {one.partition} of the closed log {one.cluster_id}"
            f"{f' (topic id {one.topic_id})' if one.topic_id else ''}: {text}"
            for one in self.closed
            for text in one.problems
        ]
        return current + former
