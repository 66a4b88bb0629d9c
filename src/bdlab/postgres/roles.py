"""The first set-up of a server: database, group roles, and the manager role through which Vault makes users.

`vault-init` does it with the administrator's login, which nothing else uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import msgspec
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - named so by psycopg2
from psycopg2.extensions import encrypt_password

from bdlab.credentials import DatabaseLogin
from bdlab.errors import InvalidInput
from bdlab.postgres.session import ConnectionLimits, ask, connect, cut_after, describe, queries, translate
from bdlab.services import BDLAB, DATABASE_ROLES, MANAGER, OWNER, READER, READERS_TOO, WRITER, Deployment
from bdlab.settings import Secret

_MAINTENANCE_DATABASE = "postgres"
_LIMITS = ConnectionLimits(statement_s=60, lock_s=30)


class Administrator:
    """The server's superuser; implements `bootstrap.plan.DatabaseManager`. Its methods raise DatabaseError. The
    `server.dbname` of `login` is the database to make. On a server that others use too (`shared`), the access to its
    maintenance databases stays as it is."""

    def __init__(self, login: DatabaseLogin, deployment: Deployment = BDLAB, *, shared: bool = False) -> None:
        self.login, self._deployment, self._shared = login, deployment, shared

    def exists(self) -> bool:
        """Return whether the deployment's manager role exists."""
        name = self._deployment.in_sql(MANAGER)
        with _setup(self.login, _MAINTENANCE_DATABASE, dry_run=True) as work:
            return bool(work.all("role", {"name": name}))

    def missing(self) -> tuple[str, ...]:
        """Return a line for each change that is to be made and does not depend on another."""
        return self.change(dry_run=True)

    def prepare(self, password: Secret | None) -> str:
        """Make what is missing, set the manager's password if it is given, and return the manager's name."""
        self.change(password)
        return self._deployment.in_sql(MANAGER)

    def open_databases(self) -> tuple[str, ...]:
        """Return the server's other databases that every login may enter."""
        with _setup(self.login, _MAINTENANCE_DATABASE, dry_run=True) as work:
            return work.enterable(self.login.server.dbname, maintenance=False)

    def change(self, password: Secret | None = None, *, dry_run: bool = False) -> tuple[str, ...]:
        """Make what is missing, and return a line for each change. The manager's password has to be given if the
        manager does not exist yet (else InvalidInput). The server gets it as a SCRAM verifier, so that no log of it has
        it. With `dry_run` nothing is changed, and changes that depend on another are not found."""
        dbname = self.login.server.dbname
        with _setup(self.login, _MAINTENANCE_DATABASE, dry_run=dry_run) as work:
            _prepare_roles(work, self._deployment, password)
            if not self._shared:
                for name in work.enterable(dbname, maintenance=True):
                    work.run("close_database", f"database {name} closed to PUBLIC", database=name)
            if not work.is_true("database_exists", {"name": dbname}):
                work.run("create_database", f"database {dbname} created", database=dbname)
            changed = work.changed
        if dry_run and changed:
            return tuple(changed)
        with _setup(self.login, dbname, dry_run=dry_run) as work:
            named = {"owner": OWNER.group, "writer": WRITER.group, "reader": READER.group, "manager": MANAGER}
            roles = {name: self._deployment.in_sql(role) for name, role in named.items()}
            if not work.is_true("privileges", roles):
                work.run("grant_privileges", f"privileges on database {dbname} granted", database=dbname, **roles)
        return (*changed, *work.changed)


def _prepare_roles(work: _RoleSetup, deployment: Deployment, manager_password: Secret | None) -> None:
    manager, reader = deployment.in_sql(MANAGER), deployment.in_sql(READER.group)
    groups = [deployment.in_sql(role.group) for role in DATABASE_ROLES]
    for group in groups:
        if not work.all("role", {"name": group}):
            work.run("create_group", f"role {group} created", role=group)
    for role in (deployment.in_sql(one.group) for one in READERS_TOO):
        work.join(role, reader, f"may do what {reader} may")
    verifier, scope = "", work.connection
    if manager_password:
        verifier = encrypt_password(manager_password.reveal(), manager, scope=scope, algorithm="scram-sha-256")
    found = work.all("role", {"name": manager})
    if not found:
        if not verifier:
            raise InvalidInput(f"role {manager} does not exist, and no password is given for it")
        work.run("create_manager", f"role {manager} created", verifier, role=manager)
    else:
        if verifier:
            work.run("set_password", f"role {manager}: password set", verifier, role=manager)
        if found != [(True, False, True)]:
            work.run("restore_manager", f"role {manager}: attributes restored", role=manager)
    for group in groups:
        if not work.is_member(manager, group, admin=True):
            work.run("grant_admin", f"role {manager} may grant {group}", group=group, role=manager)
    work.join(manager, "pg_signal_backend", "may end the sessions of revoked users")
    # From version 15 on a role can be granted a parameter that only a superuser may set.
    if work.connection.server_version >= 150000 and not work.is_true("may_bound", {"role": manager}):
        work.run("grant_bound", f"role {manager} may bound temporary files", role=manager)


@contextlib.contextmanager
def _setup(admin: DatabaseLogin, dbname: str, *, dry_run: bool) -> Iterator[_RoleSetup]:
    """Yield a set-up in the database `dbname` of the administrator's server that commits each statement."""
    login = msgspec.structs.replace(admin, server=msgspec.structs.replace(admin.server, dbname=dbname))
    try:
        connection = connect(login, application_name="bdlab vault-init", limits=_LIMITS)
        try:
            connection.autocommit = True  # CREATE DATABASE runs in no transaction
            with cut_after(_LIMITS.silence_s, connection), connection.cursor() as cursor:
                yield _RoleSetup(cursor, dry_run=dry_run)
        finally:
            connection.close()
    except psycopg2.Error as error:
        raise translate(error, server=describe(login)) from error


class _RoleSetup:
    """Checks, and changes what differs, except in a `dry_run`; `changed` has a line for each change."""

    def __init__(self, cursor: Cursor, *, dry_run: bool) -> None:
        self._cursor, self._dry_run, self.connection = cursor, dry_run, cursor.connection
        self.changed: list[str] = []

    def all(self, name: str, values: Mapping[str, str | bool]) -> list[tuple[object, ...]]:
        return ask(self._cursor, queries("roles")[name], values)

    def is_true(self, name: str, values: Mapping[str, str | bool]) -> bool:
        return self.all(name, values) == [(True,)]

    def is_member(self, member: str, group: str, *, admin: bool = False) -> bool:
        return self.is_true("is_member", {"group": group, "member": member, "admin": admin})

    def join(self, role: str, group: str, what: str) -> None:
        if not self.is_member(role, group):
            self.run("grant_membership", f"role {role} {what}", group=group, role=role)

    def enterable(self, but: str, *, maintenance: bool) -> tuple[str, ...]:
        return tuple(str(name) for (name,) in self.all("enterable", {"maintenance": maintenance, "database": but}))

    def run(self, name: str, line: str, verifier: str = "", **identifiers: str) -> None:
        self.changed.append(line)
        if self._dry_run:
            return
        parts: dict[str, sql.Composable] = {key: sql.Identifier(value) for key, value in identifiers.items()}
        parts["verifier"] = sql.Literal(verifier)
        self._cursor.execute(sql.SQL(queries("roles")[name]).format(**parts))
