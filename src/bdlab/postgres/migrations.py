"""The versions of the schema: SQL files that the owner applies in order, under an advisory lock."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files

import msgspec
from psycopg2 import errors as pg
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - named so by psycopg2

from bdlab.credentials import DatabaseCredentials
from bdlab.errors import DatabaseError, SchemaOutdated
from bdlab.postgres.queries import queries
from bdlab.postgres.session import ConnectionLimits, Session
from bdlab.services import DLQ, Deployment

# A migration may rewrite a large table; another `migrate` may hold the lock for as long.
_LIMITS = ConnectionLimits(statement_s=3600, lock_s=600, idle_in_transaction_s=60, silence_s=3700)

_COMPATIBLE = "-- compatible_from: "


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One SQL file, ``<version>_<name>.sql``; `checksum` is its sha256 in hex.

    `compatible_from` is the lowest version whose release may run on the migrated schema, from the file's
    first line (``-- compatible_from: <version>``); without one it is the migration's own version.
    """

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
        declared = sql.partition("\n")[0].removeprefix(_COMPATIBLE)
        compatible_from = int(declared if declared.isdigit() else number)
        found.append(
            Migration(version=int(number), name=name, sql=sql, checksum=checksum, compatible_from=compatible_from)
        )
    return tuple(sorted(found, key=lambda migration: migration.version))


def expected_version() -> int:
    """Return the schema version that this version of bdlab works with."""
    return migrations()[-1].version


def apply(cursor: Cursor, server: str, deployment: Deployment) -> tuple[str, ...]:
    """Apply what is missing in the owner's transaction, and return the names of what was applied.

    Raises SchemaOutdated if the database is of a newer version or another build, and DatabaseError.
    """
    sql = {name: deployment.in_sql(text) for name, text in queries("migrations").items()}
    cursor.execute(sql["create_table"])
    cursor.execute(sql["applied"])
    applied = {row[0]: row[1:] for row in cursor.fetchall()}
    _compare(applied, server)
    cursor.execute(sql["has_roles"])
    if cursor.fetchone() == (False,):
        raise DatabaseError(
            f"the role {deployment.in_sql(DLQ.group)}, which this version needs, is missing from {server}",
            hint="Run `bdlab vault-init` first: it brings Vault's database roles up to date.",
        )
    missing = [one for one in migrations() if one.version not in applied]
    for one in missing:
        cursor.execute(deployment.in_sql(one.sql))
        cursor.execute(sql["record"], msgspec.structs.asdict(one))
    return tuple(f"{one.version:04d}_{one.name}" for one in missing)


@contextmanager
def as_owner(credentials: DatabaseCredentials, deployment: Deployment) -> Iterator[tuple[Cursor, str]]:
    """Yield a cursor in the owner's transaction, the only one that changes the schema now, and the server."""
    with (
        Session(credentials, application_name="bdlab migrate", limits=_LIMITS) as session,
        session.transaction() as cursor,
    ):
        cursor.execute(deployment.in_sql(queries("migrations")["become_owner"]))
        cursor.execute(queries("migrations")["lock"])
        yield cursor, session.server


def _compare(applied: dict[int, tuple[str, str, int | None]], server: str) -> None:
    known = {one.version: one for one in migrations()}
    newest = max(applied, default=0)
    if newest > expected_version() and (applied[newest][2] or newest) > expected_version():
        raise _newer(newest, server)
    for version, (name, checksum, _) in applied.items():
        if version in known and known[version].checksum != checksum:
            raise SchemaOutdated(
                f"migration {version:04d}_{name} in {server} is not the one that this version of bdlab ships",
                hint="The database was migrated by another build. Use the build that migrated it.",
            )


def check_schema(cursor: Cursor, server: str) -> None:
    """Raise SchemaOutdated unless this version of bdlab may run on the schema."""
    found, compatible_from = schema_version(cursor) or (0, 0)
    if found < expected_version():
        raise SchemaOutdated(
            f"the schema of {server} is at version {found}, and this bdlab needs {expected_version()}",
            hint="Run `bdlab migrate`.",
        )
    if compatible_from > expected_version():
        raise _newer(found, server)


def schema_version(cursor: Cursor) -> tuple[int, int] | None:
    """Return the database's version, and the lowest whose release may run on it; None if it was never migrated.

    Ends no transaction.
    """
    cursor.execute("SAVEPOINT schema_version")
    try:
        cursor.execute(queries("migrations")["version"])
    except pg.UndefinedTable:
        cursor.execute("ROLLBACK TO SAVEPOINT schema_version")
        return None
    row = cursor.fetchone()
    return (int(row[0]), int(row[1])) if row else None


def _newer(found: int, server: str) -> SchemaOutdated:
    return SchemaOutdated(
        f"the schema of {server} is at version {found}, newer than this bdlab knows ({expected_version()})",
        hint="Use the newer version of bdlab that migrated it.",
    )
