"""Offset accounting: proves with numbers that each position of the topics is recorded once.

The ends of the broker's log are read first. All offsets below them have to be recorded once the consumer has passed
them, so that the count is right beside a running pipeline: it is one snapshot, and later records only add to it."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol

import msgspec

from bdlab.ledger import Account, Gap, LogPartition, LogRange, Sighting, log_partition
from bdlab.log_identity import ADVICE, LogCatalog, ReadRecords, match_log, refusals
from bdlab.retry import tries

_IDS = 20


class _Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Offsets, and how many records each table has of a partition. `first_offset` and `next_offset` are None for a
    partition that was never assigned to a consumer. `missing`, `twice` and `outside` are cut to a limit."""

    cluster_id: str
    topic: str
    partition: int
    first_offset: int | None = None
    next_offset: int | None = None
    stored: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    pruned: int = 0
    missing_count: int = 0
    missing: tuple[Gap, ...] = ()
    twice_count: int = 0
    twice: tuple[Sighting, ...] = ()
    outside_count: int = 0
    outside: tuple[Sighting, ...] = ()
    topic_id: str = ""
    problems: tuple[str, ...] = ()


class PartitionReport(_Counts, frozen=True, kw_only=True):
    """A partition of the log that the broker has now, which begins at `log_start` and had this `end` before
    the tables were counted."""

    log_start: int
    end: int


class ClosedPartition(_Counts, frozen=True, kw_only=True):
    """A partition of a log that the broker has no longer, as after the restart of a broker without a disk. `lost`
    events are known to have been in it and were never recorded. There may have been more, after the consumer last saw
    the end of the log."""

    lost: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`verified` if there is no problem. `waited_s` is the time spent waiting for a consumer. `unknown_feedback` counts
    the feedback whose prediction is not stored, or no longer, which is no problem."""

    verified: bool
    partitions: tuple[PartitionReport, ...]
    closed: tuple[ClosedPartition, ...] = ()
    waited_s: float = 0.0
    unknown_feedback: int = 0

    @property
    def problems(self) -> list[str]:
        """All problems, each with its partition."""
        current = [f"{one.topic}/{one.partition}: {text}" for one in self.partitions for text in one.problems]
        former = [
            f"{one.topic}/{one.partition} of the closed log {one.cluster_id}"
            f"{f' (topic id {one.topic_id})' if one.topic_id else ''}: {text}"
            for one in self.closed
            for text in one.problems
        ]
        return current + former


class Tables(LogCatalog, Protocol):
    """What the database has of the partitions, and of the broker's log."""

    def next_offsets(self) -> Mapping[LogPartition, int]:
        """Return how far each partition is recorded now."""

    def accounts(self, *, limit: int) -> Sequence[Account]:
        """Return the account of each partition, in one snapshot, with at most `limit` faults of a kind."""


def verify(
    ranges: Callable[[], Sequence[LogRange]],
    books: Tables,
    *,
    wait_s: float = 0.0,
    limit: int = 20,
    read_records: Callable[[LogRange], ReadRecords] | None = None,
    stop: threading.Event | None = None,
) -> Report:
    """Compare the broker's log with the database and return the result. `ranges` returns those of all topics. `wait_s`
    is how many seconds to wait for a running consumer to pass the ends; `limit` bounds each list of offsets;
    `read_records` returns a function that reads records, to prove that the log is the recorded one and to name the
    events that are missing. Raises BrokerError, DatabaseError and VaultError."""
    current = {log_partition(found): found for found in ranges()}
    waited = _await_consumer(current, books, wait_s, stop or threading.Event())
    proofs: dict[str, tuple[ReadRecords | None, Mapping[int, str]]] = {}
    for topic, logs in groupby(sorted(current), lambda log: log.topic):
        found = [current[log] for log in logs]
        read = read_records(found[0]) if read_records else None
        proofs[topic] = read, refusals(found, books.known(found), read) if read else {}
    every = books.accounts(limit=limit)
    usable = {account.log: account for account in every if not account.closed}
    accounts = {log: usable[held] for log in current if (held := match_log(log, usable)) is not None}
    later: Mapping[LogPartition, int] = {}
    if any((account.next_offset or 0) > current[log].end for log, account in accounts.items()):
        # More is recorded than the first ends allow.
        later = {log_partition(found): found.end for found in ranges()}
    partitions = tuple(
        _partition(current[log], later.get(log), accounts.get(log), *proofs[log.topic]) for log in sorted(current)
    )
    taken = [id(account) for account in accounts.values()]
    closed = tuple(
        ClosedPartition(
            **one.log._asdict(),
            **_counts(one),
            lost=max(0, one.end_seen - (one.next_offset or 0)),
            problems=tuple(_imbalance(one, None)),
        )
        for one in every
        if id(one) not in taken
    )
    troubled = any(one.problems for one in (*partitions, *closed))
    return Report(verified=not troubled, partitions=partitions, closed=closed, waited_s=round(waited, 3))


def _await_consumer(
    current: Mapping[LogPartition, LogRange], books: Tables, wait_s: float, stop: threading.Event
) -> float:
    """Wait until each partition's end is recorded, at most `wait_s`. Return the seconds that it took."""
    began = time.monotonic()
    for _ in tries(wait_s, stop=stop) if wait_s else ():
        following = books.next_offsets()
        behind = [
            log
            for log, found in current.items()
            if (following[held] if (held := match_log(log, following)) else found.start) < found.end
        ]
        if not behind:
            break
    return time.monotonic() - began


def _partition(
    found: LogRange,
    later_end: int | None,
    account: Account | None,
    read: ReadRecords | None,
    refused: Mapping[int, str],
) -> PartitionReport:
    log = log_partition(found)
    problems = [refused[log.partition]] if log.partition in refused else []
    if account is None or account.next_offset is None or account.first_offset is None:
        if found.end > found.start:
            problems.append(
                f"it was never assigned to a consumer: offsets {found.start} to {found.end - 1} "
                f"({found.end - found.start} events) are not recorded"
            )
    else:
        first, following, start, end = account.first_offset, account.next_offset, found.start, found.end
        if following < start:
            lost = f"offsets {following} to {start - 1} were deleted by the broker's retention"
            problems.append(f"{lost} before they were recorded")
        if following < end:
            missing = f"{end - max(following, start)} events are not recorded yet"
            problems.append(f"next_offset is {following} and the log's end was {end}: {missing}")
        if later_end is not None and following > later_end:
            beyond = f"next_offset is {following}, beyond the log's end, {later_end}"
            problems.append(f"{beyond}: rows claim positions that no event has. {ADVICE}")
        if first > start:
            unread = f"{first - start} events before it were never read"
            problems.append(f"first_offset is {first} and the log starts at {start}: {unread}")
    if account is not None:
        problems += _imbalance(account, read)
    return PartitionReport(
        **log._asdict(), **_counts(account), log_start=found.start, end=found.end, problems=tuple(problems)
    )


def _counts(account: Account | None) -> dict[str, Any]:
    names = set(_Counts.__struct_fields__) & set(Account.__struct_fields__)
    return {name: getattr(account, name) for name in names} if account else {}


def _imbalance(account: Account, read: ReadRecords | None) -> list[str]:
    problems = []
    if account.missing_count:
        offsets = [offset for gap in account.missing for offset in range(gap.first, gap.last + 1)][:_IDS]
        shown = ", ".join(
            f"{gap.first}" if gap.first == gap.last else f"{gap.first} to {gap.last}" for gap in account.missing
        )
        partition = account.log.partition
        found = {offset: read({partition: offset}).get(partition) for offset in offsets} if read else {}
        keys = {offset: one.key.decode("utf-8", "backslashreplace") for offset, one in found.items() if one and one.key}
        known = ", ".join(f"{key} at {offset}" for offset, key in keys.items())
        problems.append(
            f"{account.missing_count} recorded nowhere: offsets {shown}" + (f" (ids {known})" if known else "")
        )
    if account.twice_count:
        problems.append(f"{account.twice_count} recorded twice: {'; '.join(map(_sighting, account.twice))}")
    if account.outside_count:
        shown = "; ".join(map(_sighting, account.outside))
        if account.first_offset is None:
            problems.append(f"{account.outside_count} rows without a line in sink_offsets: {shown}")
        else:
            base = account.first_offset if account.pruned_to is None else account.pruned_to
            problems.append(f"{account.outside_count} recorded outside of [{base}, {account.next_offset}): {shown}")
    if not problems and account.first_offset is not None and not account.balanced:
        problems.append(
            f"stored {account.stored} + duplicates {account.duplicates} + dead letters {account.dead_letters}"
            f" is not next_offset {account.next_offset} - first_offset {account.first_offset}"
        )
    return problems


def _sighting(one: Sighting) -> str:
    ids = f", id {' and '.join(one.ids)}" if one.ids else ""
    return f"offset {one.offset} ({' and '.join(one.tables)}{ids})"
