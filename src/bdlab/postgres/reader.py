"""Reading from PostgreSQL: predictions, accounts, and the state of the database."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - named so by psycopg2

from bdlab.contract import Contract
from bdlab.credentials import Connecting, DatabaseCredentials
from bdlab.errors import DatabaseError, DatabaseUnavailable, VaultError
from bdlab.events import Position, Term
from bdlab.ledger import Account, LogPartition, LogRange
from bdlab.log_identity import KnownLog
from bdlab.postgres.accounts import read_accounts, read_known
from bdlab.postgres.contracts import expected_version, read_contract, schema_version
from bdlab.postgres.session import ConnectionLimits, Session, ask, queries, rows_of
from bdlab.probes import DatabaseState
from bdlab.selection import MAX_LIMIT, Page, PageCursor, Selection
from bdlab.services import BDLAB, Deployment

#: A thousand reviews of 1 MiB each would take the API's memory; as JSON one can be six times as long.
NEWEST_BYTES = 4 << 20
#: The schema's version that has the table.
_FEEDBACK_SINCE = 4
#: Values of a selection, and what they are compared with.
_PLAIN = {"since": ("stored_at", ">="), "until": ("stored_at", "<")} | {one: (one, "=") for one in ("model", "source")}
#: How long closing waits for a query that is running.
_ANSWER_S = 2.0


def row_type(contract: Contract) -> type[msgspec.Struct]:
    """Return the struct of a row of `predictions`, with its position; `source` is None if unknown."""
    kinds = {"object": dict[str, float]}  # all else is as the database gives it
    fields: list[Any] = [("id", UUID), *((each.column, kinds.get(each.kind, Any)) for each in contract)]
    fields += [("explanation", tuple[Term, ...]), ("model", str), ("created_at", datetime)]
    fields += [("stored_at", datetime), ("source", str | None), ("position", Position)]
    return msgspec.defstruct("StoredPrediction", fields, module=__name__, frozen=True, kw_only=True)


class _Rows:
    """The rows of a contract: how they are asked for, and made of what the database answers."""

    def __init__(self, contract: Contract) -> None:
        self._type = row_type(contract)
        *self._names, _ = self._type.__struct_fields__
        texts = [sql.Identifier(field.column) for field in contract if field.is_text]
        sizes = [sql.SQL("coalesce(octet_length({}), 0)").format(text) for text in texts]
        columns = sql.SQL(", ").join(sql.Identifier("p", name) for name in self._names)
        size = sql.SQL(" + ").join([sql.Literal(0), *sizes])
        self._page = partial(sql.SQL(queries("reader")["page"]).format, columns=columns, bytes=size)
        self.get = sql.SQL(queries("reader")["get"]).format(columns=columns)

    def page(self, wanted: Selection) -> tuple[sql.Composed, dict[str, Any]]:
        """Return the query for a page of what is wanted, and its values but for the limits."""
        values = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not None}
        named = {"real": "real", "all": ""}.get(wanted.source, "source")
        versions = "model" if "@" in (wanted.model or "") else "name"
        chosen = {"source": named, "model": versions} | {name: name for name in ("since", "until", "after")}
        asked, texts = [chosen[name] for name in values if chosen.get(name)], queries("reader")
        conditions: list[Any] = [sql.SQL(texts[name]) for name in asked if name not in _PLAIN]
        compared = [(*_PLAIN[name], name) for name in asked if name in _PLAIN]
        for number, (column, operator, value) in enumerate(values.pop("where")):
            values[f"where{number}"] = value
            compared.append((column, operator, f"where{number}"))
        for column, operator, name in compared:
            parts = (sql.Identifier(column), sql.SQL(operator), sql.Placeholder(name))
            conditions.append(sql.SQL(" ").join(parts))
        values |= wanted.after._asdict() | {"id": str(wanted.after.id)} if wanted.after else {}
        return self._page(where=sql.SQL(" AND ").join(conditions or [sql.SQL("true")])), values

    def made_of(self, row: Sequence[Any]) -> Any:
        """Return the prediction of a row: its columns, then the position."""
        fields = dict(zip(self._names, row, strict=False))
        place = row[len(self._names) : len(self._names) + 5]
        return msgspec.convert(fields | {"position": Position(*place)}, self._type)


class Reader(Connecting):
    """Queries with a login of bdlab_reader, each in one snapshot. Safe to use from several threads."""

    def __init__(
        self,
        credentials: DatabaseCredentials,
        *,
        application_name: str = "bdlab",
        limits: ConnectionLimits | None = None,
    ) -> None:
        self._session = Session(credentials, application_name=application_name, limits=limits, snapshot=True)
        self._lock = threading.Lock()
        self._closed = False
        self._rows: _Rows | None = None

    def open(self) -> None:
        """Connect. Raises DatabaseError and VaultError, as does each query."""
        with self._lock:
            self._session.open()

    def close(self) -> None:
        """Close for good. A query that takes longer than 2 s fails with DatabaseUnavailable."""
        self._closed = True
        while not self._lock.acquire(timeout=_ANSWER_S):
            self._session.cut()
        try:
            self._session.close()
        finally:
            self._lock.release()

    @contextmanager
    def _cursor(self) -> Iterator[Cursor]:
        with self._lock:
            if self._closed:
                raise DatabaseUnavailable("the connection was closed before the query was sent")
            with self._session.transaction() as cursor:
                yield cursor

    def page(self, wanted: Selection, limit: int) -> Page:
        """Return the newest rows that are wanted: at most `limit`, and fewer if their texts exceed NEWEST_BYTES."""
        with self._cursor() as cursor:
            rows = self._rows_of(cursor)
            query, values = rows.page(wanted)
            answer = ask(cursor, query, {**values, "limit": limit, "bytes": NEWEST_BYTES})
        found = [rows.made_of(row) for row in answer]
        if not found or answer[-1][-1] == len(found):
            return Page(found, None)
        return Page(found, PageCursor(found[-1].stored_at, found[-1].created_at, found[-1].id))

    def pages(self, wanted: Selection, limit: int) -> Iterator[Page]:
        """Yield page after page of what is wanted, of `limit` rows in all; 0 is all."""
        left = limit or sys.maxsize
        while left:
            found = self.page(wanted, min(left, MAX_LIMIT))
            yield found
            left = left - len(found.rows) if found.after else 0
            wanted = msgspec.structs.replace(wanted, after=found.after)

    def get(self, prediction_id: UUID) -> Any | None:
        with self._cursor() as cursor:
            rows = self._rows_of(cursor)
            found = ask(cursor, rows.get, {"id": str(prediction_id)})
            return rows.made_of(found[0]) if found else None

    def ask(
        self, query: str, file: str = "reader", parts: Mapping[str, str] | None = None, **values: Any
    ) -> list[dict[str, Any]]:
        """Return the rows that a query of `reader.sql`, or another `file`, gives, by the names of their columns.
        `parts` stand in for its words in braces."""
        with self._cursor() as cursor:
            cursor.execute(queries(file)[query].format(**parts) if parts else queries(file)[query], values)
            return rows_of(cursor)

    def _rows_of(self, cursor: Cursor) -> _Rows:
        """Return the rows of the contract, which is read once: a later one adds columns only."""
        if self._rows is None:
            self._rows = _Rows(read_contract(cursor))
        return self._rows

    def contract(self) -> Contract:
        """Return the contract that the database has now."""
        with self._cursor() as cursor:
            return read_contract(cursor)

    def known(self, ranges: Sequence[LogRange]) -> KnownLog | None:
        """Return what is known of the log with these ranges, of all partitions; None if it is new."""
        with self._cursor() as cursor:
            return read_known(cursor, ranges)

    def next_offsets(self) -> Mapping[LogPartition, int]:
        """Return up to which offset each partition is recorded."""
        with self._cursor() as cursor:
            found = ask(cursor, queries("accounts")["next_offsets"])
            return {LogPartition(*row[:4]): int(row[4]) for row in found}

    def accounts(self, *, limit: int) -> Sequence[Account]:
        """Return each partition's account, in one snapshot, with at most `limit` entries in each list."""
        with self._cursor() as cursor:
            return read_accounts(cursor, limit=limit)

    def rows(self, query: str) -> list[Any]:
        """Return the rows of a query without values of `reader.sql`, which says what is in their columns."""
        with self._cursor() as cursor:
            return ask(cursor, queries("reader")[query])

    def state(self, *, count_rows: bool = True, deployment: Deployment = BDLAB) -> DatabaseState:
        """Return the state of the database; never raises if it is away. Counting rows reads the whole table, so a probe
        that runs every second leaves it out. Vault makes users for `deployment`."""
        expected = expected_version()
        try:
            with self._cursor() as cursor:
                version = ".".join(str(part) for part in divmod(cursor.connection.server_version, 10_000))
                schema, compatible_from = schema_version(cursor) or (None, None)
                seen: dict[str, Any] = {"server_version": version, "compatible_from": compatible_from}
                if count_rows:
                    seen["ended_logins"] = dict(ask(cursor, deployment.in_sql(queries("reader")["ended_logins"])))
                if schema is not None and count_rows:
                    query = queries("reader")["count" if schema >= _FEEDBACK_SINCE else "count_predictions"]
                    ((seen["rows"], seen["feedback"]),) = ask(cursor, query)
                    if schema >= expected:
                        ((seen["open_dead_letters"],),) = ask(cursor, queries("reader")["count_open"])
        except (DatabaseError, VaultError) as error:
            return DatabaseState(connected=False, schema_expected=expected, problem=error.message)
        state = DatabaseState(connected=True, schema_version=schema, schema_expected=expected, **seen)
        problem = "" if state.schema_fits else "the schema is not at this version: run `bdlab migrate`"
        return msgspec.structs.replace(state, problem=problem)
