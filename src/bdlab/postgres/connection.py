"""One connection to PostgreSQL, with bounded waits, that is cut if the server does not answer."""

import contextlib
import math
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - named so by psycopg2
from psycopg2.extensions import libpq_version

from bdlab.credentials import DatabaseLogin
from bdlab.errors import SettingsInvalid

LIBPQ = ".".join(map(str, divmod(libpq_version(), 10_000)))

_KEEPALIVE_IDLE_S = 10
_KEEPALIVE_INTERVAL_S = 5
_KEEPALIVE_COUNT = 3
_UNACKNOWLEDGED_S = 30.0
#: A path that cannot exist: with it libpq does not look into ~/.postgresql.
NO_FILE = "/dev/null/none"
#: Against what libpq looks for by default: a client's certificate, a revocation list, a Kerberos ticket.
PINNED: dict[str, Any] = {"gssencmode": "disable", "sslcertmode": "disable", "sslcrl": NO_FILE}


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one connection, in seconds.

    The server enforces the first three. After `silence_s` in one transaction the client cuts the socket, also
    if the peer is alive and does not answer. `idle_in_transaction_s` frees the locks of a client that froze
    between two statements.
    """

    statement_s: float = 60.0
    lock_s: float = 30.0
    idle_in_transaction_s: float = 30.0
    silence_s: float = 90.0


def describe(login: DatabaseLogin) -> str:
    """Return host, port and database, for messages."""
    return f"{login.server.host}:{login.server.port}/{login.server.dbname}"


def connect(login: DatabaseLogin, *, application_name: str, limits: ConnectionLimits) -> Connection:
    """Connect with `login`, and remove libpq's variables (`PG...`) from the environment of this process.

    Raises SettingsInvalid if there is no host, or no authority to verify it by, and psycopg2.Error.
    """
    # No parameter overrides some of them (PGSERVICE, PGTZ), and a later libpq may know others.
    for name in [name for name in os.environ if name.startswith("PG")]:
        os.environ.pop(name, None)
    server = login.server
    if not server.host:
        raise SettingsInvalid(
            "setting postgres.host is empty",
            hint="Vault's kv/database/credentials should hold it: run `bdlab vault-init`.",
        )
    if server.sslmode.startswith("verify") and not server.ca_file:
        raise SettingsInvalid(
            f"setting postgres.sslmode is {server.sslmode}, and postgres.ca_file names no authority",
            hint="Name the authority's PEM file: in .env (BDLAB_POSTGRES_CA_FILE), or as that variable.",
        )
    options = {
        "statement_timeout": limits.statement_s,
        "lock_timeout": limits.lock_s,
        "idle_in_transaction_session_timeout": limits.idle_in_transaction_s,
    }
    connection: Connection = psycopg2.connect(
        host=server.host,
        port=server.port,
        dbname=server.dbname,
        user=login.user,
        password=login.password.reveal(),
        sslmode=server.sslmode,
        sslrootcert=server.ca_file or NO_FILE,
        connect_timeout=max(2, math.ceil(server.connect_timeout_s)),
        application_name=application_name,
        client_encoding="UTF8",
        keepalives=1,
        keepalives_idle=_KEEPALIVE_IDLE_S,
        keepalives_interval=_KEEPALIVE_INTERVAL_S,
        keepalives_count=_KEEPALIVE_COUNT,
        # On Linux this also bounds how long keepalives go unanswered.
        tcp_user_timeout=math.ceil(min(limits.silence_s, _UNACKNOWLEDGED_S) * 1000),
        options=" ".join(
            [f"-c {name}={math.ceil(seconds * 1000)}" for name, seconds in options.items()] + ["-c timezone=UTC"]
        ),
        **PINNED,
    )
    return connection


@contextlib.contextmanager
def cut_after(seconds: float, connection: Connection) -> Iterator[None]:
    """Shut the connection's socket down if the block takes longer, so that a call fails instead of hanging.

    psycopg2 waits inside libpq without a bound, and the peer's kernel answers TCP's keepalives even if the
    server hangs.
    """
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
