"""Whether a broker's log is the one that the tables know: by its topic id, and by a record that both hold.

Pure: `Known` comes from the tables, `Look` reads at the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from bdlab.events import Record
from bdlab.ledger import LogPartition, LogRange

ADVICE = (
    "If it is the same log all the same, run `bdlab migrate --adopt-log`; if the broker was restored from an "
    "older copy or the topic made anew, `bdlab migrate --new-log`; then start `bdlab consume` again."
)


class Witness(msgspec.Struct, frozen=True, kw_only=True):
    """What is recorded at `offset`: the id of a row or a duplicate, or a dead letter's key and value."""

    offset: int
    id: str = ""
    key: bytes | None = None
    value: bytes | None = None

    def matches(self, record: Record) -> bool:
        if self.id:
            return record.key == self.id.encode()
        return (record.key, record.value) == (self.key, self.value)


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the tables know of a broker's log, or of the one that it may be.

    `recorded`: there is something of it. `adopted`: an administrator said that it is the same. `witnesses`
    has for each partition the newest position that is recorded and that the broker has, too.
    """

    topic_id: str
    recorded: bool
    adopted: bool = False
    witnesses: Mapping[int, Witness] = {}


Look = Callable[[Mapping[int, int]], Mapping[int, Record]]
"""The records at one offset of each partition, as far as the broker still has them. Raises BrokerError."""

Prove = Callable[[Sequence[LogRange], Look], Mapping[int, str]]
"""Why partitions cannot be taken for what the tables know of them, given the ranges of all of the topic's."""


class Knowledge(Protocol):
    def known(self, ranges: Sequence[LogRange]) -> Known | None:
        """What is known of the log with these ranges, all partitions of a topic; None for a new one."""
        ...


def match(log: LogPartition, candidates: Iterable[LogPartition]) -> LogPartition | None:
    """The one of `candidates` that `log` is, or may be where a topic id is not known."""
    same = [one for one in candidates if one[:3] == log[:3]]
    exact = next((one for one in same if one.topic_id == log.topic_id), None)
    return exact or next((one for one in same if not (one.topic_id and log.topic_id)), None)


def is_proved(ranges: Sequence[LogRange], known: Known) -> bool:
    """Whether the topic id alone says that it is the same log."""
    return known.adopted or bool(known.topic_id and known.topic_id == ranges[0].topic_id)


def refusals(ranges: Sequence[LogRange], known: Known | None, look: Look) -> dict[int, str]:
    """For each partition that is not proved to be the known one the reason, naming offsets and ids.

    Raises BrokerError.
    """
    if known is None or not known.recorded:
        return {}
    records = look({partition: one.offset for partition, one in known.witnesses.items()})
    differ = {p for p, record in records.items() if not known.witnesses[p].matches(record)}
    found = {one.partition: one for one in ranges}
    if is_proved(ranges, known):
        return {p: _differs(found[p], known, records[p]) for p in sorted(differ)}
    if records and not differ:
        return {}
    return {
        p: _differs(found[p], known, records[p]) if p in differ else _unproved(found[p], known)
        for p in sorted(found)
    }


def _differs(found: LogRange, known: Known, record: Record) -> str:
    witness = known.witnesses[found.partition]
    key = "none" if record.key is None else record.key[:60].decode("utf-8", "backslashreplace")
    what = f"id {witness.id}" if witness.id else "a dead letter"
    return (
        f"offset {witness.offset} of {found.topic} partition {found.partition} is recorded as {what}, and "
        f"the broker has another record there (key {key}): {_ids(found, known)}. {ADVICE}"
    )


def _unproved(found: LogRange, known: Known) -> str:
    return (
        f"{found.topic} partition {found.partition} (offsets {found.start} to {found.end}) is not proved to "
        f"be the log that is recorded, as no record is known to be in both: {_ids(found, known)}. {ADVICE}"
    )


def _ids(found: LogRange, known: Known) -> str:
    return (
        f"the broker's topic id is {found.topic_id or 'none'}, the recorded one "
        f"{known.topic_id or 'not known'} (cluster {found.cluster_id})"
    )
