"""Connections to PostgreSQL: bounded waits, cut if the server does not answer, and one that follows its credentials.
And what a psycopg2 error means: the one place that tells SQLSTATEs apart. `sql/*.sql` are files of queries that each
begin with ``-- name: <name>``.

42501 is DatabaseDenied; of the classes 22, 23 and 54, if the insert of rows raised it, RowRejected; anything else, or
none, DatabaseUnavailable. Source: PostgreSQL documentation, appendix A (error codes)."""

import contextlib
import math
import os
import socket
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import psycopg2
import structlog
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - named so by psycopg2
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.extensions import libpq_version

from bdlab.credentials import Connecting, DatabaseCredentials, DatabaseLogin
from bdlab.errors import DatabaseDenied, DatabaseError, DatabaseUnavailable, RowRejected, SettingsInvalid

LIBPQ = ".".join(map(str, divmod(libpq_version(), 10_000)))
#: Words of a server that did not answer, or accepts nobody now.
_NO_REFUSAL: list[str] = tomllib.loads(Path(__file__).with_name("faults.toml").read_text("utf-8"))["no_refusal"]
#: The first question after as many seconds of silence, the seconds between two, and how many go unanswered.
_KEEPALIVES: dict[str, Any] = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
#: A path that cannot exist: with it libpq does not look into ~/.postgresql.
_NO_FILE = "/dev/null/none"
#: Against what libpq looks for by default: a client's certificate, a revocation list, a Kerberos ticket.
_PINNED = {"gssencmode": "disable", "sslcertmode": "disable", "sslcrl": _NO_FILE}
#: Between two new logins after logins that never worked: each is another user at the server, for an hour.
_NEXT_LOGIN_S = 10.0
_log = structlog.get_logger()


@cache
def queries(file: str) -> dict[str, str]:
    """Return the queries of ``sql/<file>.sql`` by their names. A section ``$name`` stands in for that word after it."""
    text = files(__package__).joinpath("sql", f"{file}.sql").read_text("utf-8")
    sections: dict[str, str] = {}
    for section in text.split("-- name: ")[1:]:
        name, _, body = section.partition("\n")
        for word in [known for known in sections if known.startswith("$")]:
            body = body.replace(word, sections[word])
        sections[name.strip()] = body.strip()
    return sections


def ask(
    cursor: Cursor, statement: str | sql.Composable, values: Mapping[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    """Return the rows that a statement gives. Raises psycopg2.Error."""
    cursor.execute(statement, values)
    return cursor.fetchall()


def rows_of(cursor: Cursor) -> list[dict[str, Any]]:
    """Return the rows that a query gave, by the names of their columns."""
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def as_bytes(found: memoryview | None) -> bytes | None:
    """Return what a column of type bytea holds."""
    return None if found is None else bytes(found)


def translate(error: psycopg2.Error, *, server: str, rows: bool = False) -> DatabaseError:
    """Return the bdlab error for `error`; with `rows` it was raised by the insert of rows."""
    code = error.pgcode or ""  # empty if the error did not come from the server
    diagnosis = error.diag.message_primary if error.diag else None
    lines = (diagnosis or str(error)).strip().splitlines()
    text = lines[0].replace("\x00", "\\0") if lines else type(error).__name__
    if code == "42501":
        hint = "Run `bdlab migrate`; then compare the role's grants with docs/accounting.md."
        return DatabaseDenied(f"PostgreSQL at {server} denies it: {text} (SQLSTATE {code})", hint=hint)
    if rows and code[:2] in ("22", "23", "54"):
        return RowRejected(text, sqlstate=code)
    hint = "It is retried if that can help; `bdlab status` shows the state of the server."
    shown = f" (SQLSTATE {code})" if code else ""
    return DatabaseUnavailable(f"PostgreSQL at {server} failed: {text}{shown}", hint=hint)


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one connection, in seconds. The server enforces the first three. After `silence_s` in one
    transaction the client cuts the socket, also if the peer is alive and does not answer. `idle_in_transaction_s` frees
    the locks of a client that froze between two statements."""

    statement_s: float = 60.0
    lock_s: float = 30.0
    idle_in_transaction_s: float = 30.0
    silence_s: float = 90.0


def describe(login: DatabaseLogin) -> str:
    """Return host, port and database, for messages."""
    return f"{login.server.host}:{login.server.port}/{login.server.dbname}"


def parameters(login: DatabaseLogin, *, application_name: str) -> dict[str, Any]:
    """Return libpq's parameters for a login, but for its password."""
    server = login.server
    place = {"host": server.host, "port": server.port, "dbname": server.dbname, "user": login.user}
    trust = {"sslmode": server.sslmode, "sslrootcert": server.ca_file or _NO_FILE, **_PINNED}
    return {**place, **trust, "application_name": application_name}


def connect(login: DatabaseLogin, *, application_name: str, limits: ConnectionLimits) -> Connection:
    """Connect with `login`, and remove libpq's variables (`PG...`) from the environment of this process. Raises
    SettingsInvalid if there is no host, or no authority to verify it by, and psycopg2.Error."""
    # No parameter overrides some of them (PGSERVICE, PGTZ), and a later libpq may know others.
    for name in [name for name in os.environ if name.startswith("PG")]:
        os.environ.pop(name, None)
    server = login.server
    if not server.host:
        hint = "Vault's kv/database/credentials should hold it: run `bdlab vault-init`."
        raise SettingsInvalid("setting postgres.host is empty", hint=hint)
    if server.sslmode.startswith("verify") and not server.ca_file:
        why = f"setting postgres.sslmode is {server.sslmode}, and postgres.ca_file names no authority"
        hint = "Name the authority's PEM file: in .env (BDLAB_POSTGRES_CA_FILE), or as that variable."
        raise SettingsInvalid(why, hint=hint)
    options = {"statement_timeout": limits.statement_s, "lock_timeout": limits.lock_s}
    options["idle_in_transaction_session_timeout"] = limits.idle_in_transaction_s
    connection: Connection = psycopg2.connect(
        **parameters(login, application_name=application_name),
        password=login.password.reveal(),
        connect_timeout=max(2, math.ceil(server.connect_timeout_s)),
        client_encoding="UTF8",
        **_KEEPALIVES,
        # On Linux this also bounds how long keepalives go unanswered.
        tcp_user_timeout=math.ceil(min(limits.silence_s, 30.0) * 1000),
        options=" ".join(["-c timezone=UTC", *(f"-c {name}={math.ceil(1000 * s)}" for name, s in options.items())]),
    )
    return connection


@contextlib.contextmanager
def cut_after(seconds: float, connection: Connection) -> Iterator[None]:
    """Shut the connection's socket down if the block takes longer, so that a call fails instead of hanging. psycopg2
    waits inside libpq without a bound, and the peer's kernel answers TCP's keepalives even if the server hangs."""
    timer = threading.Timer(seconds, cut, args=[connection])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def cut(connection: Connection) -> None:
    """Shut the socket down, from any thread, so that a call that waits for the server fails at once."""
    # Both errors mean that the connection was closed meanwhile.
    with contextlib.suppress(psycopg2.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as handle:
        handle.shutdown(socket.SHUT_RDWR)


class Session(Connecting):
    """Transactions on one connection, which is made again if it broke or its credentials changed. Not for two threads
    at once. With `snapshot` each is read-only, and sees one state of the data (REPEATABLE READ)."""

    def __init__(
        self,
        credentials: DatabaseCredentials,
        *,
        application_name: str,
        limits: ConnectionLimits | None = None,
        snapshot: bool = False,
    ) -> None:
        self._credentials, self._application_name = credentials, application_name
        self._limits, self._snapshot = limits or ConnectionLimits(), snapshot
        self._connection: Connection | None = None
        self._login: DatabaseLogin | None = None
        self._refused: DatabaseLogin | None = None
        self._denied_before, self._next_login_at = False, 0.0
        #: Host, port and database of the login that was used last, for messages.
        self.server = "?"

    def open(self) -> None:
        """Connect now. Raises DatabaseError and VaultError."""
        self._current()

    def close(self) -> None:
        """Close the connection; what it had not committed is rolled back."""
        connection, self._connection = self._connection, None
        _close(connection)

    def _prepare(self, cursor: Cursor) -> None:
        """Prepare a new connection, before its first transaction."""

    def cut(self) -> None:
        """Let the transaction that is under way fail now, from another thread, as if the server were gone."""
        if (connection := self._connection) is not None:
            cut(connection)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """Yield a cursor in a transaction that commits at the end, or rolls back and raises DatabaseError. The first
        42501 is DatabaseUnavailable, as the lease of this connection may have been revoked; the next transaction has a
        new lease, and if that is denied too, it raises DatabaseDenied."""
        connection = self._current()
        try:
            with cut_after(self._limits.silence_s, connection):
                try:
                    with connection.cursor() as cursor:
                        yield cursor
                    connection.commit()
                except BaseException:
                    # The first error is raised, also if the rollback fails.
                    try:
                        connection.rollback()
                    except psycopg2.Error:
                        self.close()
                    raise
        except psycopg2.Error as error:
            if self._connection is not None and self._connection.closed:
                self.close()
            assert self._login is not None  # noqa: S101 - there is no transaction without a login
            raise self._judge(error, self._login) from error
        self._denied_before = False

    def ask(self, query: str, file: str, **values: Any) -> list[dict[str, Any]]:
        """Return the rows that a query of `sql/<file>.sql` gives, by the names of their columns."""
        with self.transaction() as cursor:
            cursor.execute(queries(file)[query], values)
            return rows_of(cursor)

    def _current(self) -> Connection:
        refused = self._refused
        wanted = self._credentials.database() if refused is None else self._replace(refused)
        if self._connection is not None and not self._connection.closed and wanted is self._login:
            return self._connection
        try:
            connection = self._connect(wanted)
        except DatabaseUnavailable:
            if self._refused is not wanted:
                raise
            # Its lease was revoked: get another login at once.
            wanted = self._replace(wanted)
            connection = self._connect(wanted)
        before, self._connection = self._connection, connection
        if self._login is not None and wanted is not self._login:
            _log.info("connected to PostgreSQL with new credentials", user=wanted.user, lease_id=wanted.lease_id)
        self._login = wanted
        _close(before)
        return connection

    def _replace(self, refused: DatabaseLogin) -> DatabaseLogin:
        """Return another login in place of `refused`, at once if that has worked, else at most every 10 s."""
        self._refused = None
        if refused is not self._login and time.monotonic() < self._next_login_at:
            return self._credentials.database()
        self._next_login_at = time.monotonic() + _NEXT_LOGIN_S
        return self._credentials.replace_database(refused)

    def _connect(self, login: DatabaseLogin) -> Connection:
        self.server = describe(login)
        try:
            connection = connect(login, application_name=self._application_name, limits=self._limits)
        except psycopg2.Error as error:
            # Class 28 if the server refuses this user, but a failed connect has no SQLSTATE, and the messages may be
            # in any language. So each counts but those of a server that did not answer, or accepts nobody now.
            if not any(words in str(error) for words in _NO_REFUSAL):
                self._refused = login
            raise translate(error, server=self.server) from error
        try:
            if self._snapshot:
                connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with cut_after(self._limits.silence_s, connection), connection.cursor() as cursor:
                self._prepare(cursor)
                connection.commit()
        except BaseException as error:
            _close(connection)
            if isinstance(error, psycopg2.Error):
                raise self._judge(error, login) from error
            raise
        return connection

    def _judge(self, error: psycopg2.Error, login: DatabaseLogin) -> Exception:
        found = translate(error, server=describe(login))
        if isinstance(found, DatabaseDenied):
            if self._denied_before:
                return found
            self._denied_before, self._refused = True, login
            return DatabaseUnavailable(f"{found.message}; trying once more under a fresh lease", hint=found.hint)
        if (error.pgcode or "").startswith("28"):
            self._refused = login
        return found


def _close(connection: Connection | None) -> None:
    if connection is not None:
        # It fails if the server is gone, and then the connection is closed anyway.
        with contextlib.suppress(psycopg2.Error):
            connection.close()
