"""A database login that does what it can to outlive its lease, and what is done about it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import msgspec
import psycopg2
import pytest

from bdlab.credentials import DatabaseLogin
from bdlab.postgres.reader import Reader
from bdlab.services import DATABASE_ROLES
from bdlab.settings import Secret
from bdlab.vault.rotation.database import drop_left_behind, end_logins
from tests.fix_database import migrate
from tests.fix_rotation import rotation
from tests.fix_vault import VaultWorld
from tests.waiting import until

OWN_PASSWORD = "of-its-own-making"
#: What makes a plain DROP ROLE fail, or wait.
RESIST = (
    "SET ROLE NONE",
    f"ALTER ROLE CURRENT_USER PASSWORD '{OWN_PASSWORD}'",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
    "ALTER ROLE CURRENT_USER SET role TO 'none'",
    "ALTER ROLE CURRENT_USER SET statement_timeout TO 0",
)


@pytest.fixture(scope="module")
def migrated(vault_world: VaultWorld) -> VaultWorld:
    with vault_world.session("migrate", "bdlab-owner", daemon=False) as session:
        migrate(session)
    return vault_world


Lease = Callable[[str], DatabaseLogin]


@pytest.fixture
def lease(migrated: VaultWorld) -> Iterator[Lease]:
    """Gives logins of a role, which live at most as long as the test."""
    with migrated.root() as root:

        def take(role: str) -> DatabaseLogin:
            answer = root.read(f"database/creds/{role}")
            user, password = str(answer["username"]), Secret(str(answer["password"]))
            return DatabaseLogin(server=migrated.server, user=user, password=password)

        yield take


@contextlib.contextmanager
def logged_in(world: VaultWorld, login: DatabaseLogin) -> Iterator[psycopg2.extensions.cursor]:
    with contextlib.closing(world.connect(login)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor


def resisting(world: VaultWorld, login: DatabaseLogin) -> DatabaseLogin:
    with logged_in(world, login) as cursor:
        for statement in RESIST:
            cursor.execute(statement)
    return msgspec.structs.replace(login, password=Secret(OWN_PASSWORD))


def gets_in(world: VaultWorld, login: DatabaseLogin) -> bool:
    try:
        world.connect(login).close()
    except psycopg2.OperationalError:
        return False
    return True


def end_all(world: VaultWorld) -> dict[str, str]:
    with rotation(world) as run:
        return {one.service: one.outcome for one in end_logins(run)}


ROTATED = dict.fromkeys((role.name for role in DATABASE_ROLES), "rotated")


@pytest.mark.parametrize("role", ROTATED)
def test_what_a_login_owns_does_not_keep_it_alive(migrated: VaultWorld, lease: Lease, role: str) -> None:
    login = resisting(migrated, lease(role))
    assert gets_in(migrated, login)
    with logged_in(migrated, login) as cursor:
        assert end_all(migrated) == ROTATED
        with pytest.raises(psycopg2.Error):
            cursor.execute("SELECT 1")
    assert not gets_in(migrated, login)
    assert login.user not in migrated.users()


def test_tables_that_an_owner_made_outside_its_group_stay_and_are_the_groups(
    migrated: VaultWorld, lease: Lease
) -> None:
    login = lease("bdlab-owner")
    with logged_in(migrated, login) as cursor:
        cursor.execute("SET ROLE NONE")
        cursor.execute("CREATE TABLE kept AS SELECT 7 AS number")
    assert end_all(migrated) == ROTATED
    assert login.user not in migrated.users()
    with logged_in(migrated, lease("bdlab-owner")) as cursor:
        cursor.execute("SELECT number, pg_get_userbyid(relowner) FROM kept, pg_class WHERE relname = 'kept'")
        assert cursor.fetchone() == (7, "bdlab_owner")
        cursor.execute("DROP TABLE kept")


def test_a_lock_on_its_own_row_holds_nothing_up(migrated: VaultWorld, lease: Lease) -> None:
    login = lease("bdlab-reader")
    with contextlib.closing(migrated.connect(login)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET ROLE NONE; ALTER ROLE CURRENT_USER PASSWORD '{OWN_PASSWORD}'")  # and no commit
        assert end_all(migrated) == ROTATED
    assert not gets_in(migrated, login)
    assert login.user not in migrated.users()


def test_who_logs_in_again_and_again_during_the_revocation_is_out_too(migrated: VaultWorld, lease: Lease) -> None:
    login = resisting(migrated, lease("bdlab-reader"))
    stop = threading.Event()
    entries: list[psycopg2.extensions.connection] = []

    def storm() -> None:
        while not stop.is_set():
            with contextlib.suppress(psycopg2.Error):
                connection = migrated.connect(login)
                entries.append(connection)
                with connection.cursor() as cursor:
                    cursor.execute("SET lock_timeout = '20ms'")  # of these too, only one can hold it
                    cursor.execute(f"ALTER ROLE CURRENT_USER PASSWORD '{OWN_PASSWORD}'")

    threads = [threading.Thread(target=storm, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(entries) > 5)
        assert end_all(migrated) == ROTATED
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not gets_in(migrated, login)
    assert login.user not in migrated.users()
    assert sessions_of(migrated, login) == []
    for connection in entries:
        connection.close()


def sessions_of(world: VaultWorld, login: DatabaseLogin) -> list[tuple[object, ...]]:
    """Those of the login, and of whoever is no role any more."""
    with logged_in(world, world.manager.admin) as cursor:
        cursor.execute(
            "SELECT pid, usename FROM pg_stat_activity WHERE usename = %s OR (usesysid IS NOT NULL "
            "AND NOT EXISTS (SELECT FROM pg_roles WHERE oid = usesysid))",
            (login.user,),
        )
        return cursor.fetchall()


@pytest.fixture
def left_behind(migrated: VaultWorld, lease: Lease) -> Iterator[Callable[[], DatabaseLogin]]:
    """Makes a login whose DROP fails: it owns something in another database, where Vault is not."""
    admin = migrated.manager.admin
    elsewhere = msgspec.structs.replace(admin, server=msgspec.structs.replace(admin.server, dbname="other"))
    with logged_in(migrated, admin) as cursor:
        cursor.execute("CREATE DATABASE other")
    owners = []

    def make() -> DatabaseLogin:
        login = lease("bdlab-reader")
        with logged_in(migrated, msgspec.structs.replace(login, server=elsewhere.server)) as cursor:
            cursor.execute("SET ROLE NONE")
            cursor.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC")
        owners.append(login)
        return login

    yield make
    with logged_in(migrated, admin) as cursor:
        cursor.execute("DROP DATABASE other")
    with rotation(migrated) as run:
        assert drop_left_behind(run).outcome == "rotated"
    assert not {login.user for login in owners} & migrated.users()


def test_what_cannot_be_dropped_cannot_log_in_and_is_named(
    migrated: VaultWorld, left_behind: Callable[[], DatabaseLogin]
) -> None:
    login = left_behind()
    assert end_all(migrated) == ROTATED
    assert not gets_in(migrated, login)
    assert login.user in migrated.users()
    with rotation(migrated) as run:
        found = drop_left_behind(run)
    assert found.outcome == "incomplete"
    assert f"{login.user}: role" in found.detail
    assert "in database other" in found.detail
    with migrated.session("status", "bdlab-reader", daemon=False) as session, Reader(session) as reader:
        assert reader.state().ended_logins == {login.user: 0}


def test_one_role_whose_logins_cannot_be_ended_keeps_no_other_from_it(migrated: VaultWorld, lease: Lease) -> None:
    login, stuck = lease("bdlab-reader"), lease("bdlab-owner")
    with migrated.root() as root:
        role = root.read("database/roles/bdlab-owner")
        root.write("database/roles/bdlab-owner", {**role, "revocation_statements": ["SELECT 1 / 0"]})
        assert end_all(migrated) == ROTATED | {"bdlab-owner": "incomplete"}
    assert stuck.user in migrated.users()
    assert login.user not in migrated.users()
    # Statements of an older version are replaced, and then end what those could not.
    done = {step.name: step.details for step in migrated.init() if step.outcome == "done"}
    assert done["database roles"] == ("bdlab-owner",)
    assert end_all(migrated) == ROTATED
    assert stuck.user not in migrated.users()


def test_the_servers_own_databases_are_closed_to_users(migrated: VaultWorld, lease: Lease) -> None:
    login = lease("bdlab-reader")
    for name in ("postgres", "template1"):
        server = msgspec.structs.replace(login.server, dbname=name)
        assert not gets_in(migrated, msgspec.structs.replace(login, server=server)), name
    assert migrated.manager.open_databases() == ()
