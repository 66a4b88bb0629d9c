"""What the sink needs of its source and of its store."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bdlab.errors import BrokerError
from bdlab.events import Position, Record
from bdlab.ledger import Entry, LogPartition, LogRange, Stored
from bdlab.log_identity import LogCatalog


class EventSource(Protocol):
    """Gives the records of its assigned partitions, from the positions that `Sink.positions` returns."""

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """Return at most `max_records` that come within `timeout_s`, ascending within a partition. Raises what
        `Sink.positions` raises, and a BrokerError that no retry will cure."""

    def rewind(self) -> None:
        """Drop what was read ahead, and ask `Sink.positions` again where each partition starts."""

    def acknowledge(self, positions: Sequence[Position]) -> None:
        """Commit to the broker the next positions to read; only lag tools use them."""

    @property
    def assigned(self) -> frozenset[int]: ...

    @property
    def at_end(self) -> bool:
        """Whether each assigned partition was read to its end or is stopped; false if none is assigned."""

    @property
    def stopped(self) -> Mapping[int, str]:
        """The assigned partitions that cannot be read on, each with the reason."""

    @property
    def problem(self) -> BrokerError | None:
        """Why no records come now; None if the broker answers."""


class BatchStore(LogCatalog, Protocol):
    """Records batches, each position once."""

    codec: Any
    """The `Codec` of the events that are stored; only `read_contract` changes it."""

    def read_contract(self) -> bool:
        """Read the database's contract again, and return whether it is another. Raises as `start_offsets`."""

    def confirm(self, ranges: Sequence[LogRange]) -> None:
        """Note the topic id of a log that is proved to be the known one. Raises as `start_offsets`."""

    def start_offsets(self, assigned: Sequence[Position]) -> list[Position]:
        """Return where each partition goes on; a new one begins at its log's start, which `assigned` gives. Reads the
        contract again too. Raises DatabaseUnavailable, DatabaseDenied and VaultError."""

    def store(self, batch: Sequence[Entry], *, ends: Mapping[LogPartition, int] | None = None) -> Stored:
        """Record all of `batch` or nothing; `ends` has the logs' ends, if they are known. Retry after
        DatabaseUnavailable and VaultUnavailable. Raises RowRejected if the content of a row is refused, and FenceLost
        if a partition does not stand where the batch begins. DatabaseDenied, SchemaOutdated and other VaultErrors need
        somebody to act."""
