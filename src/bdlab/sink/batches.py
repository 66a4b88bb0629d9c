"""Batches of the sink: decode records, split by size, and split around a row that is refused. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bdlab.errors import InvalidEvent, RowRejected
from bdlab.events import Codec, Record, read_headers
from bdlab.ledger import Accepted, DeadLetter, Entry

MAX_TRANSACTION_BYTES = 8 << 20
"""The most bytes of values in one transaction, so that huge values do not fill the memory."""
_REASON_CHARACTERS = 500


def decode_entry(codec: Codec[Any], record: Record) -> Entry:
    """Return the decoded record, or a dead letter if it is no event. Raises EventTooNew."""
    try:
        told = read_headers(record.headers)
        return Accepted(record, *codec.decode(record, told), told)
    except InvalidEvent as error:
        return DeadLetter(record=record, reason=_shortened(error.message))


def split_by_size(entries: Iterable[Entry], max_bytes: int = MAX_TRANSACTION_BYTES) -> Iterator[list[Entry]]:
    """Yield runs of at most `max_bytes` of values, or of a single entry if that alone is larger."""
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


def split_refused(batch: Sequence[Entry], refusal: RowRejected) -> list[list[Entry]]:
    """Return the batches to store, in this order, instead of `batch`, in which the database refused a row. These are
    its two halves; or, if only one row can be the cause, the batch with that row as a dead letter. If the batch has no
    row but dead letters only, raises `refusal`."""
    suspects = [index for index, entry in enumerate(batch) if isinstance(entry, Accepted)]
    if not suspects:
        raise refusal
    if len(suspects) == 1:
        culprit = batch[suspects[0]]
        letter = DeadLetter(
            record=culprit.record,
            reason=_shortened(f"the database refuses the row: {refusal.message}"),
            sqlstate=refusal.sqlstate,
        )
        return [[letter if entry is culprit else entry for entry in batch]]
    middle = suspects[len(suspects) // 2]
    return [list(batch[:middle]), list(batch[middle:])]


def _shortened(reason: str) -> str:
    """A reason may quote the record, and a record may be of any length."""
    return reason if len(reason) <= _REASON_CHARACTERS else reason[:_REASON_CHARACTERS] + "..."
