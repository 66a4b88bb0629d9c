"""The store in memory: what `bdlab.postgres.store.Store` and its reader keep in tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID

from bdlab.errors import DatabaseError, FenceLost, RowRejected
from bdlab.events import Event, Position
from bdlab.ledger import (
    Accepted,
    Account,
    DeadLetter,
    Entry,
    Gap,
    LogPartition,
    LogRange,
    Sighting,
    Stored,
    fences,
    log_partition,
)
from bdlab.log_identity import KnownLog, KnownRecord, match_log
from tests.samples import REVIEWS

_ROW = ["predictions"]


class MemoryStore:
    """Twin of the Postgres store, and the `Tables` of its accounts.

    `refuses` stands for a constraint: rows for which it is true raise RowRejected (SQLSTATE 23514). Set
    `failure` to have every call raise it, as if the server were away, and `migrated` to another contract's
    codec as if the database had it. `commits` counts the transactions.
    """

    def __init__(self, *, refuses: Callable[[Event], bool] = lambda _event: False) -> None:
        self._refuses = refuses
        self.failure: DatabaseError | None = None
        self.codec = self.migrated = REVIEWS
        self.commits = 0
        self.predictions: dict[UUID, tuple[Position, Event]] = {}
        self.duplicates: dict[Position, UUID] = {}
        self.dead_letters: dict[Position, DeadLetter] = {}
        self.first: dict[LogPartition, int] = {}
        self.next: dict[LogPartition, int] = {}
        self.end_seen: dict[LogPartition, int] = {}

    def open(self) -> None:
        self._fail()

    def close(self) -> None:
        pass

    def read_contract(self) -> bool:
        self._fail()
        before, self.codec = self.codec, self.migrated
        return before is not self.codec

    def known(self, ranges: Sequence[LogRange]) -> KnownLog | None:
        self._fail()
        held = match_log(log_partition(ranges[0]), [log._replace(partition=ranges[0].partition) for log in self.first])
        if held is None:
            return None
        records: dict[int, KnownRecord] = {}
        for at, tables in sorted(self._recorded().items(), key=lambda item: item[0].offset):
            found = next((one for one in ranges if one.partition == at.partition), None)
            if found is None or log_partition(at) != held._replace(partition=at.partition):
                continue
            if found.start <= at.offset < found.end:
                letter = self.dead_letters[at].record if "dead_letters" in tables else None
                records[at.partition] = (
                    KnownRecord(offset=at.offset, key=letter.key, value=letter.value)
                    if letter is not None
                    else KnownRecord(offset=at.offset, id=self._ids(log_partition(at), at.offset)[0])
                )
        recorded = any(self.next[log] > first for log, first in self.first.items() if log[:2] == held[:2])
        return KnownLog(topic_id=held.topic_id, recorded=recorded, records=records)

    def confirm(self, ranges: Sequence[LogRange]) -> None:
        self._fail()
        cluster_id, topic, _, topic_id = log_partition(ranges[0])

        def named(log: LogPartition) -> LogPartition:
            return log._replace(topic_id=topic_id) if log == (cluster_id, topic, log.partition, "") else log

        def at(position: Position) -> Position:
            return named(log_partition(position)).at(position.offset)

        for kept in (self.first, self.next, self.end_seen):
            renamed = {named(log): offset for log, offset in kept.items()}
            kept.clear()
            kept.update(renamed)
        self.predictions = {key: (at(where), event) for key, (where, event) in self.predictions.items()}
        self.duplicates = {at(where): key for where, key in self.duplicates.items()}
        self.dead_letters = {at(where): letter for where, letter in self.dead_letters.items()}

    def start_offsets(self, assigned: Sequence[Position]) -> list[Position]:
        self._fail()
        for position in assigned:
            log = log_partition(position)
            self.first.setdefault(log, position.offset)
            self.next.setdefault(log, position.offset)
            self.end_seen.setdefault(log, position.offset)
        return [log_partition(position).at(self.next[log_partition(position)]) for position in assigned]

    def store(self, batch: Sequence[Entry], *, ends: Mapping[LogPartition, int] | None = None) -> Stored:
        self._fail()
        advance = fences(batch)
        accepted = [entry for entry in batch if isinstance(entry, Accepted)]
        if any(self.next.get(fence.log) != fence.expected for fence in advance):
            raise FenceLost("a batch begins where its partitions no longer stand")
        recorded = self._recorded()
        # A position that is a duplicate or a dead letter already stays what it is.
        fresh = [entry for entry in accepted if recorded.get(entry.record.position, _ROW) == _ROW]
        if any(self._refuses(entry.event) for entry in fresh):
            raise RowRejected("the row violates a constraint", sqlstate="23514")
        for fence in advance:
            self.next[fence.log] = fence.next
            self.end_seen[fence.log] = max(self.end_seen[fence.log], fence.next, (ends or {}).get(fence.log, 0))
        rows = duplicates = letters = 0
        for entry in sorted(fresh, key=lambda entry: (entry.event.id, entry.record.position)):
            position = entry.record.position
            if entry.event.id not in self.predictions:
                self.predictions[entry.event.id] = (position, entry.event)
                rows += 1
            elif self.predictions[entry.event.id][0] != position:
                self.duplicates[position] = entry.event.id
                duplicates += 1
        for letter in batch:
            if isinstance(letter, DeadLetter) and letter.record.position not in recorded:
                self.dead_letters[letter.record.position] = letter
                letters += 1
        self.commits += 1
        return Stored(rows=rows, duplicates=duplicates, dead_letters=letters)

    def next_offsets(self) -> Mapping[LogPartition, int]:
        self._fail()
        return dict(self.next)

    def accounts(self, *, limit: int) -> Sequence[Account]:
        self._fail()
        recorded = self._recorded()
        logs = sorted(self.first.keys() | {log_partition(position) for position in recorded})
        return [
            self._account(
                log, {at.offset: tables for at, tables in recorded.items() if log_partition(at) == log}, limit
            )
            for log in logs
        ]

    def _account(self, log: LogPartition, recorded: Mapping[int, list[str]], limit: int) -> Account:
        first, following = self.first.get(log), self.next.get(log)
        inside = {offset for offset in recorded if (first or 0) <= offset < (following or 0)}
        outside = [
            Sighting(offset=offset, tables=(table,), ids=self._ids(log, offset))
            for offset in sorted(recorded.keys() - inside)
            for table in recorded[offset]
        ]
        twice = [
            Sighting(offset=offset, tables=tuple(recorded[offset]), ids=self._ids(log, offset))
            for offset in sorted(inside)
            if len(recorded[offset]) > 1
        ]
        missing = [offset for offset in range(first or 0, following or 0) if offset not in inside]
        counts = {
            table: sum(table in recorded[offset] for offset in inside)
            for table in ("predictions", "duplicates", "dead_letters")
        }
        return Account(
            log=log,
            first_offset=first,
            next_offset=following,
            end_seen=self.end_seen.get(log, 0),
            stored=counts["predictions"],
            duplicates=counts["duplicates"],
            dead_letters=counts["dead_letters"],
            missing_count=len(missing),
            missing=tuple(_gaps(missing))[:limit],
            twice_count=len(twice),
            twice=tuple(twice[:limit]),
            outside_count=len(outside),
            outside=tuple(outside[:limit]),
        )

    def _recorded(self) -> dict[Position, list[str]]:
        """Each recorded position, and the tables that it is in."""
        found: dict[Position, list[str]] = {}
        for position, _ in self.predictions.values():
            found.setdefault(position, []).append("predictions")
        for position in self.duplicates:
            found.setdefault(position, []).append("duplicates")
        for position in self.dead_letters:
            found.setdefault(position, []).append("dead_letters")
        return found

    def _ids(self, log: LogPartition, offset: int) -> tuple[str, ...]:
        position = log.at(offset)
        ids = {str(key) for key, (at, _) in self.predictions.items() if at == position}
        if position in self.duplicates:
            ids.add(str(self.duplicates[position]))
        return tuple(sorted(ids))

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


def _gaps(missing: Iterable[int]) -> list[Gap]:
    gaps: list[Gap] = []
    for offset in missing:
        if gaps and gaps[-1].last == offset - 1:
            gaps[-1] = Gap(gaps[-1].first, offset)
        else:
            gaps.append(Gap(offset, offset))
    return gaps
