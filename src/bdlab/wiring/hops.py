"""The search for a prediction over the real servers, for `bdlab trace` and the console."""

import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from bdlab.deadletters import DeadLetterFilter
from bdlab.errors import BrokerError, BrokerUnavailable
from bdlab.events import Position, Record, read_headers
from bdlab.hops import Trace, Wanted, made_at, parse, trace_of
from bdlab.kafka.admin import Admin
from bdlab.ledger import LogRange, log_partition
from bdlab.log_identity import match_log
from bdlab.postgres.deadletters import DeadLetters
from bdlab.postgres.reader import Reader
from bdlab.postgres.session import ConnectionLimits
from bdlab.vault.session import VaultSession


def trace(
    session: VaultSession,
    stop: threading.Event,
    asked: str,
    *,
    since: datetime,
    look_s: float,
    records: dict[Position, Record] | None = None,
) -> list[Trace]:
    """Return what became of what `asked` names; of a trace of its first 100 predictions. Rows of a trace are looked for
    `since` a moment, and what is not stored on the topic, for `look_s` seconds. `records` gets those found."""
    wanted = parse(asked)
    limits = ConnectionLimits(statement_s=600, silence_s=900)  # a trace id has no index
    with (
        Admin(session, client_id="bdlab-trace") as admin,
        Reader(session, application_name="bdlab trace", limits=limits) as reader,
        DeadLetters(session) as letters,
    ):
        search = _Search(wanted, admin, reader, {} if records is None else records)
        topic = session.kafka().server.topic
        found = [*search.rows(topic, since), *search.letters(letters, topic)]
        if wanted.trace_id or not found:
            found += search.on_topic(look_s, stop, found=bool(found))
        return found or [search.nowhere()]


class _Search:
    def __init__(self, wanted: Wanted, admin: Admin, reader: Reader, records: dict[Position, Record]) -> None:
        self._wanted, self._admin, self._reader, self._records = wanted, admin, reader, records
        self._key, self._looked = wanted.id, ""
        self._ranges: dict[int, LogRange] = {}
        self._away: BrokerError | None = None
        try:
            self._ranges = {one.partition: one for one in admin.log_ranges()}
        except BrokerError as error:
            self._away = error
        following = reader.next_offsets()
        logs = [(held, match_log(log_partition(held), following)) for held in self._ranges.values()]
        self._next = {held.partition: max(following[log] if log else 0, held.start) for held, log in logs}

    def rows(self, topic: str, since: datetime) -> Iterator[Trace]:
        wanted = self._wanted
        for row in self._reader.ask("traced", **wanted._asdict(), topic=topic, since=since):
            at, key = Position(**{name: row[name] for name in Position.__struct_fields__}), str(row["id"])
            same = wanted.partition is None or (wanted.partition, wanted.offset) == (at.partition, at.offset)
            self._key = None if wanted.trace_id else key
            fields: dict[str, Any] = {"outcome": "stored" if same else "duplicate", "duplicates": row["duplicates"]}
            yield trace_of(row, *self._record(at, key), position=at, duplicate_of=None if same else at, **fields)

    def _record(self, at: Position, key: str) -> tuple[Record | None, str]:
        """Return the record there, or why there is none with this key."""
        if (held := self._ranges.get(at.partition)) is None or not held.start <= at.offset < held.end:
            return None, f"the broker does not tell: {self._away.message}" if self._away else "no more on the topic"
        try:
            record = next(self._admin.records_from(held, {at.partition: at.offset}, 5.0), None)
        except BrokerError as error:
            return None, f"the broker does not tell: {error.message}"
        if record is None or record.key != key.encode():
            return None, "the topic has another record there"
        self._records[at] = record
        return record, ""

    def letters(self, letters: DeadLetters, topic: str) -> Iterator[Trace]:
        at = {"partition": self._wanted.partition, "offset": self._wanted.offset}
        which: dict[str, Any] = {"key": self._key.encode()} if self._key else at
        wanted = DeadLetterFilter(topic=topic, **which)
        for one in [] if self._wanted.trace_id else letters.find(wanted, limit=100):
            fields: dict[str, Any] = {"outcome": "dead letter", "position": one.record.position, "reason": one.reason}
            self._records[one.record.position] = one.record
            replayed = "{}/{}".format(*one.replayed_to) if one.replayed_to else ""
            yield trace_of({"stored_at": one.recorded_at}, one.record, replayed_to=replayed, **fields)

    def on_topic(self, look_s: float, stop: threading.Event, *, found: bool) -> Iterator[Trace]:
        """Yield what is on the topic from the next offsets on, or at the position."""
        if self._away and not found:
            raise self._away
        wanted, offsets, count, left = self._wanted, self._next, 0, ""
        if wanted.partition is not None:
            there = offsets.get(wanted.partition, wanted.offset + 1) <= wanted.offset
            offsets = {wanted.partition: wanted.offset} if there else {}
        try:
            for record in self._admin.records_from(min(self._ranges.values()), offsets, look_s) if offsets else ():
                key, trace, at = record.key or b"", read_headers(record.headers)[3] or b"", record.position
                asked = wanted.id or wanted.trace_id or ""
                same = wanted.partition is not None or asked.encode() == (trace if wanted.trace_id else key)
                if same:
                    self._records[at] = record
                    ahead = at.offset - self._next[at.partition]
                    yield trace_of({}, record, outcome="on the topic", position=at, ahead=ahead)
                count += 1
                if stop.is_set() or (same and not wanted.trace_id):
                    break
        except BrokerUnavailable:
            left = f", not to their end within {look_s:g} s (--look)"
        self._looked = f"looked through {count} events that are not stored yet{left}"

    def nowhere(self) -> Trace:
        """Return whether it was pruned, as far as that is known, or never seen."""
        wanted, (kept,) = self._wanted, self._reader.ask("kept")
        made, pruned_at = made_at(wanted.id), kept["pruned_at"]
        if pruned_at and made and made < (kept["oldest"] or pruned_at):
            why = f"it was made at {made}, before the oldest row that `bdlab prune` has left"
        elif pruned_at and wanted.partition is not None and wanted.offset < self._next.get(wanted.partition, 0):
            why = f"`bdlab prune` was last at work at {pruned_at}"
        else:
            return Trace(outcome="never seen", reason=self._looked, id=wanted.id or "")
        return Trace(outcome="pruned", reason=why, id=wanted.id or "")
