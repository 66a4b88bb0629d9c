"""Ranges of stored predictions to score again, their scores, and the account of both."""

import socket
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - named so by psycopg2

from bdlab.contract import Contract, check_fits
from bdlab.credentials import DatabaseCredentials
from bdlab.errors import BdlabError, ModelError
from bdlab.postgres.contracts import check_schema, read_contract
from bdlab.postgres.exports import ranges_of
from bdlab.postgres.session import ConnectionLimits, Session, ask, queries
from bdlab.rescoring import Done, RescoredPartition, RescoredReport, Score, Window

RANGE_OFFSETS = 2000
_ROWS, _FIRST_ROWS = 500, 20
"""The most rows that are scored at once, between two statements of a transaction, and how many are at first."""
_ROWS_S = 5.0
"""How long scoring at once takes at most: of a slow model fewer rows are."""
NOTHING = Window([], [], [], [])
_LIMITS = ConnectionLimits(idle_in_transaction_s=60, silence_s=3600)
"""After a minute the server ends a transaction whose process is frozen or cut off, and its range is free."""


class Ranges(Session):
    """The planned ranges of a model with this contract, for one thread with a login of bdlab_rescore; `run` is a UUID.
    Each call raises DatabaseError, VaultError, and ContractMismatch if the database has another contract."""

    def __init__(self, credentials: DatabaseCredentials, model: str, contract: Contract, run: str) -> None:
        super().__init__(credentials, application_name="bdlab rescore", limits=_LIMITS)
        self.model, self.run, self._contract, self._rows = model, run, contract, _FIRST_ROWS
        self._names = {"model": model, "run": run, "by": f"{run} on {socket.gethostname()}"}

        def listed(columns: Sequence[str]) -> sql.Composed:
            return sql.SQL(", ").join(map(sql.Identifier, columns))

        statements = queries("rescores")
        self._inputs = sql.SQL(statements["inputs"]).format(columns=listed(contract.columns))
        outputs = listed([field.column for field in contract.outputs])
        self._insert = sql.SQL(statements["insert"]).format(columns=outputs)

    def _prepare(self, cursor: Cursor) -> None:
        check_schema(cursor, self.server)
        check_fits(self._contract, read_contract(cursor))

    def plan(self, since: datetime | None, until: datetime | None, beyond: Window | None = None) -> Window:
        """Plan what was stored from `since` to before `until`, except what is planned already; `beyond` is known to be.
        Return what was asked for."""
        statements = queries("rescores")
        known = {(log_id, partition): after for log_id, partition, _, after in zip(*beyond or [[]] * 4, strict=True)}
        with self.transaction() as cursor:
            cursor.execute(statements["lock_model"], self._names)
            found = ranges_of(cursor, since, until, predictions=True)
            wanted = Window(*([row[column] for row in found] for column in range(4)))
            places = zip(wanted.log_ids, wanted.partitions, wanted.firsts, strict=True)
            firsts = [max(first, known.get((log_id, partition), first)) for log_id, partition, first in places]
            values = self._names | wanted._replace(firsts=firsts)._asdict() | {"size": RANGE_OFFSETS}
            cursor.execute(statements["plan"], values)
        return wanted

    def work(self, score: Score, window: Window) -> Done | None:
        """Score a range that overlaps `window`, and store that; return None if there is none that is free. Raises
        ModelError if the model fails, or the database refuses a score."""
        statements = queries("rescores")
        with self.transaction() as cursor:
            cursor.execute(queries("accounts")["lock_rescored"])
            if not (rows := ask(cursor, statements["take"], self._names | window._asdict())):
                return None
            place = dict(zip(("log_id", "partition", "first", "after"), rows[0], strict=True))
            predictions = inserted = 0
            inputs = cursor.connection.cursor("inputs")  # on the server, until the transaction ends
            inputs.execute(self._inputs, place)
            while rows := inputs.fetchmany(self._rows):
                began = time.monotonic()
                scores = score(rows)
                self._rows = max(1, min(_ROWS, int(len(rows) * _ROWS_S / (time.monotonic() - began))))
                predictions += len(rows)
                inserted += self.insert(cursor, scores)
            cursor.execute(statements["done"], {**self._names, **place, "predictions": predictions})
        return Done(place["after"] - place["first"], predictions, predictions - inserted)

    def bring_in(self, rows: Iterable[list[dict[str, Any]]]) -> tuple[Done, Window]:
        """Insert scores that another program has made, in one transaction. Return how many, and the offsets that they
        are of. Raises ModelError if one is of no stored prediction, or the database refuses one."""
        statements, predictions, inserted = queries("rescores"), 0, 0
        bounds: dict[tuple[int, int], tuple[int, int]] = {}
        with self.transaction() as cursor:
            cursor.execute(queries("accounts")["lock_rescored"])
            for some in rows:
                encoded = msgspec.json.encode(some).decode()
                for (stranger,) in ask(cursor, statements["strangers"], {"rows": encoded}):
                    raise ModelError(f"the id {stranger} is that of no stored prediction at its position")
                predictions, inserted = predictions + len(some), inserted + self.insert(cursor, encoded)
                for row in some:
                    place, offset = (row["log_id"], row["partition"]), row["offset"]
                    first, after = bounds.get(place, (offset, offset))
                    bounds[place] = min(first, offset), max(after, offset + 1)
        columns = [list(column) for column in zip(*((*place, *ends) for place, ends in bounds.items()), strict=True)]
        return Done(0, predictions, predictions - inserted), Window(*columns) if columns else NOTHING

    def finish(self, window: Window) -> None:
        """Note the ranges in `window` of which every prediction has its score as done; plan what is in none before."""
        statements, values = queries("rescores"), self._names | window._asdict() | {"size": RANGE_OFFSETS}
        with self.transaction() as cursor:
            for statement in ("lock_model", "plan", "finish"):
                cursor.execute(statements[statement], values)

    def insert(self, cursor: Cursor, rows: str) -> int:
        """Insert a JSON array of scores, but not where an id has one already. Return how many were inserted. Raises
        ModelError if the database refuses one."""
        try:
            cursor.execute(self._insert, self._names | {"rows": rows})
        except (psycopg2.DataError, psycopg2.IntegrityError) as error:
            why = f"{error.diag.message_primary} {error.diag.message_detail or ''}".strip()
            raise ModelError(f"the database refuses a score of {self.model}: {why[:500]}") from error
        return int(cursor.rowcount)

    def left(self, window: Window) -> tuple[int, int]:
        """Return how many ranges that overlap `window` are not done, and their offsets."""
        return self._two("open", window._asdict())

    def done(self) -> tuple[int, int]:
        """Return how many ranges this run has done, and the predictions in them."""
        return self._two("done_by", {})

    def _two(self, query: str, values: dict[str, Any]) -> tuple[int, int]:
        with self.transaction() as cursor:
            ((one, other),) = ask(cursor, queries("rescores")[query], self._names | values)
            return one, other


def account(credentials: DatabaseCredentials, model: str, *, limit: int) -> RescoredReport:
    """Return the account of a model's scores, in one snapshot. Raises BdlabError if none was ever planned."""
    statements, values = queries("rescores"), {"model": model, "limit": limit}
    limits = ConnectionLimits(statement_s=1800, silence_s=3600)

    opened = Session(credentials, application_name="bdlab verify", limits=limits, snapshot=True)
    with opened as session, session.transaction() as cursor:
        known = [name for (name,) in ask(cursor, statements["models"])]
        counted, orphans = (ask(cursor, statements[query], values) for query in ("account", "orphans"))
        missing = ask(cursor, statements["missing"], values) if any(row[5] != row[6] for row in counted) else []
    if not (orphans or model in known):
        hint = f"Scored again were: {', '.join(known)}." if known else f"`bdlab rescore --model {model}` does it."
        raise BdlabError(f"nothing was scored again by {model}", hint=hint)
    names = RescoredPartition.__struct_fields__
    partitions = tuple(
        RescoredPartition(**dict(zip(names, row, strict=False)), unplanned=row[4] - row[5] - row[8]) for row in counted
    )
    return RescoredReport(
        verified=not (missing or orphans or any(one.open_ranges for one in partitions)),
        model=model,
        partitions=partitions,
        missing=tuple(missing),
        orphans=tuple(found for found, _ in orphans),
        orphan_count=orphans[0][1] if orphans else 0,
    )
