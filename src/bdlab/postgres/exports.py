"""What an export has of the tables: ranges of offsets by the moments of their rows, and the rows of a range."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - named so by psycopg2

from bdlab.credentials import DatabaseCredentials
from bdlab.errors import BdlabError
from bdlab.export import TABLES, Log, Plan, Range
from bdlab.postgres.contracts import check_schema, read_contract
from bdlab.postgres.session import ConnectionLimits, Session, as_bytes, queries

#: By the number of PostgreSQL's type.
_TYPES = {
    16: "bool", 17: "binary", 20: "int64", 23: "int32", 25: "string", 114: "json", 701: "double", 1184: "timestamp",
    2950: "string", 3802: "json",
}  # fmt: skip


def ranges_of(
    cursor: Cursor, since: datetime | None, until: datetime | None, *, predictions: bool = False
) -> list[tuple[int, int, int, int]]:
    """Return the log_id, partition, first offset and the one after of what was recorded from `since` to before `until`;
    with `predictions` of the partitions alone that have some."""
    moments = {"since": since or "-infinity", "until": until or "infinity"}
    cursor.execute(queries("exports")["ranges"], {**moments, "predictions": predictions})
    return cursor.fetchall()


class Exporter(Session):
    """Implements `export.Source` with a login of bdlab_reader. Each call is one snapshot."""

    def __init__(self, credentials: DatabaseCredentials) -> None:
        limits = ConnectionLimits(statement_s=600, idle_in_transaction_s=300, silence_s=660)
        super().__init__(credentials, application_name="bdlab export", limits=limits, snapshot=True)

    def plan(self, since: datetime | None, until: datetime | None) -> Plan:
        """Return what was stored from `since` to before `until`, by positions. Raises DatabaseError and VaultError."""
        with self.transaction() as cursor:
            check_schema(cursor, self.server)
            tables = {}
            for table in TABLES:
                cursor.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(sql.Identifier(table)))
                tables[table] = {column.name: _TYPES[column.type_code] for column in cursor.description or ()}
            ranges = tuple(Range(*row) for row in ranges_of(cursor, since, until))
            cursor.execute(queries("exports")["logs"])
            logs = tuple(Log(*row) for row in cursor.fetchall())
            own = read_contract(cursor).document
            return Plan(since=since, until=until, contract=own, tables=tables, logs=logs, ranges=ranges)

    def rows(self, part: Range, tables: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, list[Any]]]:
        """Yield each table with some of its rows in `part`, one table after the other. Raises BdlabError if a position
        is in none of them, DatabaseError and VaultError."""
        found, values = 0, part._asdict()
        with self.transaction() as cursor:
            for table, columns in tables.items():
                casts = {name: sql.SQL("::text" if kind == "json" else "") for name, kind in columns.items()}
                chosen = sql.SQL(", ").join(sql.Identifier(name) + cast for name, cast in casts.items())
                query = sql.SQL(queries("exports")["part"]).format(columns=chosen, table=sql.Identifier(table))
                with cursor.connection.cursor(table) as rows:  # on the server, until the transaction ends
                    rows.execute(query, values)
                    while some := rows.fetchmany(200):  # in memory at once, each with texts of a MiB or more
                        found += len(some)
                        yield table, [tuple(map(_plain, row)) for row in some]
            if found == (count := part.after - part.first):
                return
            cursor.execute(queries("exports")["pruned_to"], values)
            (pruned_to,) = cursor.fetchone() or (None,)
            why = f"all below {pruned_to} was pruned" if (pruned_to or 0) > part.first else "`bdlab verify` tells why"
            place = f"log {part.log_id}, partition {part.partition} from {part.first} on"
            what = f"of {count} positions of {place} the database has {found}: {why}"
            raise BdlabError(what, hint="Begin a new export, in another folder.")


def _plain(value: Any) -> Any:
    return as_bytes(value) if isinstance(value, memoryview) else value
