"""A connection goes where its settings say, whatever libpq finds in the environment and the home folder."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from bdlab.credentials import DatabaseLogin
from bdlab.errors import SettingsInvalid
from bdlab.postgres import dumps
from bdlab.postgres.session import ConnectionLimits, connect
from bdlab.stack import Postgres, TlsFolder
from bdlab.stack.servers import binaries
from tests.fix_database import HOSTILE_LIBPQ, admin_login

QUESTION = (
    "SELECT current_database(), current_user::text, current_setting('application_name'), "
    "current_setting('timezone'), current_setting('datestyle'), current_setting('search_path')"
)


def ask(login: DatabaseLogin) -> tuple[object, ...] | None:
    connection = connect(login, application_name="bdlab test", limits=ConnectionLimits())
    try:
        with connection.cursor() as cursor:
            cursor.execute(QUESTION)
            return cursor.fetchone()
    finally:
        connection.close()


def expected(login: DatabaseLogin) -> tuple[str, ...]:
    return (login.server.dbname, login.user, "bdlab test", "UTC", "ISO, MDY", '"$user", public')


@pytest.fixture
def secured_postgres(tmp_path: Path) -> Postgres:
    """A server that speaks TLS, not started yet."""
    tls = TlsFolder(tmp_path / "tls")
    tls.prepare()
    return Postgres(tmp_path / "stack", tls=tls)


@pytest.mark.parametrize("name", sorted(HOSTILE_LIBPQ))
def test_no_variable_of_libpq_has_a_say(postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    login = admin_login(postgres_server, "postgres")
    monkeypatch.setenv(name, HOSTILE_LIBPQ[name])
    assert ask(login) == expected(login)


def test_nor_have_all_of_them_in_a_dump(
    postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    login = admin_login(postgres_server, "postgres")
    for name, value in HOSTILE_LIBPQ.items():
        monkeypatch.setenv(name, value)
    dumps.dump(login, tmp_path / "dump", programs=binaries.postgres() / "bin")
    assert (tmp_path / "dump").read_bytes().startswith(b"PGDMP")
    assert os.environ["PGSERVICE"] == "absent"  # a child's environment is its own


@pytest.mark.with_tls
@pytest.mark.parametrize("sslmode", ["prefer", "require", "verify-ca", "verify-full"])
def test_nor_has_a_file_in_the_home_folder(
    secured_postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sslmode: str
) -> None:
    home = tmp_path / "home"
    (home / ".postgresql").mkdir(parents=True)
    for name in ("postgresql.crt", "postgresql.key", "root.crt", "root.crl"):
        (home / ".postgresql" / name).write_text("nothing of use")
    (home / ".pgpass").write_text("*:*:*:*:wrong\n")
    (home / ".pgpass").chmod(0o600)
    monkeypatch.setenv("HOME", str(home))
    with secured_postgres as server:
        admin = admin_login(server, "postgres")
        ca_file = server.server.ca_file if sslmode.startswith("verify") else ""
        login = msgspec.structs.replace(
            admin, server=msgspec.structs.replace(admin.server, sslmode=sslmode, ca_file=ca_file)
        )
        assert ask(login) == expected(login)
        dumps.dump(login, tmp_path / "dump", programs=binaries.postgres() / "bin")


@pytest.mark.with_tls
@pytest.mark.parametrize("sslmode", ["verify-ca", "verify-full"])
def test_whom_to_trust_is_said_and_not_found(postgres_server: Postgres, sslmode: str) -> None:
    admin = admin_login(postgres_server, "postgres")
    server = msgspec.structs.replace(admin.server, sslmode=sslmode, ca_file="")
    with pytest.raises(SettingsInvalid, match=r"postgres\.ca_file"):
        ask(msgspec.structs.replace(admin, server=server))
