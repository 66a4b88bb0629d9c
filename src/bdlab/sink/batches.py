"""Batches: decoding, cutting by size, and bisecting down to the row that the database refuses. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bdlab.errors import InvalidEvent, RowRejected
from bdlab.events import Record, decode
from bdlab.ledger import Accepted, DeadLetter, Entry

MAX_TRANSACTION_BYTES = 8 << 20
"""Values of a batch beyond this go into another transaction, so that memory stays flat beside huge values."""

_REASON_CHARACTERS = 500


def entry_of(record: Record) -> Entry:
    """The record decoded, or the dead letter that it is. Raises EventTooNew."""
    try:
        return Accepted(record, decode(record))
    except InvalidEvent as error:
        return DeadLetter(record=record, reason=_bounded(error.message))


def by_size(entries: Iterable[Entry], max_bytes: int = MAX_TRANSACTION_BYTES) -> Iterator[list[Entry]]:
    """Cut into runs of at most `max_bytes` of values, or of a single entry where that alone is larger."""
    run: list[Entry] = []
    size = 0
    for entry in entries:
        more = len(entry.record.value or b"")
        if run and size + more > max_bytes:
            yield run
            run, size = [], 0
        run.append(entry)
        size += more
    if run:
        yield run


def narrowed(batch: Sequence[Entry], refusal: RowRejected) -> list[list[Entry]]:
    """What to store instead of `batch`, in this order, after the database refused the content of a row in it.

    Two halves; or, where only one row is left to blame, the batch with that row as a dead letter. A batch of
    dead letters alone has no such row: raises `refusal`.
    """
    suspects = [index for index, entry in enumerate(batch) if isinstance(entry, Accepted)]
    if not suspects:
        raise refusal
    if len(suspects) == 1:
        guilty = batch[suspects[0]]
        letter = DeadLetter(
            record=guilty.record,
            reason=_bounded(f"the database refuses the row: {refusal.message}"),
            sqlstate=refusal.sqlstate,
        )
        return [[letter if entry is guilty else entry for entry in batch]]
    middle = suspects[len(suspects) // 2]
    return [list(batch[:middle]), list(batch[middle:])]


def _bounded(reason: str) -> str:
    """A reason may quote the record, and a record may be of any length."""
    return reason if len(reason) <= _REASON_CHARACTERS else reason[:_REASON_CHARACTERS] + "..."
