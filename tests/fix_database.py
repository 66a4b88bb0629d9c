"""Databases of one's own in the session's Postgres, with the roles and users of a running pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec
import psycopg2
import pytest
from psycopg2 import sql

from bdlab.contract import Contract, review_contract
from bdlab.credentials import DatabaseCredentials, DatabaseLogin
from bdlab.postgres import contracts
from bdlab.postgres.roles import Administrator
from bdlab.settings import PostgresSettings, Secret
from bdlab.stack import Postgres

#: libpq's own variables, each with a value that breaks or diverts a connection which heeds it.
HOSTILE_LIBPQ = {
    "PGHOST": "192.0.2.1",
    "PGHOSTADDR": "192.0.2.1",
    "PGPORT": "1",
    "PGDATABASE": "absent",
    "PGUSER": "nobody",
    "PGPASSWORD": "wrong",
    "PGPASSFILE": "/dev/full",
    "PGSERVICE": "absent",
    "PGSERVICEFILE": "/absent",
    "PGSYSCONFDIR": "/absent",
    "PGOPTIONS": "-c search_path=pg_catalog -c absent=1",
    "PGAPPNAME": "somebody else",
    "PGCLIENTENCODING": "absent",
    "PGDATESTYLE": "absent",
    "PGTZ": "Absent/Nowhere",
    "PGGEQO": "absent",
    "PGCHANNELBINDING": "require",
    "PGREQUIREAUTH": "none",
    "PGREQUIREPEER": "nobody",
    "PGGSSENCMODE": "require",
    "PGGSSLIB": "absent",
    "PGKRBSRVNAME": "absent",
    "PGSSLMODE": "verify-full",
    "PGSSLNEGOTIATION": "direct",
    "PGSSLCERT": "/absent",
    "PGSSLKEY": "/absent",
    "PGSSLCERTMODE": "require",
    "PGSSLROOTCERT": "/absent",
    "PGSSLCRL": "/absent",
    "PGSSLCRLDIR": "/absent",
    "PGSSLSNI": "absent",
    "PGSSLMINPROTOCOLVERSION": "absent",
    "PGSSLMAXPROTOCOLVERSION": "TLSv1",
    "PGMINPROTOCOLVERSION": "absent",
    "PGMAXPROTOCOLVERSION": "absent",
    "PGTARGETSESSIONATTRS": "standby",
    "PGLOADBALANCEHOSTS": "absent",
    "PGCONNECT_TIMEOUT": "absent",
}


class Logins:
    """Database credentials as a test wants them: `leases` are handed out one after the other.

    `replace_database` moves on to the next lease, and stays at the last. `replaced` counts how often.
    """

    def __init__(self, *leases: DatabaseLogin) -> None:
        self.leases = list(leases)
        self.replaced = 0

    def database(self) -> DatabaseLogin:
        return self.leases[0]

    def replace_database(self, refused: DatabaseLogin) -> DatabaseLogin:
        self.replaced += 1
        if refused is self.leases[0] and len(self.leases) > 1:
            del self.leases[0]
        return self.leases[0]


@dataclass
class Database:
    """A database with bdlab's schema. `admin` is the server's administrator in it."""

    admin: DatabaseLogin

    def login(self, role: str) -> DatabaseLogin:
        """A new user as Vault makes them: a member of `bdlab_<role>` that works as the group."""
        user = f"test-{role}-{uuid4().hex[:12]}"
        password = uuid4().hex
        names = {"user": sql.Identifier(user), "role": sql.Identifier(f"bdlab_{role}")}
        for statement in (
            "CREATE ROLE {user} LOGIN PASSWORD {password} IN ROLE {role}",
            "ALTER ROLE {user} SET ROLE {role}",
        ):
            self.execute(sql.SQL(statement).format(password=sql.Literal(password), **names))
        return DatabaseLogin(server=self.admin.server, user=user, password=Secret(password), lease_id=f"lease-{user}")

    def credentials(self, role: str) -> Logins:
        return Logins(self.login(role))

    def execute(self, statement: str | sql.Composable, values: Any = None) -> list[tuple[Any, ...]]:
        """Run it as the administrator, in a connection of its own; the rows, where there are any."""
        server = self.admin.server
        connection = psycopg2.connect(
            host=server.host,
            port=server.port,
            dbname=server.dbname,
            user=self.admin.user,
            password=self.admin.password.reveal(),
            sslmode=server.sslmode,
            sslrootcert=server.ca_file or None,
            connect_timeout=10,
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def revoke(self, login: DatabaseLogin) -> None:
        """End `login`'s lease as Vault does: no new sessions, the open ones ended, the role dropped."""
        user = sql.Identifier(login.user)
        self.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(user))
        self.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s", (login.user,))
        self.execute(sql.SQL("DROP ROLE {}").format(user))


def admin_login(server: Postgres, dbname: str) -> DatabaseLogin:
    settings: PostgresSettings = msgspec.structs.replace(server.server, dbname=dbname)
    return DatabaseLogin(server=settings, user=server.admin_user, password=server.admin_password)


def migrate(credentials: DatabaseCredentials, contract: Contract | None = None) -> tuple[str, ...]:
    """The names of what was applied; with the review contract if none is given."""
    return contracts.migrate(credentials, contract or review_contract())[0]


def adopt(credentials: DatabaseCredentials, contract: Contract) -> str:
    """What `migrate` says of the contract."""
    return contracts.migrate(credentials, contract)[1]


def make_database(server: Postgres) -> Database:
    """A new database in `server`, prepared and migrated."""
    database = make_bare_database(server)
    migrate(database.credentials("owner"))
    return database


def make_bare_database(server: Postgres) -> Database:
    """A new database in `server` with the roles, and without the schema."""
    admin = admin_login(server, f"test_{uuid4().hex[:12]}")
    # The manager is the server's and not the database's: a Vault may hold its password.
    administrator = Administrator(admin)
    administrator.prepare(None if administrator.exists() else Secret(uuid4().hex))
    return Database(admin)


@pytest.fixture(scope="session")
def _database_template(postgres_server: Postgres) -> Database:
    return make_database(postgres_server)


@pytest.fixture(scope="session")
def new_database(postgres_server: Postgres, _database_template: Database) -> Callable[[], Database]:
    """Makes databases with bdlab's schema, each with users of its own.

    They go with the server at the end of the session: dropping one costs a checkpoint.
    """
    server = Database(admin_login(postgres_server, "postgres"))

    def make() -> Database:
        admin = admin_login(postgres_server, f"test_{uuid4().hex[:12]}")
        server.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(admin.server.dbname), sql.Identifier(_database_template.admin.server.dbname)
            )
        )
        Administrator(admin).prepare(None)
        return Database(admin)

    return make


@pytest.fixture
def database(new_database: Callable[[], Database]) -> Database:
    """A database with bdlab's schema, for this test alone."""
    return new_database()
