"""The store's transaction while things break: all or nothing, and no fault is taken for a bad message."""

from __future__ import annotations

import os
import random
import signal
import string
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import psycopg2
import pytest
from psycopg2 import sql

from bdlab.errors import DatabaseDenied, DatabaseUnavailable, FenceLost, RowRejected, SchemaOutdated, SettingsInvalid
from bdlab.ledger import Entry, LogPartition, Stored
from bdlab.postgres.session import ConnectionLimits, Session
from bdlab.postgres.store import Store
from bdlab.settings import PostgresSettings, Secret
from bdlab.stack import Postgres
from tests.chaos.proxy import Proxy
from tests.fix_database import Database, Logins, admin_login, make_database
from tests.samples import CLUSTER, TOPIC, accepted, at, dead, event, rows
from tests.waiting import until

T = TypeVar("T")
ZERO = LogPartition(CLUSTER, TOPIC, 0)

TRIGGER = """
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = {code}; END$$;
CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION fail()
"""


@pytest.fixture
def logins(database: Database) -> Logins:
    return Logins(database.login("writer"), database.login("writer"), database.login("writer"))


@pytest.fixture
def store(logins: Logins) -> Iterator[Store]:
    """An open store with partition 0 at offset 0; it has two more leases to go to."""
    with opened(Store(logins)) as store:
        yield store


@pytest.fixture
def impatient(logins: Logins) -> Iterator[Store]:
    """Like `store`; it waits for a second or two, where a test is about the end of such a wait."""
    with opened(Store(logins, limits=ConnectionLimits(lock_s=1, statement_s=2))) as store:
        yield store


@contextmanager
def opened(store: Store) -> Iterator[Store]:
    store.open()
    store.start_offsets([at(0)])
    try:
        yield store
    finally:
        store.close()


@pytest.fixture(scope="module")
def shared(new_database: Callable[[], Database]) -> Iterator[tuple[Database, Store]]:
    """One for all tests that put things back as they were."""
    database = new_database()
    store = Store(database.credentials("writer"))
    store.open()
    store.start_offsets([at(0)])
    yield database, store
    store.close()


@contextmanager
def failing(database: Database, code: str, table: str) -> Iterator[None]:
    """Each write to `table` raises `code`."""
    database.execute(sql.SQL(TRIGGER).format(code=sql.Literal(code), table=sql.Identifier(table)))
    try:
        yield
    finally:
        database.execute(sql.SQL("DROP TRIGGER fail ON {}; DROP FUNCTION fail").format(sql.Identifier(table)))


def recorded(database: Database) -> list[tuple[int, str]]:
    return [
        (int(offset), table)
        for offset, table in database.execute('SELECT "offset", recorded_in FROM recorded_positions ORDER BY "offset"')
    ]


def untouched(database: Database) -> bool:
    return recorded(database) == [] and database.execute("SELECT next_offset FROM sink_offsets") == [(0,)]


PASSING = [
    "08000",
    "08006",
    "0A000",
    "25006",
    "25P02",
    "28000",
    "28P01",
    "40001",
    "40P01",
    "42P01",
    "53100",
    "53200",
    "53300",
    "53400",
    "55000",
    "55P03",
    "57014",
    "57P01",
    "58000",
    "58030",
    "F0000",
    "P0001",
    "XX000",
    "XX001",
]
CONTENT = ["22001", "22003", "22008", "22021", "22P02", "22P05", "23502", "23505", "23514", "54000"]


@pytest.mark.parametrize("code", PASSING)
def test_a_fault_of_the_server_is_worth_a_retry(shared: tuple[Database, Store], code: str) -> None:
    database, store = shared
    before = recorded(database)
    batch = rows(range(len(before), len(before) + 3))
    with failing(database, code, "predictions"), pytest.raises(DatabaseUnavailable, match=code):
        store.store(batch)
    assert recorded(database) == before
    assert store.store(batch) == Stored(rows=3)


@pytest.mark.parametrize("code", CONTENT)
def test_a_fault_of_the_content_is_told_with_its_sqlstate(shared: tuple[Database, Store], code: str) -> None:
    database, store = shared
    before = recorded(database)
    batch = rows(range(len(before), len(before) + 3))
    with failing(database, code, "predictions"), pytest.raises(RowRejected) as refused:
        store.store(batch)
    assert refused.value.sqlstate == code
    assert recorded(database) == before
    assert store.store(batch) == Stored(rows=3)


@pytest.mark.parametrize("table", ["sink_offsets", "dead_letters", "duplicates"])
@pytest.mark.parametrize("code", ["22001", "23514", "54000"])
def test_only_the_insert_of_rows_blames_their_content(shared: tuple[Database, Store], code: str, table: str) -> None:
    database, store = shared
    before = recorded(database)
    first = len(before)
    same = event()
    batch: list[Entry] = [accepted(at(first), same), dead(at(first + 1)), accepted(at(first + 2), same)]
    with failing(database, code, table), pytest.raises(DatabaseUnavailable, match=code):
        store.store(batch)
    assert recorded(database) == before
    assert store.store(batch) == Stored(rows=1, duplicates=1, dead_letters=1)


# The same classes as the server itself raises them.


@pytest.mark.parametrize(
    ("change", "text", "code"),
    [
        ("DROP VIEW located_predictions; ALTER TABLE predictions ALTER summary TYPE varchar(5)", "fine", "22001"),
        ("ALTER TABLE predictions ADD CHECK (text <> 'poison')", "poison", "23514"),
        ("ALTER TABLE predictions ADD extra text NOT NULL", "fine", "23502"),
        ("CREATE UNIQUE INDEX ON predictions (text)", "the same text", "23505"),
        ("CREATE INDEX ON predictions (text)", "", "54000"),
    ],
)
def test_content_that_only_postgres_refuses(
    database: Database, store: Store, change: str, text: str, code: str
) -> None:
    database.execute(change)
    # An index entry has to fit a third of a page, also compressed.
    text = text or "".join(random.Random(1).choices(string.printable.strip(), k=20_000))
    with pytest.raises(RowRejected) as refused:
        store.store([accepted(at(0), event(text=text)), accepted(at(1), event(text=text))])
    assert refused.value.sqlstate == code
    assert untouched(database)


def test_08_no_sqlstate_a_connection_that_is_reset(database: Database) -> None:
    with through_proxy(database) as (store, proxy):
        proxy.links["db"].reset()
        with pytest.raises(DatabaseUnavailable):
            store.store(rows(range(3)))
        assert store.store(rows(range(3))) == Stored(rows=3)


def test_25_a_read_only_database(database: Database, store: Store) -> None:
    name = sql.Identifier(database.admin.server.dbname)
    database.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    store.close()
    # Connecting makes the temporary table, which a read-only transaction may; only the rows are refused.
    with pytest.raises(DatabaseUnavailable, match="25006"):
        store.store(rows(range(3)))
    with admin_connection(database) as other, other.cursor() as cursor:
        other.set_session(readonly=False)
        cursor.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(name))
        other.commit()
    store.close()
    assert store.store(rows(range(3))) == Stored(rows=3)


def test_28_a_refused_password_takes_fresh_credentials(database: Database, logins: Logins) -> None:
    logins.leases[0] = msgspec.structs.replace(logins.leases[0], password=Secret("wrong"))
    store = Store(logins)
    store.open()
    assert logins.replaced == 1
    store.start_offsets([at(0)])
    assert store.store(rows(range(3))) == Stored(rows=3)
    store.close()


def test_28_fresh_credentials_that_are_refused_too_are_an_outage(
    database: Database, logins: Logins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In which the same ones are tried again: each of the others would be one more user at the server."""
    good = logins.leases
    logins.leases = [msgspec.structs.replace(login, password=Secret("wrong")) for login in good[:2]]
    store = Store(logins)
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable, match="password authentication failed"):
            store.open()
    assert logins.replaced == 1
    later = time.monotonic() + 3600
    monkeypatch.setattr("bdlab.postgres.session.time.monotonic", lambda: later)
    with pytest.raises(DatabaseUnavailable):
        store.open()
    assert logins.replaced > 1
    logins.leases = good[:1]
    store.open()
    store.close()


def test_28_a_user_that_may_not_log_in(database: Database, logins: Logins, store: Store) -> None:
    database.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(logins.leases[0].user)))
    assert store.store(rows(range(2))) == Stored(rows=2)  # the open session goes on
    store.close()
    assert store.store(rows([2])) == Stored(rows=1)
    assert logins.replaced == 1


def test_40_a_deadlock_with_somebody_elses_transaction(database: Database, store: Store) -> None:
    """Somebody holds the row of an id that the batch wants, and then wants the batch's partition."""
    batch = rows(range(3))
    store.store(batch)
    again = [accepted(at(3), batch[0].event), *rows([4])]
    with admin_connection(database) as other, other.cursor() as cursor:
        cursor.execute("SET deadlock_timeout = '10min'")  # the store's side has to find it
        # The id is gone in this transaction: an insert of it waits for its end.
        cursor.execute("DELETE FROM predictions WHERE id = %s", (str(batch[0].event.id),))
        failures: list[Exception] = []
        tries = threading.Thread(target=lambda: failures.append(raised(store, again)))
        tries.start()
        until(lambda: waiting_for_lock(database) == 1)
        cursor.execute("SET lock_timeout = '60s'; UPDATE sink_offsets SET end_seen = end_seen")
        tries.join(60)
        other.rollback()
    assert [type(failure) for failure in failures] == [DatabaseUnavailable]
    assert any(code in str(failures[0]) for code in ("40P01", "55P03"))
    assert store.store(again) == Stored(rows=1, duplicates=1)


def test_53_a_user_with_too_many_connections(database: Database, logins: Logins, store: Store) -> None:
    user = sql.Identifier(logins.leases[0].user)
    store.close()
    database.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT 0").format(user))
    with pytest.raises(DatabaseUnavailable, match="too many connections"):
        store.store(rows(range(3)))
    database.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT -1").format(user))
    assert store.store(rows(range(3))) == Stored(rows=3)
    assert logins.replaced == 0  # there was nothing wrong with the lease


def test_53_a_limit_on_disk_space(database: Database, store: Store) -> None:
    """The server's own bound on temporary files, which a sort of a large batch runs into."""
    name = sql.Identifier(database.admin.server.dbname)
    for setting in ("temp_file_limit = '64kB'", "work_mem = '64kB'"):
        database.execute(sql.SQL("ALTER DATABASE {} SET ").format(name) + sql.SQL(setting))
    store.close()
    large = [accepted(at(offset), event(text="x" * 2000)) for offset in range(500)]
    with pytest.raises(DatabaseUnavailable, match="53400"):
        store.store(large)
    assert untouched(database)
    database.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(name))
    store.close()
    assert store.store(large) == Stored(rows=500)


def test_55_a_table_that_somebody_has_locked(database: Database, impatient: Store) -> None:
    with admin_connection(database) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE predictions IN EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnavailable, match="55P03"):
            impatient.store(rows(range(3)))
        other.rollback()
    assert eventually(lambda: impatient.store(rows(range(3)))) == Stored(rows=3)


def test_57_a_session_that_is_terminated(database: Database, store: Store) -> None:
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'bdlab consume' AND datname = current_database()"
    )
    with pytest.raises(DatabaseUnavailable):
        store.store(rows(range(3)))
    assert store.store(rows(range(3))) == Stored(rows=3)


def test_57_a_statement_that_takes_too_long(database: Database, impatient: Store) -> None:
    slow_inserts(database, seconds=30)
    with pytest.raises(DatabaseUnavailable, match="57014"):
        impatient.store(rows(range(3)))
    assert untouched(database)


# Privileges and leases.


def test_42501_under_a_revoked_lease_is_worth_a_retry(database: Database, logins: Logins, store: Store) -> None:
    # Revoked so that the session stays open and its role is no member any more.
    database.execute(sql.SQL("REVOKE bdlab_writer FROM {}").format(sql.Identifier(logins.leases[0].user)))
    database.execute(sql.SQL("ALTER ROLE {} RESET role").format(sql.Identifier(logins.leases[0].user)))
    store.close()
    assert store.store(rows(range(3))) == Stored(rows=3)
    assert logins.replaced == 1


def test_42501_under_a_fresh_lease_is_final(database: Database, logins: Logins, store: Store) -> None:
    database.execute("REVOKE INSERT ON predictions FROM bdlab_writer")
    with pytest.raises(DatabaseUnavailable, match="fresh lease"):
        store.store(rows(range(3)))
    with pytest.raises(DatabaseDenied, match="permission denied for table predictions") as denied:
        store.store(rows(range(3)))
    assert "bdlab migrate" in denied.value.hint
    assert untouched(database)
    assert logins.replaced == 1
    # Where somebody mends it, the same store goes on.
    database.execute("GRANT INSERT ON predictions TO bdlab_writer")
    assert store.store(rows(range(3))) == Stored(rows=3)


def test_a_lease_that_ends_as_vault_ends_it(database: Database, logins: Logins, store: Store) -> None:
    database.revoke(logins.leases[0])
    with pytest.raises(DatabaseUnavailable):  # the cut connection; the user is refused next
        store.store(rows(range(3)))
    assert store.store(rows(range(3))) == Stored(rows=3)
    assert logins.replaced == 1


def test_new_credentials_are_connected_before_the_old_connection_goes(
    database: Database, logins: Logins, store: Store
) -> None:
    store.store(rows([0]))
    del logins.leases[0]
    store.store(rows([1]))
    users = database.execute(
        "SELECT usename FROM pg_stat_activity WHERE application_name = 'bdlab consume' AND datname = current_database()"
    )
    assert users == [(logins.leases[0].user,)]


def test_what_the_roles_may_and_may_not(shared: tuple[Database, Store]) -> None:
    database, _ = shared
    sessions = {
        role: Session(database.credentials(role), application_name="test") for role in ("owner", "writer", "reader")
    }

    def denied(role: str, statement: str, table: str = "") -> bool:
        try:
            with sessions[role].transaction() as cursor:
                cursor.execute(sql.SQL(statement).format(sql.Identifier(table)))
        except (DatabaseUnavailable, DatabaseDenied) as error:
            return "42501" in error.message
        return False

    for table in ("predictions", "duplicates", "dead_letters", "replays"):
        assert denied("writer", "UPDATE {} SET log_id = log_id", table)
        assert denied("writer", "DELETE FROM {}", table)
        assert denied("reader", "INSERT INTO {} (log_id) VALUES (1)", table)
        assert not denied("reader", "SELECT * FROM {}", table)
    for role in ("writer", "reader"):
        assert denied(role, "CREATE TABLE mine (id int)")
        assert denied(role, "DELETE FROM sink_offsets")
        assert denied(role, "UPDATE checkpoints SET pruned_to = 0")
        assert denied(role, "INSERT INTO schema_migrations VALUES (99, 'x', 'x', now())")
    assert denied("reader", "UPDATE sink_offsets SET next_offset = 0")
    assert denied("reader", "CREATE TEMPORARY TABLE mine (id int)")
    assert not denied("owner", "CREATE TABLE mine (id int)")
    for session in sessions.values():
        session.close()


# Time: processes that die, freeze, or face silence.

CHILD = """
import os, signal, sys
from pathlib import Path
import msgspec
sys.path.insert(0, {root!r})
from bdlab.credentials import DatabaseLogin
from tests.static_credentials import StaticCredentials
from bdlab.postgres import store
from bdlab.settings import PostgresSettings, Secret
from tests.samples import accepted, at, dead, event

if {freeze}:
    store.Store._insert_dead_letters = lambda *_: os.kill(os.getpid(), signal.SIGSTOP) or 1
server, user, password = sys.stdin.read().splitlines()
login = DatabaseLogin(
    server=msgspec.json.decode(server, type=PostgresSettings), user=user, password=Secret(password)
)
mine = store.Store(StaticCredentials(database=login), idle_in_transaction_s=5)
mine.open()
print(mine.store([*(accepted(at(offset)) for offset in range(200)), dead(at(200))]))
"""


@contextmanager
def child(database: Database, *, freeze: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Another process that stores offsets 0 to 200; with `freeze` it stops itself behind the fence."""
    login = database.login("writer")
    server = msgspec.json.encode(login.server).decode()
    program = CHILD.format(root=str(Path(__file__).parents[2]), freeze=freeze)
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(f"{server}\n{login.user}\n{login.password.reveal()}")
        process.stdin.close()
        process.stdin = None
        try:
            yield process
        finally:
            process.kill()


def test_a_consumer_killed_in_the_middle_of_the_insert_leaves_nothing(database: Database, store: Store) -> None:
    slow_inserts(database, seconds=8)
    with child(database) as process:
        until(lambda: sleeping(database) == 1)
        process.kill()
        process.wait(10)
    database.execute("DROP TRIGGER slow ON predictions")
    batch = rows(range(10))
    assert eventually(lambda: store.store(batch)) == Stored(rows=10)
    assert recorded(database) == [(offset, "predictions") for offset in range(10)]


def test_a_frozen_consumer_loses_its_lock_and_its_batch(database: Database, store: Store) -> None:
    with child(database, freeze=True) as process:
        until(lambda: stopped(process.pid) and idle_in_transaction(database) == 1)
        began = time.monotonic()
        assert eventually(lambda: store.store(rows(range(10)))) == Stored(rows=10)
        assert time.monotonic() - began < 60
        os.kill(process.pid, signal.SIGCONT)
        output, _ = process.communicate(timeout=60)
        assert "DatabaseUnavailable" in output
    assert recorded(database) == [(offset, "predictions") for offset in range(10)]


def test_a_commit_whose_answer_is_lost_is_found_at_the_fence(database: Database) -> None:
    with through_proxy(database) as (store, proxy):
        batch = rows(range(3))
        with admin_connection(database) as other, other.cursor() as cursor:
            # Hold the insert back until the proxy no longer brings answers: then let it commit.
            cursor.execute("LOCK TABLE predictions IN EXCLUSIVE MODE")
            failures: list[Exception] = []
            tries = threading.Thread(target=lambda: failures.append(raised(store, batch)))
            tries.start()
            until(lambda: waiting_for_lock(database) == 1)
            other.rollback()
            until(lambda: bool(recorded(database)) or not tries.is_alive())
            tries.join(20)
        proxy.links["db"].reset()
        with pytest.raises(DatabaseUnavailable):
            store.store(batch)
        with pytest.raises(FenceLost):
            store.store(batch)
        assert len(recorded(database)) == 3


def test_silence_is_cut(database: Database) -> None:
    limits = ConnectionLimits(silence_s=4)
    with through_proxy(database, limits=limits) as (store, proxy):
        store.store(rows([0]))
        proxy.links["db"].stall()
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            store.store(rows([1]))
        assert time.monotonic() - began < 60
        proxy.links["db"].flow()
        assert store.store(rows([1])) == Stored(rows=1)


def test_rivals_for_a_partition_never_store_a_position_twice(database: Database) -> None:
    """Both believe the partition is theirs; whoever loses the fence goes on from where the other is."""
    stores = [Store(database.credentials("writer")) for _ in range(3)]
    for one in stores:
        one.open()
    stores[0].start_offsets([at(0)])
    topic = rows(range(300))

    def consume(mine: Store) -> None:
        generator = random.Random(id(mine))
        while (start := mine.start_offsets([at(0)])[0].offset) < len(topic):
            try:
                mine.store(topic[start : start + generator.randint(1, 20)])
            except FenceLost:
                continue

    threads = [threading.Thread(target=consume, args=[one]) for one in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for one in stores:
        one.close()
    assert recorded(database) == [(offset, "predictions") for offset in range(300)]


def test_the_server_killed_and_started_again(own_postgres: Callable[[], Postgres]) -> None:
    server = own_postgres()
    database = make_database(server)
    store = Store(database.credentials("writer"))
    store.open()
    store.start_offsets([at(0)])
    store.store(rows(range(100)))
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    # A session outlives its killed server for a moment, and may commit in it: then the fence says so below.
    before_restart = raised(store, rows([100]))
    server.stop()
    server.start()
    moved = admin_login(server, database.admin.server.dbname)
    assert moved.server.port == database.admin.server.port
    following = eventually(lambda: store.start_offsets([at(0)]))[0].offset
    assert following == (100 if isinstance(before_restart, DatabaseUnavailable) else 101)
    assert eventually(lambda: store.store(rows([following]))) == Stored(rows=1)
    assert recorded(database) == [(offset, "predictions") for offset in range(following + 1)]
    store.close()


# Schema and settings.


def test_a_database_without_the_schema_says_what_to_run(postgres_server: Postgres, database: Database) -> None:
    database.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC")
    with pytest.raises(SchemaOutdated, match="version 0, and this bdlab needs") as outdated:
        Store(database.credentials("writer")).open()
    assert outdated.value.hint == "Run `bdlab migrate`."


def test_a_newer_schema_is_left_alone(database: Database) -> None:
    database.execute("INSERT INTO schema_migrations VALUES (99, 'later', 'x', now())")
    with pytest.raises(SchemaOutdated, match="version 99, newer"):
        Store(database.credentials("writer")).open()


def test_a_login_without_a_host_names_the_setting(database: Database) -> None:
    login = msgspec.structs.replace(database.admin, server=PostgresSettings())
    with pytest.raises(SettingsInvalid, match=r"postgres\.host"):
        Store(Logins(login)).open()


# Helpers.


@contextmanager
def through_proxy(database: Database, *, limits: ConnectionLimits | None = None) -> Iterator[tuple[Store, Proxy]]:
    """A store whose connections pass through a proxy with one link, `db`."""
    login = database.login("writer")
    proxy = Proxy("db").start((login.server.host, login.server.port))
    server = msgspec.structs.replace(login.server, host=proxy.address[0], port=proxy.address[1])
    store = Store(Logins(msgspec.structs.replace(login, server=server)), limits=limits)
    try:
        store.open()
        store.start_offsets([at(0)])
        yield store, proxy
    finally:
        store.close()
        proxy.close()


@contextmanager
def admin_connection(database: Database) -> Iterator[psycopg2.extensions.connection]:
    login = database.admin
    connection = psycopg2.connect(
        host=login.server.host,
        port=login.server.port,
        dbname=login.server.dbname,
        user=login.user,
        password=login.password.reveal(),
    )
    try:
        yield connection
    finally:
        connection.close()


def slow_inserts(database: Database, *, seconds: float) -> None:
    database.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM pg_sleep(TG_ARGV[0]::float); RETURN NULL; END$$;"
        " CREATE TRIGGER slow AFTER INSERT ON predictions FOR EACH STATEMENT EXECUTE FUNCTION slow(%s)",
        (seconds,),
    )


def raised(store: Store, batch: Sequence[Entry]) -> Exception:
    try:
        store.store(batch)
    except Exception as error:  # noqa: BLE001 - handed to the test
        return error
    return AssertionError("it was stored")


def eventually(work: Callable[[], T]) -> T:
    """What `work` gives, tried again as the sink does for at most 60 s."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return work()
        except DatabaseUnavailable:
            if time.monotonic() > deadline:
                raise
            threading.Event().wait(0.1)


def stopped(pid: int) -> bool:
    """Whether the process is stopped by a signal (proc(5), the state behind the name)."""
    return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] == "T"


SESSIONS = """
SELECT wait_event, wait_event_type, state FROM pg_stat_activity
WHERE application_name = 'bdlab consume' AND datname = current_database()
"""


def sleeping(database: Database) -> int:
    return sum(event == "PgSleep" for event, _, _ in database.execute(SESSIONS))


def waiting_for_lock(database: Database) -> int:
    return sum(kind == "Lock" for _, kind, _ in database.execute(SESSIONS))


def idle_in_transaction(database: Database) -> int:
    return sum(state == "idle in transaction" for _, _, state in database.execute(SESSIONS))
