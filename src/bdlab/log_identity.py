"""Whether a broker's log is the one that the tables know: by its topic id, or by a record that is in both.

Pure: a `KnownLog` comes from the tables, and `ReadRecords` reads at the broker."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from bdlab.events import Record
from bdlab.ledger import LogPartition, LogRange

ADVICE = (
    "If it is the same log nevertheless, run `bdlab migrate --adopt-log`; if the broker was restored from an "
    "older copy or the topic was created again, `bdlab migrate --new-log` (either with --of-feedback for that topic); "
    "then start `bdlab consume` again."
)


class KnownRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the tables have at `offset`: the key of a row or a duplicate, or a dead letter's key and value."""

    offset: int
    id: str = ""
    """Of the prediction, which is the record's key."""
    key: bytes | None = None
    value: bytes | None = None

    def matches(self, record: Record) -> bool:
        if self.id:
            return record.key == self.id.encode()
        return (record.key, record.value) == (self.key, self.value)


class KnownLog(msgspec.Struct, frozen=True, kw_only=True):
    """What the tables know of a log that is, or may be, the broker's. `recorded`: the tables have a position of it.
    `adopted`: an administrator said that it is the same. `records` has for each partition the newest recorded position
    that the broker still has."""

    topic_id: str
    recorded: bool
    adopted: bool = False
    records: Mapping[int, KnownRecord] = {}


ReadRecords = Callable[[Mapping[int, int]], Mapping[int, Record]]
"""Read the record at one offset of each partition, if the broker still has it. Raises BrokerError."""
CheckLog = Callable[[Sequence[LogRange], ReadRecords], Mapping[int, str]]
"""Return, for each partition of the topic that is not the known one, the reason."""


class LogCatalog(Protocol):
    def known(self, ranges: Sequence[LogRange]) -> KnownLog | None:
        """Return what is known of the log with these ranges, of all partitions; None if it is new."""


def match_log(log: LogPartition, candidates: Iterable[LogPartition]) -> LogPartition | None:
    """Return the one of `candidates` that `log` is, or may be if a topic id is not known; None if none is."""
    same = [one for one in candidates if one[:3] == log[:3]]
    exact = next((one for one in same if one.topic_id == log.topic_id), None)
    return exact or next((one for one in same if not (one.topic_id and log.topic_id)), None)


def refusals(ranges: Sequence[LogRange], known: KnownLog | None, look: ReadRecords) -> dict[int, str]:
    """Return, for each partition that is not proved to be the known one, the reason with offsets and ids. Raises
    BrokerError."""
    if known is None or not known.recorded:
        return {}
    records = look({partition: one.offset for partition, one in known.records.items()})
    differ = {p for p, record in records.items() if not known.records[p].matches(record)}
    found = {one.partition: one for one in ranges}
    reasons = {p: _differs(found[p], known, records[p]) for p in sorted(differ)}
    # An administrator, or the topic id, says that it is the same log.
    if known.adopted or (known.topic_id and known.topic_id == ranges[0].topic_id) or (records and not differ):
        return reasons
    return {p: reasons.get(p) or _unproved(found[p], known) for p in sorted(found)}


def _differs(found: LogRange, known: KnownLog, record: Record) -> str:
    stored = known.records[found.partition]
    key = "none" if record.key is None else record.key[:60].decode("utf-8", "backslashreplace")
    what = f"id {stored.id}" if stored.id else "a dead letter"
    return (
        f"offset {stored.offset} of {found.topic} partition {found.partition} is recorded as {what}, and "
        f"the broker has another record there (key {key}): {_ids(found, known)}. {ADVICE}"
    )


def _unproved(found: LogRange, known: KnownLog) -> str:
    return (
        f"{found.topic} partition {found.partition} (offsets {found.start} to {found.end}) is not proved to "
        f"be the log that is recorded, as no record is known to be in both: {_ids(found, known)}. {ADVICE}"
    )


def _ids(found: LogRange, known: KnownLog) -> str:
    recorded = f"the recorded one {known.topic_id or 'not known'} (cluster {found.cluster_id})"
    return f"the broker's topic id is {found.topic_id or 'none'}, {recorded}"
