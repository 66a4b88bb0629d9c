"""The first set-up of a server: database, group roles, and the manager through which Vault makes users.

Done by `vault-init` with the server's administrator; nothing else ever logs in as that.
"""

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
from bdlab.postgres.connection import ConnectionLimits, connect, cut_after, describe
from bdlab.postgres.faults import translate
from bdlab.postgres.queries import queries
from bdlab.settings import Secret

OWNER = "bdlab_owner"
WRITER = "bdlab_writer"
READER = "bdlab_reader"
MANAGER = "bdlab_manager"
GROUPS = (OWNER, WRITER, READER)

_MAINTENANCE_DATABASE = "postgres"
_SIGNAL = "pg_signal_backend"
_LIMITS = ConnectionLimits(statement_s=60, lock_s=30)
_ROLES = {"owner": OWNER, "writer": WRITER, "reader": READER, "manager": MANAGER}


def prepare(admin: DatabaseLogin, *, manager_password: Secret | None = None) -> tuple[str, ...]:
    """Make what is missing; what was made or changed, a line each, empty where nothing was.

    `admin` is a superuser; its `server.dbname` is the database to make. `manager_password` is set where it is
    given, and has to be where the manager does not exist yet (InvalidInput otherwise); it goes to the server
    as a SCRAM verifier, so that no log of the server can hold it. Raises DatabaseError.
    """
    with _cursor(admin, _MAINTENANCE_DATABASE) as cursor:
        changed = _prepare_roles(cursor, manager_password)
        changed += _prepare_database(cursor, admin.server.dbname)
    with _cursor(admin, admin.server.dbname) as cursor:
        changed += _prepare_privileges(cursor, admin.server.dbname)
    return tuple(changed)


def manager_exists(admin: DatabaseLogin) -> bool:
    """Whether the manager role is there. Raises DatabaseError."""
    with _cursor(admin, _MAINTENANCE_DATABASE) as cursor:
        return _one(cursor, "role", {"name": MANAGER}) is not None


def _prepare_roles(cursor: Cursor, manager_password: Secret | None) -> list[str]:
    changed = []
    for group in GROUPS:
        if _one(cursor, "role", {"name": group}) is None:
            _run(cursor, "create_group", role=group)
            changed.append(f"role {group} created")
    found = _one(cursor, "role", {"name": MANAGER})
    if found is None:
        if manager_password is None:
            raise InvalidInput(f"role {MANAGER} does not exist, and no password is given for it")
        _run(cursor, "create_manager", _verifier(cursor, manager_password), role=MANAGER)
        changed.append(f"role {MANAGER} created")
    else:
        if manager_password is not None:
            _run(cursor, "set_password", _verifier(cursor, manager_password), role=MANAGER)
            changed.append(f"role {MANAGER}: password set")
        if found != (True, False, True):
            _run(cursor, "restore_manager", role=MANAGER)
            changed.append(f"role {MANAGER}: attributes restored")
    for group in GROUPS:
        if not _holds(cursor, "has_admin", {"group": group, "member": MANAGER}):
            _run(cursor, "grant_admin", group=group, role=MANAGER)
            changed.append(f"role {MANAGER} may grant {group}")
    if not _holds(cursor, "is_member", {"group": _SIGNAL, "member": MANAGER}):
        _run(cursor, "grant_membership", group=_SIGNAL, role=MANAGER)
        changed.append(f"role {MANAGER} may end the sessions of revoked users")
    return changed


def _prepare_database(cursor: Cursor, name: str) -> list[str]:
    if _holds(cursor, "database_exists", {"name": name}):
        return []
    _run(cursor, "create_database", database=name)
    return [f"database {name} created"]


def _prepare_privileges(cursor: Cursor, database: str) -> list[str]:
    if _holds(cursor, "privileges", _ROLES):
        return []
    _run(cursor, "grant_privileges", database=database, **_ROLES)
    return [f"privileges on database {database} granted"]


@contextlib.contextmanager
def _cursor(admin: DatabaseLogin, dbname: str) -> Iterator[Cursor]:
    """A cursor in database `dbname` of the administrator's server that commits each statement."""
    login = msgspec.structs.replace(admin, server=msgspec.structs.replace(admin.server, dbname=dbname))
    try:
        connection = connect(login, application_name="bdlab vault-init", limits=_LIMITS)
        try:
            connection.autocommit = True  # CREATE DATABASE runs in no transaction
            with cut_after(_LIMITS.silence_s, connection), connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()
    except psycopg2.Error as error:
        raise translate(error, server=describe(login)) from error


def _one(cursor: Cursor, name: str, values: Mapping[str, str]) -> tuple[object, ...] | None:
    cursor.execute(queries("roles")[name], values)
    return cursor.fetchone()


def _holds(cursor: Cursor, name: str, values: Mapping[str, str]) -> bool:
    row = _one(cursor, name, values)
    return row is not None and bool(row[0])


def _run(cursor: Cursor, name: str, verifier: str = "", **identifiers: str) -> None:
    parts: dict[str, sql.Composable] = {key: sql.Identifier(value) for key, value in identifiers.items()}
    parts["verifier"] = sql.Literal(verifier)
    cursor.execute(sql.SQL(queries("roles")[name]).format(**parts))


def _verifier(cursor: Cursor, password: Secret) -> str:
    return encrypt_password(password.reveal(), MANAGER, scope=cursor.connection, algorithm="scram-sha-256")
