"""The schema of a database: its version, and its contract.

Versions are SQL files that the owner applies in order, under an advisory lock. The contract is in the columns of
`predictions`, and in the row of `contracts` that says so."""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import msgspec
from psycopg2 import errors as pg
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - named so by psycopg2
from psycopg2.extras import Json

from bdlab.contract import Contract, Field, check_evolution, check_fits, parse_contract, review_contract
from bdlab.contract.fields import INT32, INT64
from bdlab.credentials import DatabaseCredentials
from bdlab.errors import ContractMismatch, DatabaseError, SchemaOutdated
from bdlab.postgres.session import ConnectionLimits, Session, ask, queries
from bdlab.services import BDLAB, READERS_TOO, Deployment

# A migration may rewrite a large table; another `migrate` may hold the lock for as long.
_LIMITS = ConnectionLimits(statement_s=3600, lock_s=600, idle_in_transaction_s=60, silence_s=3700)
_TYPES = {
    "string": "text",
    "number": "double precision",
    "boolean": "boolean",
    "date-time": "timestamptz",
    "object": "jsonb",
}


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One SQL file, ``<version>_<name>.sql``; `checksum` is its sha256 in hex. `compatible_from` is the lowest version
    whose release may run on the migrated schema, from the file's first line (``-- compatible_from: <version>``);
    without one it is the migration's own version."""

    version: int
    name: str
    sql: str
    checksum: str
    compatible_from: int


@cache
def migrations() -> tuple[Migration, ...]:
    """Return all migrations of this version of bdlab, in order."""
    found = []
    for file in files(__package__).joinpath("migrations").iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        sql = file.read_text("utf-8")
        checksum = hashlib.sha256(sql.encode()).hexdigest()
        declared = sql.partition("\n")[0].removeprefix("-- compatible_from: ")
        lowest = int(declared if declared.isdigit() else number)
        found.append(Migration(version=int(number), name=name, sql=sql, checksum=checksum, compatible_from=lowest))
    return tuple(sorted(found, key=lambda migration: migration.version))


def expected_version() -> int:
    """Return the schema version that this version of bdlab works with."""
    return migrations()[-1].version


def apply(cursor: Cursor, server: str, deployment: Deployment) -> tuple[str, ...]:
    """Apply what is missing in the owner's transaction, and return the names of what was applied. Raises SchemaOutdated
    if the database is of a newer version or another build, and DatabaseError."""
    sql = {name: deployment.in_sql(text) for name, text in queries("migrations").items()}
    cursor.execute(sql["create_table"])
    applied = {row[0]: row[1:] for row in ask(cursor, sql["applied"])}
    newest = max(applied, default=0)
    if newest > expected_version() and (applied[newest][2] or newest) > expected_version():
        raise _newer(newest, server)
    known = {one.version: one.checksum for one in migrations()}
    for version, (name, checksum, _) in applied.items():
        if known.get(version, checksum) != checksum:
            hint = "The database was migrated by another build. Use the build that migrated it."
            why = f"migration {version:04d}_{name} in {server} is not the one that this version of bdlab ships"
            raise SchemaOutdated(why, hint=hint)
    for (lacking,) in ask(
        cursor, sql["lacking_roles"], {"names": [deployment.in_sql(role.group) for role in READERS_TOO]}
    ):
        hint = "Run `bdlab vault-init` first: it brings Vault's database roles up to date."
        raise DatabaseError(f"the role {lacking}, which this version needs, is missing from {server}", hint=hint)
    missing = [one for one in migrations() if one.version not in applied]
    for one in missing:
        cursor.execute(deployment.in_sql(one.sql))
        cursor.execute(sql["record"], msgspec.structs.asdict(one))
    return tuple(f"{one.version:04d}_{one.name}" for one in missing)


def check_schema(cursor: Cursor, server: str) -> None:
    """Raise SchemaOutdated unless this version of bdlab may run on the schema."""
    found, compatible_from = schema_version(cursor) or (0, 0)
    if found < expected_version():
        why = f"the schema of {server} is at version {found}, and this bdlab needs {expected_version()}"
        raise SchemaOutdated(why, hint="Run `bdlab migrate`.")
    if compatible_from > expected_version():
        raise _newer(found, server)


def schema_version(cursor: Cursor) -> tuple[int, int] | None:
    """Return the database's version, and the lowest whose release may run on it; None if it was never migrated. Ends no
    transaction."""
    cursor.execute("SAVEPOINT schema_version")
    try:
        rows = ask(cursor, queries("migrations")["version"])
    except pg.UndefinedTable:
        cursor.execute("ROLLBACK TO SAVEPOINT schema_version")
        return None
    return (int(rows[0][0]), int(rows[0][1])) if rows else None


def _newer(found: int, server: str) -> SchemaOutdated:
    return SchemaOutdated(
        f"the schema of {server} is at version {found}, newer than this bdlab knows ({expected_version()})",
        hint="Use the newer version of bdlab that migrated it.",
    )


def read_contract(cursor: Cursor) -> Contract:
    """Return the contract in force; it is the reviews' if none was decided. Ends no transaction."""
    rows = ask(cursor, queries("contracts")["newest"])
    return parse_contract(rows[0][0]) if rows else review_contract()


def migrate(
    credentials: DatabaseCredentials, contract: Contract | None, deployment: Deployment = BDLAB
) -> tuple[tuple[str, ...], str]:
    """Bring the schema up to date and make `contract` the database's, all of it or nothing; None keeps the one it has.
    Returns the names of what was applied, and what changed of the contract, empty if nothing. A higher number adds its
    columns, with their defaults in the rows so far; a lower one only has to fit. Any contract can take the place of the
    reviews' as long as no consumer was ever given a partition. Raises ContractMismatch for any other change,
    SchemaOutdated for another build's database, DatabaseError and VaultError."""
    opened = Session(credentials, application_name="bdlab migrate", limits=_LIMITS)
    with opened as session, session.transaction() as cursor:
        cursor.execute(deployment.in_sql(queries("migrations")["become_owner"]))
        cursor.execute(queries("migrations")["lock"])
        applied = apply(cursor, session.server, deployment)
        changed = _adopt(cursor, contract, deployment)
        _show_outputs(cursor, read_contract(cursor), deployment)
        return applied, changed


def _adopt(cursor: Cursor, wanted: Contract | None, deployment: Deployment) -> str:
    statements = {name: deployment.in_sql(text) for name, text in queries("contracts").items()}
    before = read_contract(cursor)
    contract = wanted or before
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
        if ask(cursor, statements["is_unused"]) != [(True,)]:
            raise
    if added:
        try:
            _alter(cursor, statements, dropped, added)
        except pg.DuplicateColumn as error:
            hint = "Rename or drop that column, then run `bdlab migrate` again."
            raise ContractMismatch(f"{str(error).splitlines()[0]}, and no contract made it", hint=hint) from error
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


def _show_outputs(cursor: Cursor, contract: Contract, deployment: Deployment) -> None:
    """Bring the outputs' columns of `feedback` and `rescored` up to date, and the view `quality`, which shows them."""
    statements = queries("contracts")
    before = {name for (name,) in ask(cursor, statements["outputs_shown"])} - {"id", "model", "run", "scored_at"}
    outputs = {field.column: field for field in contract.outputs}
    if before == outputs.keys():
        return
    truths = {field.column: field for field in contract.truths}

    def altered(wanted: Mapping[str, Field]) -> sql.Composed:
        new = (
            sql.SQL("ADD COLUMN {}").format(_definition(field)) for name, field in wanted.items() if name not in before
        )
        return sql.SQL(", ").join([*new, sql.SQL("ALTER COLUMN id SET NOT NULL")])  # which it is: never nothing

    def of(table: str) -> sql.Composed:
        return sql.SQL(", ").join(sql.Identifier(table, name) for name in outputs)

    shown = (sql.SQL("f.{} AS {}").format(sql.Identifier(name), sql.Identifier(f"true_{name}")) for name in truths)
    parts = {"truths": altered(truths), "outputs": altered(outputs), "predicted": of("p"), "scored": of("r")}
    view = sql.SQL(deployment.in_sql(statements["quality"]))
    cursor.execute(view.format(**parts, shown=sql.SQL(", ").join(shown)))


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
