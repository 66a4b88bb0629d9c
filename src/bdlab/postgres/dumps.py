"""Dumps of the database with PostgreSQL's own programs, `pg_dump` and `pg_restore`."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from bdlab.credentials import DatabaseLogin
from bdlab.errors import DatabaseError
from bdlab.postgres.connection import describe

_CONNECT_TIMEOUT_S = 10


def dump(login: DatabaseLogin, file: Path, *, programs: Path) -> None:
    """Write all of the database's tables, as of one moment, into `file` (0600, PostgreSQL's custom format).

    `programs` is the folder of `pg_dump`, which must not be older than the server. Raises DatabaseError.
    """
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.close(handle)
    options = ("--format=custom", "--lock-wait-timeout=30s", f"--file={file}")
    _run(login, programs / "pg_dump", *options)


def restore(login: DatabaseLogin, file: Path, *, programs: Path) -> None:
    """Put a dump into a database that has the group roles and no tables; all of it, or nothing.

    `login` is an administrator's, who may give each table to its owner. Raises DatabaseError.
    """
    options = ("--single-transaction", "--exit-on-error", f"--dbname={login.server.dbname}", str(file))
    _run(login, programs / "pg_restore", *options)


def _run(login: DatabaseLogin, program: Path, *options: str) -> None:
    server = login.server
    with tempfile.TemporaryDirectory(prefix="bdlab-") as folder:
        passwords = Path(folder) / "pgpass"
        with os.fdopen(os.open(passwords, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            escaped = login.password.reveal().replace("\\", "\\\\").replace(":", "\\:")
            handle.write(f"*:*:*:*:{escaped}\n")
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C.UTF-8",
            "PGHOST": server.host,
            "PGPORT": str(server.port),
            "PGDATABASE": server.dbname,
            "PGUSER": login.user,
            "PGPASSFILE": str(passwords),
            "PGSSLMODE": server.sslmode,
            "PGCONNECT_TIMEOUT": str(_CONNECT_TIMEOUT_S),
            "PGAPPNAME": f"bdlab {program.name}",
            **({"PGSSLROOTCERT": server.ca_file} if server.ca_file else {}),
        }
        try:
            # No bound: a large database takes its time, and the server has the say over a client that hangs.
            outcome = subprocess.run(
                [str(program), "--no-password", *options],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise DatabaseError(f"{program} cannot be run: {error.strerror}") from error
    if outcome.returncode != 0:
        said = outcome.stderr.strip() or f"exit code {outcome.returncode}"
        raise DatabaseError(f"{program.name} failed on {describe(login)}: {said}")
