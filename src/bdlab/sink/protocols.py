"""What the sink needs of its two ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from bdlab.errors import BrokerError
from bdlab.events import Position, Record
from bdlab.identity import Knowledge
from bdlab.ledger import Entry, LogPartition, LogRange, Stored


class EventSource(Protocol):
    """Records of the partitions assigned to this consumer, from the positions that `Sink.positions` gives."""

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """At most `max_records`, as many as come within `timeout_s`; ascending within a partition.

        Raises what `Sink.positions` raises, and BrokerError where waiting is of no use.
        """
        ...

    def rewind(self) -> None:
        """Drop what was read ahead and start all assigned partitions at what `Sink.positions` says again."""
        ...

    def acknowledge(self, positions: Sequence[Position]) -> None:
        """Tell the broker the next positions to be read, for lag tools only."""
        ...

    @property
    def assigned(self) -> frozenset[int]: ...

    @property
    def at_end(self) -> bool:
        """Whether each assigned partition was read to its end or is stopped; false without any."""
        ...

    @property
    def stopped(self) -> Mapping[int, str]:
        """Partitions that cannot be read on, and why."""
        ...

    @property
    def problem(self) -> BrokerError | None:
        """Why there are no records just now; None where the broker answers."""
        ...


class BatchStore(Knowledge, Protocol):
    def confirm(self, ranges: Sequence[LogRange]) -> None:
        """Note the topic id of a log that is proved to be the known one. Raises as `start_offsets`."""
        ...

    def start_offsets(self, assigned: Sequence[Position]) -> list[Position]:
        """Where each partition goes on; one that is new begins at its log's start, as `assigned` has it.

        Raises DatabaseUnavailable, DatabaseDenied and VaultError.
        """
        ...

    def store(self, batch: Sequence[Entry], *, ends: Mapping[LogPartition, int] | None = None) -> Stored:
        """Record `batch`, all of it or nothing; `ends` are the logs' ends where they are known.

        Raises RowRejected (the content of one or more of the rows is refused), FenceLost (the partitions do
        not stand where the batch begins), DatabaseUnavailable and VaultUnavailable (worth a retry), and
        DatabaseDenied, SchemaOutdated and other VaultErrors (not worth one).
        """
        ...
