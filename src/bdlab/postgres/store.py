"""The sink's store: a batch is one transaction, and each position is recorded once."""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - named so by psycopg2
from psycopg2.extras import execute_values

from bdlab.contract import Contract
from bdlab.credentials import DatabaseCredentials
from bdlab.errors import FenceLost, RowRejected
from bdlab.events import Codec, Position, codec_of
from bdlab.ledger import (
    Accepted,
    DeadLetter,
    Entry,
    Fence,
    LogPartition,
    LogRange,
    Stored,
    fences,
    log_partition,
    replay_count,
)
from bdlab.log_identity import KnownLog
from bdlab.postgres.accounts import read_known
from bdlab.postgres.contracts import check_schema, read_contract
from bdlab.postgres.rows import MOMENTS, CopyLines, headers_json, printable
from bdlab.postgres.session import ConnectionLimits, Session, ask, queries, translate

_DEAD_LETTERS_A_STATEMENT = 200
_COPY_BYTES = 128 << 10
_TABLES = {"prediction": "predictions", "feedback": "feedback"}
"""Where the rows of each kind of event are."""


class Store(Session):
    """For one thread, with a login of bdlab_writer. `make_codec` makes the codec of the events that it stores, whose
    kind says in which table. To open it raises SchemaOutdated too."""

    codec: Any
    """The `Codec` of the events that are stored; only `read_contract` changes it, once the store was opened."""

    def __init__(
        self,
        credentials: DatabaseCredentials,
        *,
        make_codec: Callable[[Contract], Codec[Any]] = codec_of,
        idle_in_transaction_s: float = 5.0,
        limits: ConnectionLimits | None = None,
    ) -> None:
        """`idle_in_transaction_s` has to be below the consumer group's session time-out. So the server frees the locks
        of a consumer that froze before another gets its partitions."""
        limits = limits or ConnectionLimits(idle_in_transaction_s=idle_in_transaction_s)
        super().__init__(credentials, application_name="bdlab consume", limits=limits)
        self._make_codec = make_codec
        self._numbers: dict[LogPartition, int] = {}

    def _prepare(self, cursor: Cursor) -> None:
        check_schema(cursor, self.server)
        if not hasattr(self, "codec"):
            self._take(read_contract(cursor))
        cursor.execute(self._temporary_table)

    def _take(self, contract: Contract) -> None:
        self.codec = self._make_codec(contract)
        self._lines = CopyLines(self.codec.event)
        names, statements = self._lines.columns, queries("store")

        def listed(moment: str) -> sql.Composed:
            kinds = ((sql.SQL(moment if name in MOMENTS else "{}"), sql.Identifier(name)) for name in names)
            return sql.SQL(", ").join(kind.format(name) for kind, name in kinds)

        kind = self.codec.event.KIND
        table, incoming = sql.Identifier(_TABLES[kind]), listed("NULL::bigint AS {}")
        into: dict[str, Any] = {"table": table, "values": listed("to_timestamp({}::float8 / 1000000)")}
        self._temporary_table = sql.SQL(statements["temporary_table"]).format(columns=incoming, table=table)
        self._insert_rows = sql.SQL(statements["insert_rows"]).format(columns=listed("{}"), **into)
        self._insert_duplicates = sql.SQL(statements["insert_duplicates"]).format(kind=sql.Literal(kind), table=table)

    def read_contract(self) -> bool:
        """Read the database's contract again, and return whether it is another. Raises as `start_offsets`."""
        with self.transaction() as cursor:
            found = read_contract(cursor)
        if changed := bool(found != self.codec.contract):
            self._take(found)
            self.close()  # the next connection is prepared for it
        return changed

    def known(self, ranges: Sequence[LogRange]) -> KnownLog | None:
        """Return what is known of the log with these ranges. Raises as `start_offsets`."""
        with self.transaction() as cursor:
            return read_known(cursor, ranges)

    def confirm(self, ranges: Sequence[LogRange]) -> None:
        """Note the topic id of a log without one. Raises as `start_offsets`."""
        with self.transaction() as cursor:
            cursor.execute(queries("logs")["confirm"], msgspec.structs.asdict(ranges[0]))

    def start_offsets(self, assigned: Sequence[Position]) -> list[Position]:
        """Return where to go on in each partition; `assigned` has the log's start for those that are new. Raises
        DatabaseUnavailable, DatabaseDenied and VaultError."""
        logs = [log_partition(position) for position in assigned]
        with self.transaction() as cursor:
            self._numbers.clear()
            self._number(cursor, logs, new=True)
            numbers = [self._numbers[log] for log in logs]
            places = {
                "log_ids": numbers,
                "partitions": [position.partition for position in assigned],
                "log_starts": [position.offset for position in assigned],
            }
            cursor.execute(queries("store")["start"], places)
            found = ask(cursor, queries("store")["next_offsets"], places)
        following = {(log_id, partition): offset for log_id, partition, offset in found}
        return [log.at(following[self._numbers[log], log.partition]) for log in logs]

    def _number(self, cursor: Cursor, logs: Iterable[LogPartition], *, new: bool) -> None:
        """Find the log_id of each log; with `new`, insert those that have none."""
        statements = queries("logs")
        found: dict[LogPartition, int | None] = {}
        for log in logs:
            topic = log._replace(partition=0)
            if topic not in found:
                if new:
                    cursor.execute(statements["new"], log._asdict())
                rows = ask(cursor, statements["find"], log._asdict())
                found[topic] = int(rows[0][0]) if rows else None
            if (number := found[topic]) is not None:
                self._numbers[log] = number

    def store(self, batch: Sequence[Entry], *, ends: Mapping[LogPartition, int] | None = None) -> Stored:
        """Record `batch`, all of it or nothing. The offsets of each partition ascend without a gap. `ends` has the
        logs' ends, if they are known. Raises RowRejected if a row's content is refused, FenceLost if another consumer
        was here, DatabaseUnavailable, DatabaseDenied and VaultError."""
        advance = fences(batch)
        accepted = [entry for entry in batch if isinstance(entry, Accepted)]
        dead = [entry for entry in batch if isinstance(entry, DeadLetter)]
        statements = queries("store")
        rows = duplicates = 0
        with self.transaction() as cursor:
            if not all(fence.log in self._numbers for fence in advance):
                self._number(cursor, [fence.log for fence in advance], new=False)
                if not all(fence.log in self._numbers for fence in advance):
                    raise _fence_lost(advance)
            lines = io.BytesIO(self._lines(accepted, self._numbers))
            bounds = {
                "log_ids": [self._numbers[fence.log] for fence in advance],
                "partitions": [fence.log.partition for fence in advance],
                "expected": [fence.expected for fence in advance],
                "next": [fence.next for fence in advance],
                "ends": [(ends or {}).get(fence.log, 0) for fence in advance],
            }
            if accepted:
                with _content(self.server):
                    cursor.copy_expert(statements["copy"], lines, _COPY_BYTES)
            # The first row lock of the transaction; nothing slow comes after it.
            cursor.execute(statements["fence"], bounds)
            if cursor.rowcount != len(advance):
                raise _fence_lost(advance)
            if accepted:
                with _content(self.server):
                    cursor.execute(self._insert_rows, bounds)
                rows = cursor.rowcount
                if rows < len(accepted):
                    cursor.execute(self._insert_duplicates)
                    duplicates = cursor.rowcount
            written = self._insert_dead_letters(cursor, dead) if dead else 0
        return Stored(rows=rows, duplicates=duplicates, dead_letters=written)

    def _insert_dead_letters(self, cursor: Cursor, dead: Sequence[DeadLetter]) -> int:
        statements, size = queries("store"), _DEAD_LETTERS_A_STATEMENT
        rows = (_dead_letter(letter, self._numbers[log_partition(letter.record.position)]) for letter in dead)
        template, statement = statements["dead_letter"], statements["insert_dead_letters"]
        return len(execute_values(cursor, statement, rows, template=template, page_size=size, fetch=True))


@contextlib.contextmanager
def _content(server: str) -> Iterator[None]:
    """Raise RowRejected if the block fails because of a row's content."""
    try:
        yield
    except psycopg2.Error as error:
        found = translate(error, server=server, rows=True)
        if isinstance(found, RowRejected):
            raise found from error
        raise


def _fence_lost(advance: Sequence[Fence]) -> FenceLost:
    expected = ", ".join(f"{fence.log.partition} at {fence.expected}" for fence in advance)
    return FenceLost(
        f"a batch does not begin at the next offset of its partitions (partition {expected}): "
        "another consumer has advanced them, or this batch was committed before its answer was lost"
    )


def _dead_letter(letter: DeadLetter, log_id: int) -> dict[str, Any]:
    record = letter.record
    held = {"key": record.key, "value": record.value, "headers": headers_json(record.headers)}
    why = {"reason": printable(letter.reason), "sqlstate": letter.sqlstate, "replay_count": replay_count(record)}
    return {"log_id": log_id, **msgspec.structs.asdict(record.position), **held, **why}
