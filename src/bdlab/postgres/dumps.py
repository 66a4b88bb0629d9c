"""Dumps of the database with PostgreSQL's own programs, `pg_dump` and `pg_restore`."""

import os
import subprocess
import tempfile
import threading
from pathlib import Path

from psycopg2.extensions import make_dsn

from bdlab.credentials import DatabaseLogin
from bdlab.errors import DatabaseError
from bdlab.files import write_private
from bdlab.postgres.session import describe, parameters


def dump(login: DatabaseLogin, file: Path, *, programs: Path, stop: threading.Event | None = None) -> None:
    """Write a snapshot of all tables into the new `file` (0600, PostgreSQL's custom format). `programs` is the folder
    of `pg_dump`, which must not be older than the server. Setting `stop` ends it. Raises DatabaseError."""
    file.touch(0o600, exist_ok=False)
    options = ("--format=custom", "--lock-wait-timeout=30s", f"--file={file}")
    _run(login, programs / "pg_dump", *options, stop=stop)


def restore(login: DatabaseLogin, file: Path, *, programs: Path) -> None:
    """Restore a dump into a database that has the group roles and no tables; all of it, or nothing. `login` is of a
    member of bdlab_owner, never an administrator, as a dump can hold any statement. Only what is in the tables' schema
    is restored. Raises DatabaseError."""
    options = ("--single-transaction", "--exit-on-error", "--no-owner", "--schema=public", str(file))
    _run(login, programs / "pg_restore", *options)


def _run(login: DatabaseLogin, program: Path, *options: str, stop: threading.Event | None = None) -> None:
    with tempfile.TemporaryDirectory(prefix="bdlab-") as folder:
        passwords = Path(folder) / "pgpass"
        escaped = login.password.reveal().replace("\\", "\\\\").replace(":", "\\:")
        write_private(passwords, f"*:*:*:*:{escaped}\n")
        place = parameters(login, application_name=f"bdlab {program.name}")
        place |= {"passfile": passwords, "connect_timeout": 10}
        try:
            # Without a time-out, as a large database takes long; the server ends a client that hangs.
            with subprocess.Popen(
                [str(program), "--no-password", f"--dbname={make_dsn(**place)}", *options],
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
            ) as child:
                said = None
                while said is None:
                    try:
                        said = child.communicate(timeout=0.2)[1]
                    except subprocess.TimeoutExpired:
                        if stop and stop.is_set():
                            child.terminate()
        except OSError as error:
            raise DatabaseError(f"{program} cannot be run: {error.strerror}") from error
    if stop and stop.is_set():
        raise DatabaseError(f"{program.name} was interrupted")
    if child.returncode != 0:
        reason = said.strip() or f"exit code {child.returncode}"
        raise DatabaseError(f"{program.name} failed on {describe(login)}: {reason}")
