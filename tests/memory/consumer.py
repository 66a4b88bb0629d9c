"""A consumer of a topic in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from bdlab.errors import BrokerError, BrokerUnavailable
from bdlab.events import Position, Record
from bdlab.ledger import log_partition
from bdlab.log_identity import CheckLog
from tests.memory.log import MemoryLog


class MemoryConsumer:
    """Twin of `bdlab.kafka.consumer.Consumer`: the same group, assignment and start positions."""

    def __init__(
        self,
        log: MemoryLog,
        *,
        positions: Callable[[Sequence[Position]], Sequence[Position]],
        check_log: CheckLog | None = None,
    ) -> None:
        self._log = log
        self._check_log = check_log
        self._positions = positions
        self._assigned: frozenset[int] = frozenset()
        self._generation = 0
        self._next: dict[int, int] = {}
        self._stopped: dict[int, str] = {}
        self._started = True
        self._problem: BrokerError | None = None

    @property
    def assigned(self) -> frozenset[int]:
        return self._assigned

    @property
    def stopped(self) -> Mapping[int, str]:
        return dict(self._stopped)

    @property
    def problem(self) -> BrokerError | None:
        return self._problem

    @property
    def at_end(self) -> bool:
        with self._log.changed:
            if not self._assigned or not self._started or not self._log.online:
                return False
            ends = {found.partition: found.end for found in self._log.log_ranges()}
            return all(offset >= ends[partition] for partition, offset in self._next.items())

    def open(self) -> None:
        self._log.join(self)

    def close(self) -> None:
        self._log.leave(self)

    def __enter__(self) -> MemoryConsumer:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reassign(self, partitions: frozenset[int]) -> None:
        """What the group says, on the thread of whoever joined or left."""
        with self._log.changed:
            self._assigned = partitions
            self.rewind()

    def rewind(self) -> None:
        with self._log.changed:
            self._generation += 1
            self._started = not self._assigned
            self._next.clear()
            self._stopped.clear()

    def acknowledge(self, positions: Sequence[Position]) -> None:
        with self._log.changed:
            for position in positions:
                if position.cluster_id == self._log.cluster_id and position.partition in self._assigned:
                    self._log.committed[position.partition] = position.offset

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        deadline = time.monotonic() + timeout_s
        records: list[Record] = []
        generation = self._generation
        while True:
            seen = self._log.version
            if generation != self._generation:
                records.clear()
                generation = self._generation
            try:
                if not self._started:
                    self._start(generation)
                records += self._take(max_records - len(records))
                self._problem = None
            except BrokerUnavailable as error:
                self._problem = error
            left = deadline - time.monotonic()
            if left <= 0 or len(records) >= max_records:
                return records
            self._log.wait_for_change(seen, left)

    def _take(self, limit: int) -> list[Record]:
        records: list[Record] = []
        with self._log.changed:
            for partition, offset in list(self._next.items()):
                found = self._log.read(partition, offset, limit - len(records))
                records += found
                self._next[partition] = offset + len(found)
        return records

    def _look(self, places: Mapping[int, int]) -> Mapping[int, Record]:
        found = {number: self._log.read(number, offset, 1) for number, offset in places.items()}
        return {number: records[0] for number, records in found.items() if records}

    def _start(self, generation: int) -> None:
        with self._log.changed:
            assigned = self._assigned
            ranges = {found.partition: found for found in self._log.log_ranges()}
        refused: Mapping[int, str] = {}
        if self._check_log is not None:
            refused = self._check_log(list(ranges.values()), self._look)
        first = [log_partition(ranges[number]).at(ranges[number].start) for number in sorted(assigned - refused.keys())]
        starts = {position.partition: position.offset for position in self._positions(first)}
        with self._log.changed:
            if generation != self._generation:
                return
            for number in sorted(assigned):
                found = ranges[number]
                if number in refused:
                    self._stopped[number] = refused[number]
                elif found.start <= starts[number] <= found.end:
                    self._next[number] = starts[number]
                else:
                    self._stopped[number] = (
                        f"the next offset to store of {found.topic} partition {number} is {starts[number]}, "
                        f"and the log has {found.start} to {found.end}"
                    )
            self._started = True
