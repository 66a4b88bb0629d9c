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
from bdlab.postgres.reader import Reader
from bdlab.postgres.roles import MANAGER, manager_exists, prepare
from bdlab.settings import Secret
from bdlab.stack import Postgres
from tests.fix_database import Database, Logins, admin_login, make_bare_database


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
    assert migrate(Logins(login)) == ("0001_tables",)
    # What the user made is the group's, so the user can be dropped.
    as_manager.revoke(login)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        as_manager.execute("CREATE DATABASE mine")


def test_a_manager_needs_a_password_when_it_is_made(
    postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = admin_login(postgres_server, f"test_{uuid4().hex[:12]}")
    monkeypatch.setattr("bdlab.postgres.roles.MANAGER", f"manager_{uuid4().hex[:8]}")
    with pytest.raises(InvalidInput, match="no password is given"):
        prepare(admin)


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
    names = tuple(f"{one.version:04d}_{one.name}" for one in migrations())
    assert sorted(applied) == [(), (), names]
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


def test_a_later_schema_is_left_alone(database: Database) -> None:
    database.execute("INSERT INTO schema_migrations (version, name, checksum) VALUES (9999, 'later', 'x')")
    with pytest.raises(SchemaOutdated, match="version 9999, newer than this bdlab knows"):
        migrate(database.credentials("owner"))


def test_a_state_of_a_database_that_is_away_or_bare(bare: Database) -> None:
    with Reader(bare.credentials("reader")) as reader:
        state = reader.state()
    assert (state.connected, state.schema_version) == (True, None)
    assert "bdlab migrate" in state.problem
    nowhere = msgspec.structs.replace(bare.admin, server=msgspec.structs.replace(bare.admin.server, port=1))
    state = Reader(Logins(nowhere)).state()
    assert not state.connected
    assert "Connection refused" in state.problem
