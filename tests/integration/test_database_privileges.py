"""Least privilege in the database: what the users that Vault makes may do, each thing tried for real."""

# ruff: noqa: S608 - the statements are put together from the names above them

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812 - named so by psycopg2

from bdlab.services import DATABASE_ROLES
from tests.fix_database import migrate
from tests.fix_vault import VaultWorld

SERVICE_OF = {"bdlab-owner": "migrate", "bdlab-writer": "consume", "bdlab-dlq": "dlq", "bdlab-model": "model"}
SERVICE_OF |= {"bdlab-rescore": "rescore", "bdlab-reader": "serve"}
OWNER, WRITER, DLQ, MODEL, RESCORE, READER = SERVICE_OF
NOBODY: frozenset[str] = frozenset()
EVERYBODY = frozenset(SERVICE_OF)
OWNERS = frozenset({OWNER})
WRITERS = frozenset({OWNER, WRITER})

#: table -> a column, and who may insert into it
TABLES = {
    "predictions": ("text", WRITERS),
    "duplicates": ("id", WRITERS),
    "dead_letters": ("reason", WRITERS),
    "replays": ("replayed_by", frozenset({OWNER, DLQ})),
    "discards": ("reason", frozenset({OWNER, DLQ})),
    "sink_offsets": ("next_offset", WRITERS),
    "logs": ("topic", WRITERS),
    "checkpoints": ("pruned_to", OWNERS),
    "schema_migrations": ("checksum", OWNERS),
    "contracts": ("number", OWNERS),
    "feedback": ("source", WRITERS),
    "rescored": ("run", frozenset({OWNER, RESCORE})),
    "rescore_ranges": ("rescored", frozenset({OWNER, RESCORE})),
    "model_versions": ("sha256", frozenset({OWNER, MODEL})),
    "audit": ("actor", frozenset({OWNER, DLQ, MODEL})),
    "model_promotions": ("why", frozenset({OWNER, MODEL})),
}
VIEWS = ("recorded_positions", "missing_offsets", "located_predictions", "quality")
#: table -> who may change the column above; in all others it is the owner
UPDATES = {"sink_offsets": WRITERS, "rescore_ranges": frozenset({OWNER, RESCORE})}

#: statement -> the roles that may run it
STATEMENTS: dict[str, frozenset[str]] = {
    **{f"SELECT count(*) FROM {name}": EVERYBODY for name in (*TABLES, *VIEWS)},
    **{f"INSERT INTO {table} DEFAULT VALUES": who for table, (_, who) in TABLES.items()},
    **{f"UPDATE {table} SET {column} = {column}": UPDATES.get(table, OWNERS) for table, (column, _) in TABLES.items()},
    **{
        statement.format(table): OWNERS
        for table in TABLES
        for statement in (
            "DELETE FROM {}",
            "TRUNCATE {}",
            "ALTER TABLE {} ADD COLUMN extra integer",
            "CREATE INDEX extra ON {} ((1))",
            "CREATE RULE extra AS ON INSERT TO {} DO NOTHING",
            "ALTER TABLE {} OWNER TO CURRENT_USER",
            "DROP TABLE {} CASCADE",
        )
    },
    **{f"DROP VIEW {view} CASCADE": OWNERS for view in VIEWS},
    "INSERT INTO logs (cluster_id, topic_id, topic) VALUES ('c', '', 't')": WRITERS,
    "INSERT INTO logs (cluster_id, topic, closed_at) VALUES ('c', 't', now())": OWNERS,
    "INSERT INTO audit (at, actor, action, subject, outcome) VALUES (now(), 'a', 'b', 'c', 'begun')": OWNERS,
    "UPDATE logs SET topic_id = topic_id": WRITERS,
    "UPDATE logs SET adopted_at = now()": OWNERS,
    "UPDATE logs SET closed_at = now()": OWNERS,
    "UPDATE rescore_ranges SET after = after": OWNERS,
    "CREATE TABLE extra (id integer)": OWNERS,
    "CREATE VIEW extra AS SELECT 1": OWNERS,
    "CREATE FUNCTION extra() RETURNS integer LANGUAGE sql AS 'SELECT 1'": OWNERS,
    "CREATE TEMPORARY TABLE extra (id integer)": frozenset({WRITER}),
    "CREATE SCHEMA extra": NOBODY,
    "CREATE EXTENSION pgcrypto": NOBODY,
    "DROP SCHEMA public CASCADE": NOBODY,
    "CREATE ROLE extra": NOBODY,
    "ALTER ROLE CURRENT_USER LOGIN": NOBODY,
    "ALTER ROLE SESSION_USER VALID UNTIL 'infinity'": NOBODY,
    "ALTER ROLE SESSION_USER SUPERUSER": NOBODY,
    "GRANT bdlab_owner TO SESSION_USER": NOBODY,
    "GRANT pg_signal_backend TO SESSION_USER": NOBODY,
    "SET ROLE bdlab_manager": NOBODY,
    "SET ROLE bdlab_owner": OWNERS,
    "SET ROLE bdlab_writer": frozenset({WRITER}),
    "SET ROLE bdlab_reader": frozenset({READER, DLQ, MODEL, RESCORE}),
    "SET ROLE bdlab_dlq": frozenset({DLQ}),
    "SET ROLE bdlab_model": frozenset({MODEL}),
    "SET ROLE bdlab_rescore": frozenset({RESCORE}),
    "ALTER ROLE SESSION_USER CONNECTION LIMIT -1": NOBODY,
    "ALTER ROLE SESSION_USER RESET temp_file_limit": NOBODY,
    "ALTER ROLE SESSION_USER SET temp_file_limit = -1": NOBODY,
    "SET temp_file_limit = -1": NOBODY,
    "SET session_replication_role = 'replica'": NOBODY,
    "SET log_statement = 'none'": NOBODY,
    "SELECT rolpassword FROM pg_authid": NOBODY,
    "SELECT pg_read_file('/etc/hostname')": NOBODY,
    "COPY (SELECT 1) TO PROGRAM 'true'": NOBODY,
    "SELECT lo_create(0)": NOBODY,
    "SELECT lo_from_bytea(0, '')": NOBODY,
}


def allowed(connection: Connection, statement: str) -> bool:
    """Whether the privileges let the statement through. Leaves nothing behind."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
    except psycopg2.errors.InsufficientPrivilege:
        return False
    except (psycopg2.errors.NotNullViolation, psycopg2.errors.FeatureNotSupported):
        return True  # past the privileges: of DEFAULT VALUES to the row, of TRUNCATE to who refers to it
    finally:
        connection.rollback()
    return True


@pytest.fixture(scope="module")
def migrated(vault_world: VaultWorld) -> VaultWorld:
    with vault_world.session("migrate", OWNER, daemon=False) as session:
        migrate(session)
    return vault_world


@contextlib.contextmanager
def user(world: VaultWorld, role: str) -> Iterator[Connection]:
    """A connection of a user that Vault makes for this."""
    with (
        world.session(SERVICE_OF[role], role, kafka=False, daemon=False) as session,
        contextlib.closing(world.connect(session.database())) as connection,
    ):
        yield connection


def test_no_role_is_left_out(migrated: VaultWorld) -> None:
    assert set(SERVICE_OF) == {role.name for role in DATABASE_ROLES}
    with user(migrated, READER) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT relname, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        found = {name for name, kind in cursor.fetchall() if kind in "rvmpf"}
    assert found == {*TABLES, *VIEWS}


@pytest.mark.parametrize("role", SERVICE_OF)
def test_every_role_every_table_every_verb(migrated: VaultWorld, role: str) -> None:
    with user(migrated, role) as connection:
        found = {statement: allowed(connection, statement) for statement in STATEMENTS}
    assert found == {statement: role in who for statement, who in STATEMENTS.items()}


@pytest.mark.parametrize("role", [WRITER, DLQ, READER])
def test_leaving_the_group_wins_nothing(migrated: VaultWorld, role: str) -> None:
    """The role that a user works as is a default, and can be left: what it then may is no more."""
    with user(migrated, role) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET ROLE NONE")
        connection.autocommit = False
        found = {statement: allowed(connection, statement) for statement in STATEMENTS}
    assert found == {statement: role in who for statement, who in STATEMENTS.items()}
