"""Roles and migrations: each may run again, and at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from uuid import uuid4

import msgspec
import psycopg2
import pytest

from bdlab.credentials import DatabaseLogin
from bdlab.errors import DatabaseUnavailable, InvalidInput, SchemaOutdated
from bdlab.postgres.migrations import expected_version, migrate, migrations
from bdlab.postgres.queries import queries
from bdlab.postgres.reader import Reader
from bdlab.postgres.roles import manager_exists, open_databases, prepare
from bdlab.postgres.store import Store
from bdlab.services import MANAGER, Deployment
from bdlab.settings import Secret
from bdlab.stack import Postgres
from tests.fix_database import Database, Logins, admin_login, make_bare_database
from tests.samples import accepted, at

NAMES = tuple(f"{one.version:04d}_{one.name}" for one in migrations())


@pytest.fixture
def bare(postgres_server: Postgres) -> Database:
    """A database with the roles and without the schema."""
    return make_bare_database(postgres_server)


def test_preparing_again_changes_nothing(bare: Database) -> None:
    assert manager_exists(bare.admin)
    assert prepare(bare.admin) == ()


def test_preparing_mends_what_was_changed(own_postgres: Callable[[], Postgres]) -> None:
    bare = make_bare_database(own_postgres())
    bare.execute("GRANT CREATE ON SCHEMA public TO PUBLIC; REVOKE bdlab_reader FROM bdlab_manager CASCADE")
    bare.execute("ALTER ROLE bdlab_manager NOCREATEROLE")
    changed = prepare(bare.admin)
    assert changed == (
        "role bdlab_manager: attributes restored",
        "role bdlab_manager may grant bdlab_reader",
        f"privileges on database {bare.admin.server.dbname} granted",
    )
    assert prepare(bare.admin) == ()

    bare.execute("CREATE DATABASE neighbour")
    bare.execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC")
    assert prepare(bare.admin, shared=True) == ()
    assert open_databases(bare.admin) == ("neighbour", "postgres")
    assert prepare(bare.admin, dry_run=True) == ("database postgres closed to PUBLIC",)
    assert open_databases(bare.admin) == ("neighbour", "postgres")
    assert prepare(bare.admin) == ("database postgres closed to PUBLIC",)
    assert open_databases(bare.admin) == ("neighbour",)


def test_the_manager_is_no_superuser_and_makes_users_as_vault_does(
    own_postgres: Callable[[], Postgres],
) -> None:
    bare = make_bare_database(own_postgres())
    password = Secret(uuid4().hex)
    assert prepare(bare.admin, manager_password=password) == ("role bdlab_manager: password set",)
    manager = msgspec.structs.replace(bare.admin, user=MANAGER, password=password)
    as_manager = Database(manager)
    login = as_manager.login("owner")
    assert bare.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", (MANAGER,)) == [(False,)]
    assert migrate(Logins(login)) == NAMES
    # What the user made is the group's, so the user can be dropped.
    as_manager.revoke(login)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        as_manager.execute("CREATE DATABASE mine")


def test_a_manager_needs_a_password_when_it_is_made(postgres_server: Postgres) -> None:
    admin = admin_login(postgres_server, f"test_{uuid4().hex[:12]}")
    with pytest.raises(InvalidInput, match="no password is given"):
        prepare(admin, Deployment(f"t{uuid4().hex[:8]}"))


def test_an_administrator_that_is_refused(postgres_server: Postgres) -> None:
    admin = admin_login(postgres_server, "postgres")
    wrong = DatabaseLogin(server=admin.server, user=admin.user, password=Secret("wrong"))
    with pytest.raises(DatabaseUnavailable, match="password authentication failed"):
        prepare(wrong)


def test_migrating_twice_at_once_applies_each_migration_once(bare: Database) -> None:
    credentials = [bare.credentials("owner") for _ in range(3)]
    applied: list[tuple[str, ...]] = []
    threads = [
        threading.Thread(target=lambda mine=mine: applied.append(migrate(mine))) for mine in credentials
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(applied) == [(), (), NAMES]
    assert migrate(credentials[0]) == ()
    with Reader(bare.credentials("reader")) as reader:
        state = reader.state()
    assert (state.connected, state.schema_version, state.rows, state.problem) == (
        True,
        expected_version(),
        0,
        "",
    )


def test_a_migration_that_fails_leaves_nothing(bare: Database) -> None:
    bare.execute("CREATE TABLE checkpoints (id int)")  # in the way
    with pytest.raises(DatabaseUnavailable, match="already exists"):
        migrate(bare.credentials("owner"))
    assert bare.execute("SELECT to_regclass('predictions'), to_regclass('schema_migrations')") == [
        (None, None)
    ]


def test_another_text_of_an_applied_migration_is_refused(database: Database) -> None:
    database.execute("UPDATE schema_migrations SET checksum = 'other'")
    with pytest.raises(SchemaOutdated, match="0001_tables"):
        migrate(database.credentials("owner"))


LATER = (
    "INSERT INTO schema_migrations (version, name, checksum, compatible_from) VALUES (9999, 'later', 'x', %s)"
)


@pytest.mark.parametrize("compatible_from", [None, expected_version() + 1, 9999])
def test_a_later_schema_is_left_alone(database: Database, compatible_from: int | None) -> None:
    database.execute(LATER, (compatible_from,))
    for use in (lambda: migrate(database.credentials("owner")), Store(database.credentials("writer")).open):
        with pytest.raises(SchemaOutdated, match="version 9999, newer than this bdlab knows"):
            use()
    with Reader(database.credentials("reader")) as reader:
        assert "bdlab migrate" in reader.state().problem


@pytest.mark.parametrize("compatible_from", [1, expected_version()])
def test_a_later_schema_that_covers_this_version_is_worked_with(
    database: Database, compatible_from: int
) -> None:
    """A consumer goes on, also over a new connection."""
    store = Store(database.credentials("writer"))
    store.open()
    store.start_offsets([at(0)])
    database.execute("ALTER TABLE predictions ADD COLUMN later text")
    database.execute(LATER, (compatible_from,))
    assert store.store([accepted(at(0))]).rows == 1
    store.close()
    store.open()
    assert store.store([accepted(at(1))]).rows == 1
    store.close()
    assert migrate(database.credentials("owner")) == ()
    with Reader(database.credentials("reader")) as reader:
        state = reader.state()
    assert (state.schema_version, state.schema_fits, state.problem) == (9999, True, "")


BEFORE_LOGS = """
INSERT INTO predictions (id, summary, text, helpfulness_numerator, helpfulness_denominator, prediction,
                         sentiment, confidence, explanation, model, created_at,
                         cluster_id, topic, partition, "offset")
SELECT gen_random_uuid(), '', 'x', 1, 1, 2, 'negative', 0.9, '[]', 'm@1', now(), c, t, n % 2, n / 2
FROM generate_series(0, 19) n, (VALUES ('a', 't'), ('a', 'b/c'), ('a/b', 'c'), ('"é', 'ÿ')) l (c, t);
INSERT INTO duplicates (cluster_id, topic, partition, "offset", id)
VALUES ('a', 't', 0, 10, gen_random_uuid());
INSERT INTO dead_letters (cluster_id, topic, partition, "offset", headers, reason, sqlstate)
VALUES ('a', 't', 1, 10, '[]', 'r', '');
INSERT INTO replays VALUES ('a', 't', 1, 10, 'elsewhere', 't', 0, 5), ('a', 't', 1, 10, 'a', 't', 0, 10);
INSERT INTO sink_offsets SELECT cluster_id, topic, partition, 0, 10 FROM predictions GROUP BY 1, 2, 3;
UPDATE sink_offsets SET next_offset = 11 WHERE (cluster_id, topic) = ('a', 't');
INSERT INTO sink_offsets VALUES ('gone', 't', 0, 0, 7);
INSERT INTO checkpoints VALUES ('gone', 't', 0, 7, 4, 2, 1);
"""


def test_what_was_stored_before_logs_had_numbers_is_still_accounted_for(bare: Database) -> None:
    """Names that look alike when put together are told apart; a log that is known by its replays is one."""
    first = migrations()[0]
    bare.execute("SET ROLE bdlab_owner;" + queries("migrations")["create_table"].partition(";")[0])
    bare.execute("SET ROLE bdlab_owner;" + first.sql)
    bare.execute(
        "INSERT INTO schema_migrations (version, name, checksum) VALUES (1, %s, %s)",
        (first.name, first.checksum),
    )
    bare.execute(BEFORE_LOGS)
    ids = set(bare.execute('SELECT id, cluster_id, topic, partition, "offset" FROM predictions'))
    assert migrate(bare.credentials("owner")) == NAMES[1:]
    located = 'SELECT id, cluster_id, topic, partition, "offset" FROM located_predictions'
    assert set(bare.execute(located)) == ids
    assert bare.execute("SELECT * FROM missing_offsets") == []
    with Reader(bare.credentials("reader")) as reader:
        accounts = reader.accounts(limit=5)
    assert {(one.log.cluster_id, one.log.topic, one.recorded, one.balanced) for one in accounts} == {
        ("a", "t", 11, True),
        ("a", "b/c", 10, True),
        ("a/b", "c", 10, True),
        ('"é', "ÿ", 10, True),
        ("gone", "t", 7, True),
    }
    assert bare.execute(
        "SELECT o.cluster_id, n.cluster_id FROM replays r JOIN logs o USING (log_id)"
        " JOIN logs n ON n.log_id = r.new_log_id ORDER BY 2"
    ) == [("a", "a"), ("a", "elsewhere")]
    assert bare.execute("SELECT DISTINCT topic_id, first_seen FROM logs") == [("", None)]


def test_a_state_of_a_database_that_is_away_or_bare(bare: Database) -> None:
    with Reader(bare.credentials("reader")) as reader:
        state = reader.state()
    assert (state.connected, state.schema_version) == (True, None)
    assert "bdlab migrate" in state.problem
    nowhere = msgspec.structs.replace(bare.admin, server=msgspec.structs.replace(bare.admin.server, port=1))
    state = Reader(Logins(nowhere)).state()
    assert not state.connected
    assert "Connection refused" in state.problem
