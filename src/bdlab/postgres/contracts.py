"""The contract that a database has: the columns of `predictions`, and the row of `contracts` that says so."""

from collections.abc import Mapping

from psycopg2 import errors as pg
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - named so by psycopg2
from psycopg2.extras import Json

from bdlab.contract import Contract, Field, check_evolution, check_fits, parse_contract, review_contract
from bdlab.contract.fields import INT32, INT64
from bdlab.credentials import DatabaseCredentials
from bdlab.errors import ContractMismatch
from bdlab.postgres.migrations import apply, as_owner
from bdlab.postgres.queries import queries
from bdlab.services import BDLAB, Deployment

_TYPES = {
    "string": "text",
    "number": "double precision",
    "boolean": "boolean",
    "date-time": "timestamptz",
    "object": "jsonb",
}


def read_contract(cursor: Cursor) -> Contract:
    """Return the contract in force; it is the reviews' if none was decided. Ends no transaction."""
    cursor.execute(queries("contracts")["newest"])
    row = cursor.fetchone()
    return parse_contract(row[0]) if row else review_contract()


def migrate(
    credentials: DatabaseCredentials, contract: Contract, deployment: Deployment = BDLAB
) -> tuple[tuple[str, ...], str]:
    """Bring the schema up to date and make `contract` the database's, all of it or nothing.

    Returns the names of what was applied, and what changed of the contract, empty if nothing. A higher number
    adds its columns, with their defaults in the rows so far; a lower one only has to fit. Any contract can
    take the place of the reviews' as long as no consumer was ever given a partition. Raises ContractMismatch
    for any other change, SchemaOutdated for another build's database, DatabaseError and VaultError.
    """
    with as_owner(credentials, deployment) as (cursor, server):
        return apply(cursor, server, deployment), _adopt(cursor, contract, deployment)


def _adopt(cursor: Cursor, contract: Contract, deployment: Deployment) -> str:
    statements = {name: deployment.in_sql(text) for name, text in queries("contracts").items()}
    before = read_contract(cursor)
    if contract.number < before.number:
        check_fits(contract, before)
        return ""
    dropped: list[str] = []
    try:
        if not check_evolution(before, contract) and cursor.rowcount > 0:  # it is decided
            return ""
        added = [field for field in contract if field.since > before.number]
    except ContractMismatch:
        dropped, added = [field.column for field in before], list(contract)
        if dropped != [field.column for field in review_contract()]:
            raise
        cursor.execute(statements["is_unused"])
        if cursor.fetchone() != (True,):
            raise
    if added:
        try:
            _alter(cursor, statements, dropped, added)
        except pg.DuplicateColumn as error:
            raise ContractMismatch(
                f"{str(error).splitlines()[0]}, and no contract made it",
                hint="Rename or drop that column, then run `bdlab migrate` again.",
            ) from error
    cursor.execute(statements["record"], (contract.number, Json(contract.document)))
    names = ", ".join(field.column for field in added)
    return f"number {contract.number}" + (f", added {names}" if added else "")


def _alter(cursor: Cursor, statements: Mapping[str, str], dropped: list[str], added: list[Field]) -> None:
    """Drop and add columns, and have the view show them, the new ones last."""
    cursor.execute("SELECT * FROM located_predictions LIMIT 0")
    shown = [column.name for column in cursor.description or () if column.name not in dropped]
    shown += [field.column for field in added]
    cursor.execute(statements["forget_reviews" if dropped else "lock_view"])
    actions = [sql.SQL("DROP COLUMN {}").format(sql.Identifier(column)) for column in dropped]
    actions += [sql.SQL("ADD COLUMN {}").format(_definition(field)) for field in added]
    cursor.execute(sql.SQL("ALTER TABLE predictions {}").format(sql.SQL(", ").join(actions)))
    words = ("cluster_id", "topic_id", "topic")
    columns = [sql.Identifier("l" if column in words else "p", column) for column in shown]
    cursor.execute(sql.SQL(statements["view"]).format(columns=sql.SQL(", ").join(columns)))


def column_type(field: Field) -> str:
    """Return the type of a field's column."""
    if field.kind != "integer":
        return _TYPES[field.kind]
    bounds = (field.minimum, field.maximum)
    return "integer" if all(end is not None and INT32[0] <= end <= INT32[1] for end in bounds) else "bigint"


def _definition(field: Field) -> sql.Composed:
    """Return the column of a field, with one check, and the default that rows from before it have."""
    kind, default = column_type(field), field.default
    column = sql.Identifier(field.column)
    ends = {"integer": INT32, "bigint": INT64}.get(kind, (None, None))
    conditions = {
        "{} IN ({})": sql.SQL(", ").join(map(sql.Literal, field.choices)) if field.choices else None,
        "jsonb_typeof({}) = {}": sql.Literal("object") if kind == "jsonb" else None,
        "{} <> {}": sql.Literal("") if field.min_length == 1 else None,
        "char_length({}) >= {}": sql.Literal(field.min_length) if field.min_length > 1 else None,
        "char_length({}) <= {}": None if field.max_length is None else sql.Literal(field.max_length),
        "{} >= {}": None if field.minimum in (None, ends[0]) else sql.Literal(field.minimum),
        "{} <= {}": None if field.maximum in (None, ends[1]) else sql.Literal(field.maximum),
    }
    checks = [sql.SQL(form).format(column, value) for form, value in conditions.items() if value]
    parts: list[sql.Composable] = [column, sql.SQL(kind)]
    if not field.nullable:
        parts.append(sql.SQL("NOT NULL"))
    if field.since > 1 and default is not None:
        value = sql.Literal(Json(default) if kind == "jsonb" else default)
        parts.append(sql.SQL("DEFAULT {}").format(value))
    if checks:
        parts.append(sql.SQL("CHECK ({})").format(sql.SQL(" AND ").join(checks)))
    return sql.SQL(" ").join(parts)
