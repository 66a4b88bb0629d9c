"""The sink's loop: poll, decode, store, acknowledge."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import msgspec
import structlog

from bdlab import errors
from bdlab.events import Position, Record
from bdlab.ledger import Accepted, DeadLetter, Entry, Fence, LogPartition, LogRange, Stored, fences, log_partition, runs
from bdlab.log_identity import ReadRecords, refusals
from bdlab.retry import AWAY, Backoff, Outage
from bdlab.settings import SinkSettings
from bdlab.sink.batches import decode_entry, split_by_size, split_refused
from bdlab.sink.metrics import SinkMetrics
from bdlab.sink.protocols import BatchStore, EventSource
from bdlab.tracing import Spans

#: Worth a retry with the same batch: a server is away, or the credentials have to be replaced.
_RETRIABLE = (errors.DatabaseUnavailable, errors.VaultUnavailable)
_LONGEST_PAUSE_S = 2.0
_READ_CONTRACT_EVERY_S = 1.0
_IDS_IN_LOG = 10
_LETTERS_IN_LOG = 5
log = structlog.get_logger()


class Sink:
    """Stores the records of its source, each position once. `run()` is for one thread."""

    def __init__(
        self, store: BatchStore, settings: SinkSettings, metrics: SinkMetrics | None = None, spans: Spans | None = None
    ) -> None:
        self._batches = store
        self._settings = settings
        self._metrics = metrics or SinkMetrics()
        self._span_of_batch = spans.processing if spans else nullcontext
        self._span_of_store = spans.storing if spans else nullcontext
        self._expected: dict[LogPartition, int] = {}
        self._recorded: dict[LogPartition, int] = {}
        self._stopped: dict[LogPartition, str] = {}
        self._read_contract_at = math.inf
        self._ends: Mapping[LogPartition, int] = {}
        self._beat = time.monotonic()
        self._reading = Outage("waiting for what the sink needs", "going on")
        self._storing = Outage("batch not stored yet", "going on")

    @property
    def idle_s(self) -> float:
        """Return the seconds since the last turn of the loop, which makes several a second."""
        return time.monotonic() - self._beat

    @property
    def recorded(self) -> dict[LogPartition, int]:
        """Return the next offset of each partition that is assigned now. For any thread."""
        return dict(self._recorded)

    def note_ends(self, ends: Mapping[LogPartition, int]) -> None:
        """Note the logs' ends, which are stored with the next batch. For any thread."""
        self._ends = dict(ends)

    def check_log(self, ranges: Sequence[LogRange], read_records: ReadRecords) -> Mapping[int, str]:
        """Return which partitions are not proved to be those that the store knows, each with the reason. These are not
        stored. Raises what `BatchStore.known` and `read_records` raise."""
        known = self._batches.known(ranges)
        refused = refusals(ranges, known, read_records)
        if known is not None and not refused and ranges[0].topic_id and not known.topic_id:
            self._batches.confirm(ranges)
            log.info("the log is the known one", topic=ranges[0].topic, topic_id=ranges[0].topic_id)
        return refused

    def positions(self, assigned: Sequence[Position]) -> list[Position]:
        """Return where the source has to start each of its assigned partitions. `assigned` has all of them. Raises what
        `BatchStore.start_offsets` raises."""
        starts = self._batches.start_offsets(assigned)
        self._batches.read_contract()  # from now on nothing but additions can change it
        self._expected = {log_partition(start): start.offset for start in starts}
        self._recorded = dict(self._expected)
        self._stopped.clear()
        self._read_contract_at = math.inf
        log.info("partitions start", at={start.partition: start.offset for start in starts})
        return starts

    def run(
        self, source: EventSource, stop: threading.Event, *, until_idle: bool = False, patience_s: float = 60.0
    ) -> Stored:
        """Run until `stop` is set, and return how much was recorded. A batch that was begun is finished. With
        `until_idle`, return once the assigned partitions are read to their ends; then raises BrokerUnavailable if for
        `patience_s` seconds no broker answers or the group gives no partition, and OffsetOutOfRange if a partition had
        to be stopped. Raises DatabaseDenied, SchemaOutdated, BrokerRefused, and VaultErrors that no retry will cure."""
        total = Stored()
        backoff = Backoff(longest_s=_LONGEST_PAUSE_S)
        answered = given = time.monotonic()
        while not stop.is_set():
            self._beat = time.monotonic()
            try:
                self._read_contract(source)
                records = source.poll(self._settings.batch_size, self._settings.batch_wait_s)
            except AWAY as error:
                self._pause(error, backoff, stop, self._reading)
                given = time.monotonic()
                continue
            backoff.reset()
            self._reading.over()
            self._forget_others(source.assigned)
            self._metrics.stopped(self._reasons(source))
            if source.problem is None:
                answered = time.monotonic()
            if source.assigned or source.problem is not None:
                given = time.monotonic()
            if records:
                total += self._store_new(source, records, stop)
            elif until_idle and source.at_end:
                if not (reasons := self._reasons(source)):
                    break
                told = "; ".join(f"partition {number}: {reason}" for number, reason in sorted(reasons.items()))
                hint = "`bdlab verify` shows what is stored; docs/accounting.md says how to go on."
                raise errors.OffsetOutOfRange(f"not all of the topic could be stored: {told}", hint=hint)
            elif until_idle and source.problem is not None and time.monotonic() - answered > patience_s:
                raise source.problem
            elif until_idle and time.monotonic() - given > patience_s:
                hint = "`bdlab verify --wait 60` says when they have stored everything."
                why = f"the group gave this consumer no partition for {patience_s:g} s: others have them all"
                raise errors.BrokerUnavailable(why, hint=hint)
        return total

    def _read_contract(self, source: EventSource) -> None:
        """If an event is held, read the contract again, and if that changed, all from what is stored on."""
        if time.monotonic() < self._read_contract_at:
            return
        self._read_contract_at = time.monotonic() + _READ_CONTRACT_EVERY_S
        if self._batches.read_contract():
            log.info("the database has another contract", number=self._batches.codec.contract.number)
            source.rewind()

    def _forget_others(self, assigned: frozenset[int]) -> None:
        """Drop the partitions that another consumer has now, which reports on them itself."""
        for known in (self._recorded, self._stopped):
            for at in [at for at in known if at.partition not in assigned]:
                del known[at]

    def _store_new(self, source: EventSource, records: Sequence[Record], stop: threading.Event) -> Stored:
        """Store what is new in `records`, and acknowledge it."""
        total = Stored()
        for run in split_by_size(self._new_entries(records)):
            try:
                total += self._store(source, run, stop)
            except errors.FenceLost as lost:
                log.warning("fence lost: reading again from what is stored", problem=lost.message)
                self._metrics.fence_lost()
                source.rewind()
                break
            except _RETRIABLE as error:
                # Only if `stop` is set. Nothing of it was committed: the next consumer reads it again.
                log.warning("stopping with a batch that could not be stored", problem=error.message)
                break
        return total

    def _new_entries(self, records: Sequence[Record]) -> list[Entry]:
        """Return the entries of those `records` that come next in their partitions. A gap or an event of a later
        version stops the partition, so that nothing is skipped or misjudged."""
        entries: list[Entry] = []
        codec = self._batches.codec
        for at, begin, end in runs([record.position for record in records]):
            offset = records[begin].position.offset
            expected = self._expected.setdefault(at, offset)
            if at in self._stopped:
                continue
            if offset > expected:
                self._stop(at, f"offsets {expected} to {offset - 1} are missing in the log")
                continue
            known = len(entries)
            try:
                for record in records[begin + expected - offset : end]:
                    entries.append(decode_entry(codec, record))
            except errors.EventTooNew as newer:
                self._stop(at, f"offset {record.position.offset}: {newer.message}")
                self._read_contract_at = min(self._read_contract_at, time.monotonic())
            self._expected[at] = expected + len(entries) - known
        return entries

    def _stop(self, at: LogPartition, reason: str) -> None:
        self._stopped[at] = reason
        log.error("partition stopped", partition=at.partition, topic=at.topic, reason=reason)

    def _store(self, source: EventSource, batch: list[Entry], stop: threading.Event) -> Stored:
        """Store `batch`, in smaller and smaller parts if rows in it are refused."""
        pending = deque([batch])
        total = Stored()
        while pending:
            part = pending.popleft()
            try:
                with self._span_of_batch(part):
                    total += self._commit(source, part, stop)
            except errors.RowRejected as refusal:
                pending.extendleft(reversed(split_refused(part, refusal)))
        return total

    def _commit(self, source: EventSource, part: list[Entry], stop: threading.Event) -> Stored:
        """Store `part` in one transaction; retry until that succeeds or `stop` is set."""
        backoff = Backoff(longest_s=_LONGEST_PAUSE_S)
        began = time.monotonic()
        while True:
            self._beat = time.monotonic()
            try:
                with self._span_of_store(part):
                    result = self._batches.store(part, ends=self._ends)
                break
            except _RETRIABLE as error:
                if stop.is_set():
                    raise
                self._pause(error, backoff, stop, self._storing)
        self._storing.over()
        seconds = time.monotonic() - began
        advance = fences(part)
        self._recorded |= {fence.log: fence.next for fence in advance}
        source.acknowledge([fence.log.at(fence.next) for fence in advance])
        self._report(part, advance, result, seconds)
        return result

    def _pause(self, error: errors.BdlabError, backoff: Backoff, stop: threading.Event, outage: Outage) -> None:
        self._metrics.retried(error)
        outage.failed(error)
        backoff.wait(stop)

    def _report(self, part: list[Entry], advance: Sequence[Fence], result: Stored, seconds: float) -> None:
        letters = [entry for entry in part if isinstance(entry, DeadLetter)]
        self._metrics.stored(result, letters, seconds)
        for letter in letters[:_LETTERS_IN_LOG]:
            at, why = letter.record.position, {"reason": letter.reason, "sqlstate": letter.sqlstate}
            log.warning("dead letter", partition=at.partition, offset=at.offset, **why)
        events = [entry.event for entry in part if isinstance(entry, Accepted)]
        named = {"ids": [str(event.id) for event in events]} if len(events) <= _IDS_IN_LOG else {}
        log.info(
            "batch stored",
            **msgspec.structs.asdict(result),
            seconds=round(seconds, 4),
            offsets={fence.log.partition: f"{fence.expected}-{fence.next - 1}" for fence in advance},
            **named,
        )
        if not named and log.is_enabled_for(logging.DEBUG):
            log.debug("events stored", ids=[str(event.id) for event in events])

    def _reasons(self, source: EventSource) -> dict[int, str]:
        """Return why each stopped partition is stopped."""
        return dict(source.stopped) | {at.partition: reason for at, reason in self._stopped.items()}
