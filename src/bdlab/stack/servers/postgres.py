"""Postgres as a local server: SCRAM for every connection, on loopback and a Unix socket. Root's privileges are dropped
for it, as it refuses to run as root."""

import contextlib
import functools
import os
import secrets
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from bdlab.errors import ServerNotStarted
from bdlab.files import write_private
from bdlab.services import DATABASE_ROLES
from bdlab.settings import PostgresSettings, Secret, SslMode
from bdlab.stack.folder import DataFolder
from bdlab.stack.servers import binaries
from bdlab.stack.servers.process import end, run_to_end
from bdlab.stack.tls import TlsFolder, TlsServer

_NOBODY = 65534
#: In a user namespace of its own the server sees itself as user 1000; outside, the files stay root's.
_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
#: Containers may forbid new namespaces. Then it runs as the user nobody.
_NOBODY_COMMAND = ("setpriv", *binaries.options("setpriv.options"), "--")
#: The longest path of a Unix socket, without the name of the socket in its folder.
_SOCKET_DIR_LIMIT = 107 - len("/.s.PGSQL.65535")


def drop_prefix(data: Path) -> Sequence[str]:
    """Return the command to put before Postgres' own; empty for an ordinary user. A data folder `data` that exists
    keeps the owner that it was made for. Raises ServerNotStarted if this machine allows neither way."""
    if os.geteuid() != 0:
        return ()
    belongs_to_nobody = data.exists() and data.stat().st_uid == _NOBODY
    if not belongs_to_nobody and _works(_NAMESPACE):
        return _NAMESPACE
    if (belongs_to_nobody or not data.exists()) and _works(_NOBODY_COMMAND):
        return _NOBODY_COMMAND
    why = "this machine allows neither a user namespace (unshare) nor a change of user (setpriv)"
    raise ServerNotStarted(f"Postgres refuses to run as root, and {why}", hint="Run bdlab as an ordinary user.")


def hand_over(folder: Path, prefix: Sequence[str]) -> None:
    """Give `folder` to the user that `prefix` changes to."""
    if prefix and prefix[0] == _NOBODY_COMMAND[0]:
        os.chown(folder, _NOBODY, _NOBODY)


@functools.cache
def _works(command: tuple[str, ...]) -> bool:
    try:
        return run_to_end("a trial", [*command, "true"], os.environ, Path("/"), timeout_s=10.0).returncode == 0
    except ServerNotStarted:
        return False


class Postgres(TlsServer):
    """The database server. Its administrator's password is made at the first start and kept in a 0600 file until
    `forget_admin_password`: only the set-up of Vault needs it. With `tls` it accepts no connection without, and has no
    Unix socket, since those have no TLS."""

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": ends sessions, writes a checkpoint
    death_signal = signal.SIGINT
    admin_user = "postgres"

    def __init__(self, data_dir: Path, *, tls: TlsFolder | None = None) -> None:
        super().__init__(data_dir, tls=tls)
        #: There until the set-up of Vault is done.
        self.password_file = self.folder / "admin_password"
        self._data = self.folder / "data"
        self._on_tcp = True

    @property
    def server(self) -> PostgresSettings:
        """Its TCP address if it listens there, else its Unix socket."""
        return self._at("127.0.0.1") if self._on_tcp else self.lasting_server

    @property
    def lasting_server(self) -> PostgresSettings:
        """An address that no other program can take: its Unix socket if it has one."""
        return self._at(str(self.socket_dir or "127.0.0.1"))

    def _at(self, host: str) -> PostgresSettings:
        ca_file = str(self.tls.ca_file) if self.tls else ""
        sslmode: SslMode = "verify-full" if self.tls else "disable"
        name = DataFolder(self.data_dir).deployment.database
        return PostgresSettings(host=host, port=self.port, dbname=name, sslmode=sslmode, ca_file=ca_file)

    @property
    def socket_dir(self) -> Path | None:
        """The folder of its Unix socket; None with TLS, and for a path that is too long or that clients would split."""
        folder = self.folder / "socket"
        usable = not self.tls and len(os.fsencode(folder)) <= _SOCKET_DIR_LIMIT and "," not in str(folder)
        return folder if usable else None

    @property
    def admin_password(self) -> Secret:
        """Raises ServerNotStarted before the first start, and after `forget_admin_password`."""
        try:
            return Secret(self.password_file.read_text("ascii"))
        except FileNotFoundError:
            raise ServerNotStarted("the password of Postgres' administrator is not kept any more") from None

    def forget_admin_password(self) -> None:
        self.password_file.unlink(missing_ok=True)

    @property
    def untouched(self) -> bool:
        """Whether no set-up of Vault has ended with it, so that nothing is stored yet."""
        return self.password_file.exists() or not self._data.exists()

    def _choose_port(self) -> int:
        """Return the port of the first start, by which Vault knows it; the socket's name has it too. If another program
        has taken it, the server listens on its socket only."""
        kept = self.ports.kept.get(self.name)
        self._on_tcp = kept is None or not self._data.exists() or self.ports.reserve(kept)
        if kept is None or self._on_tcp:
            return super()._choose_port()
        if self.socket_dir is None:
            what = f"another program has taken port {kept}, by which the data in {self.data_dir} is known"
            raise ServerNotStarted(what, hint=f"See which (ss -ltnp 'sport = :{kept}') and end it, then try again.")
        return kept

    def _configure(self, port: int) -> Sequence[str]:
        installation = binaries.postgres()
        prefix = drop_prefix(self._data)
        if not self._data.exists():
            self._initialise(installation, prefix)
        self._clear_stale_lock()
        access = self.folder / "pg_hba.conf"
        deployment = DataFolder(self.data_dir).deployment
        groups = ",".join(f"+{deployment.in_sql(role.group)}" for role in DATABASE_ROLES)
        rules = Template(Path(__file__).with_name("pg_hba.conf").read_text("ascii"))
        access.write_text(rules.substitute(groups=groups, tls="ssl" if self.tls else ""), "ascii")
        options = {"hba_file": str(access), "port": str(port), "unix_socket_directories": ""}
        options["listen_addresses"] = "127.0.0.1" if self._on_tcp else ""
        if self.socket_dir:
            self.socket_dir.mkdir(exist_ok=True, mode=0o700)
            hand_over(self.socket_dir, prefix)
            options["unix_socket_directories"] = str(self.socket_dir)
        if self.tls:
            self.tls.prepare()
            server_file = str(self.tls.files("postgres").server_file)
            options |= {"ssl": "on", "ssl_cert_file": server_file, "ssl_key_file": server_file}
        given = (*binaries.options("postgres.options"), *(f"{name}={value}" for name, value in options.items()))
        program = str(installation / "bin" / "postgres")
        return [*prefix, program, "-D", str(self._data), *(word for option in given for word in ("-c", option))]

    def _environment(self) -> Mapping[str, str]:
        return {**super()._environment(), "LD_LIBRARY_PATH": str(binaries.postgres() / "lib")}

    def _is_ready(self) -> bool:
        # The postmaster says so in its lock file. A probe of the port could reach another server.
        lines = self._lock_lines()
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _initialise(self, installation: Path, prefix: Sequence[str]) -> None:
        """Make the data folder under another name and rename it: a killed run leaves nothing incomplete."""
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        hand_over(new, prefix)
        password = secrets.token_urlsafe(24)
        write_private(self.password_file, password)
        reader, writer = os.pipe()
        os.write(writer, password.encode() + b"\n")
        os.close(writer)
        program = installation / "bin" / "initdb"
        options = [f"--pgdata={new}", f"--username={self.admin_user}", f"--pwfile=/dev/fd/{reader}"]
        command = [*prefix, str(program), *options, *binaries.options("initdb.options")]
        try:
            outcome = run_to_end("initdb", command, self._environment(), self.data_dir, timeout_s=120.0, fds=(reader,))
        finally:
            os.close(reader)
        if outcome.returncode != 0:
            look = f"LD_LIBRARY_PATH={installation / 'lib'} ldd {program.with_name('postgres')}"
            hint = f"If it finds no postgres, this machine lacks a shared library, which is named by: {look}"
            raise ServerNotStarted(f"initdb failed: {outcome.stderr.decode('utf-8', 'replace').strip()}", hint=hint)
        new.rename(self._data)

    def _lock_lines(self) -> list[str]:
        with contextlib.suppress(OSError):
            return (self._data / "postmaster.pid").read_text("utf-8").splitlines()
        return []

    def _clear_stale_lock(self) -> None:
        """Remove the lock files of a postmaster that was killed, after ending its children. The lock would stop a new
        server if the process id is now another program's. A child in a long statement would go on writing beside the
        new server."""
        lines, left = self._lock_lines(), []
        for pid in DataFolder(self._data).processes():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text("utf-8", "replace") == "postgres\n":  # not a shell in its folder
                    left.append(pid)
        if lines and lines[0] in map(str, left):
            what = f"another postgres (process {lines[0]}) runs on {self._data}"
            raise ServerNotStarted(what, hint="Stop it, or use another --data-dir.")
        for pid in left:
            end(self.name, pid, (signal.SIGKILL, 5.0))
        for lock in (self._data / "postmaster.pid", *(self.folder / "socket").glob("*.lock")):
            lock.unlink(missing_ok=True)
