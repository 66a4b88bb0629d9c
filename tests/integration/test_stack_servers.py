"""The servers of the local stack: start, stop, kill -9, recovery, file modes, busy ports."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from bdlab.errors import ServerNotStarted
from bdlab.settings import PostgresSettings
from bdlab.stack import OpenBao, Postgres, Server, Tansu
from bdlab.stack.servers.process import start_mark
from bdlab.stack.servers.server import PortRegistry
from bdlab.stack.tls import connect
from tests.brokers import LocalBroker
from tests.waiting import until

SERVERS: list[type[Server]] = [OpenBao, Postgres, Tansu]


def _call(server: OpenBao, method: str, path: str, body: object = None) -> tuple[int, dict[str, object]]:
    connection = connect("127.0.0.1", server.port, tls=server.tls, timeout_s=60)
    with closing(connection):
        connection.request(method, path, json.dumps(body) if body is not None else None)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def _connect(settings: PostgresSettings, user: str, password: str) -> psycopg2.extensions.connection:
    return psycopg2.connect(
        host=settings.host, port=settings.port, dbname="postgres", user=user, password=password, connect_timeout=5
    )


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _gone(pid: int, timeout_s: float = 10) -> bool:
    """Wait for a process that may be no child of ours; its pidfd becomes readable when it ends."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        import select

        return bool(select.select([handle], [], [], timeout_s)[0]) or not start_mark(pid)
    finally:
        os.close(handle)


def test_session_servers_answer(openbao: OpenBao, postgres_server: Postgres, broker: LocalBroker) -> None:
    assert _call(openbao, "GET", "/v1/sys/seal-status")[0] == 200
    password = postgres_server.admin_password.reveal()
    with closing(_connect(postgres_server.server, postgres_server.admin_user, password)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT type, auth_method FROM pg_hba_file_rules")
        assert {method for _, method in cursor.fetchall()} == {"scram-sha-256", "reject"}
    for address in broker.bootstrap_servers.split(","):
        host, port = address.split(":")
        socket.create_connection((host, int(port)), timeout=5).close()


@pytest.mark.parametrize("kind", SERVERS)
def test_construction_does_nothing(kind: type[Server], tmp_path: Path) -> None:
    server = kind(tmp_path / "data")
    assert not server.running
    assert server.pid is None
    server.stop()
    assert not (tmp_path / "data").exists()


def test_openbao_survives_kill_and_unseals_itself(own_openbao: Callable[[], OpenBao]) -> None:
    server = own_openbao()
    status, answer = _call(server, "PUT", "/v1/sys/init", {"recovery_shares": 1, "recovery_threshold": 1})
    assert status == 200
    assert answer["root_token"]
    address = server.address
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.kill(server.pid or 0, number)
        assert _gone(server.pid or 0)
        server.start()
        assert server.address == address
        assert _call(server, "GET", "/v1/sys/health")[0] == 200


def test_openbao_keeps_its_files_to_itself(own_openbao: Callable[[], OpenBao]) -> None:
    server = own_openbao()
    folder = server.data_dir / "openbao"
    assert _mode(server.data_dir) == _mode(folder) == 0o700
    for file in (folder / "seal.key", folder / "openbao.hcl", server.log_file):
        assert _mode(file) == 0o600
    server.stop()
    (folder / "seal.key").chmod(0o644)
    with pytest.raises(ServerNotStarted, match="can be read by others"):
        server.start()
    (folder / "seal.key").unlink()
    with pytest.raises(ServerNotStarted, match=r"seal key .* is missing"):
        server.start()


def test_openbao_rotates_its_audit_log(own_openbao: Callable[[], OpenBao]) -> None:
    server = own_openbao()
    _, answer = _call(server, "PUT", "/v1/sys/init", {"recovery_shares": 1, "recovery_threshold": 1})
    server.stop()
    server.start()  # which waits until it is active
    _login(server)
    audit = server.data_dir / "openbao" / "audit.log"
    written = audit.stat().st_size
    assert not server.rotate_audit_log(limit_bytes=written)
    assert server.rotate_audit_log(limit_bytes=written - 1)
    assert audit.with_name("audit.log.1").stat().st_size == written
    # The request after the one that was under way finds the new file.
    for _ in range(100):
        _login(server)
        if audit.exists() and audit.stat().st_size:
            break
    assert audit.stat().st_size
    assert _mode(audit) == 0o600
    assert str(answer["root_token"]) not in audit.read_text()


def _login(server: OpenBao) -> None:
    assert _call(server, "POST", "/v1/auth/token/lookup-self", {})[0] == 403


def test_postgres_survives_kill(own_postgres: Callable[[], Postgres]) -> None:
    server = own_postgres()
    password = server.admin_password.reveal()
    with closing(_connect(server.server, server.admin_user, password)) as connection:
        connection.cursor().execute("CREATE TABLE kept AS SELECT 42 AS n")
        connection.commit()
    before = server.server
    os.kill(server.pid or 0, signal.SIGKILL)
    assert _gone(server.pid or 0)
    server.start()
    assert server.server == before
    with closing(_connect(server.server, server.admin_user, password)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT n FROM kept")
        assert cursor.fetchone() == (42,)


def test_postgres_password_is_private_and_can_be_forgotten(short_path: Path) -> None:
    server = Postgres(short_path)
    with server:
        _assert_password_is_private_and_can_be_forgotten(server)


def _assert_password_is_private_and_can_be_forgotten(server: Postgres) -> None:
    password = server.admin_password.reveal()
    assert _mode(server.data_dir / "postgres" / "admin_password") == 0o600
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        _connect(server.server, server.admin_user, "wrong")
    assert server.socket_dir is not None
    over_socket = PostgresSettings(host=str(server.socket_dir), port=server.port)
    _connect(over_socket, server.admin_user, password).close()
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        _connect(over_socket, server.admin_user, "wrong")
    server.forget_admin_password()
    with pytest.raises(ServerNotStarted, match="not kept any more"):
        _ = server.admin_password
    for file in server.data_dir.rglob("*"):
        if file.is_file() and file.stat().st_size < 10_000_000:
            assert password.encode() not in file.read_bytes(), file


def test_postgres_starts_over_a_lock_file_whose_process_is_another(own_postgres: Callable[[], Postgres]) -> None:
    server = own_postgres()
    server.stop()
    lock = server.data_dir / "postgres" / "data" / "postmaster.pid"
    # Our own pid: alive, the same user, and no postgres.
    locks = [lock]
    if server.socket_dir:
        locks.append(server.socket_dir / f".s.PGSQL.{server.port}.lock")
    for each in locks:
        each.write_text(f"{os.getpid()}\n{lock.parent}\n0\n5432\n\n127.0.0.1\n 0 0\nready   \n")
    server.start()
    assert server.running


def test_postgres_ends_what_a_killed_postmaster_has_left_at_work(own_postgres: Callable[[], Postgres]) -> None:
    """It would go on writing beside the new server's processes."""
    server = own_postgres()
    connection = _connect(server.server, server.admin_user, server.admin_password.reveal())
    backend = connection.info.backend_pid
    with connection.cursor() as cursor, ThreadPoolExecutor(1) as elsewhere:
        long = elsewhere.submit(cursor.execute, "SELECT count(*) FROM generate_series(1, 1e12)")
        until(lambda: _cpu_ticks(backend) > 20)
        os.kill(server.pid or 0, signal.SIGKILL)
        until(lambda: not server.running)
        assert start_mark(backend)
        server.start()
        ended = not start_mark(backend)
        with contextlib.suppress(ProcessLookupError):
            os.kill(backend, signal.SIGKILL)
        assert ended
        with pytest.raises(psycopg2.OperationalError):
            long.result()


def _cpu_ticks(pid: int) -> int:
    """The processor time that it has used, in ticks of 10 ms."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def test_postgres_killed_while_it_was_set_up_starts_anew(tmp_path: Path) -> None:
    half = tmp_path / "postgres" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with Postgres(tmp_path) as server:
        _connect(server.server, server.admin_user, server.admin_password.reveal()).close()
    assert not half.exists()


def test_each_start_of_tansu_is_a_new_incarnation(own_tansu: Callable[[], Tansu]) -> None:
    server = own_tansu()
    seen = set()
    for _ in range(4):
        seen.add((server.bootstrap_servers, server.cluster_id))
        server.stop()
        server.start()
    assert len({address for address, _ in seen}) >= 2
    assert len({cluster for _, cluster in seen}) == 4


def test_two_stacks_side_by_side(tmp_path: Path) -> None:
    with Postgres(tmp_path / "a") as one, Postgres(tmp_path / "b") as other:
        assert one.port != other.port
        with pytest.raises(psycopg2.OperationalError):
            _connect(other.server, "postgres", one.admin_password.reveal())


def test_a_port_taken_by_another_program_is_replaced(tmp_path: Path) -> None:
    server = OpenBao(tmp_path)
    with server:
        before = server.port
    with socket.create_server(("127.0.0.1", before)):
        with pytest.raises(ServerNotStarted, match=f"port {before} for openbao is in use"):
            server.start()  # who knows this very server knows it by its port
        server = OpenBao(tmp_path)
        with server:
            assert server.port != before
            assert _call(server, "GET", "/v1/sys/seal-status")[0] == 200
        with pytest.raises(ServerNotStarted, match=f"port {before} for openbao is in use"):
            OpenBao(tmp_path).ports.choose("openbao", before)


def test_a_port_chosen_is_nobody_elses_before_a_server_listens_on_it(tmp_path: Path) -> None:
    """Services and JVMs bind their ports seconds after those were chosen."""
    script = (
        "import sys; from pathlib import Path; from bdlab.stack.servers.server import PortRegistry\n"
        "book = PortRegistry(Path(sys.argv[1]))\n"
        "print(book.choose('http', preferred=28_000), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "theirs.json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        theirs = int(other.stdout.readline())
        mine = PortRegistry(tmp_path / "mine.json")
        assert mine.choose("http", preferred=theirs) != theirs
        with pytest.raises(ServerNotStarted, match=f"port {theirs} for http is in use"):
            mine.choose("http", theirs)
        other.communicate(b"\n")
    assert mine.choose("http", theirs) == theirs
    here_too = PortRegistry(tmp_path / "here_too.json")
    assert here_too.choose("http", preferred=theirs) != theirs
    assert PortRegistry(tmp_path / "mine.json").choose("http") == theirs
    del mine
    assert here_too.choose("http", theirs) == theirs


def test_postgres_keeps_its_address_when_its_port_is_taken(short_path: Path) -> None:
    server = Postgres(short_path)
    with server:
        before = server.lasting_server
        assert before.host == str(short_path / "postgres" / "socket")
    with socket.create_server(("127.0.0.1", before.port)), server:
        assert server.lasting_server == server.server == before
        _connect(server.server, server.admin_user, server.admin_password.reveal()).close()


def test_postgres_whose_path_is_too_long_for_a_socket(tmp_path: Path) -> None:
    server = Postgres(tmp_path / ("long" * 20))
    with server:
        assert server.socket_dir is None
        assert server.lasting_server == server.server
        _connect(server.server, server.admin_user, server.admin_password.reveal()).close()
    with (
        socket.create_server(("127.0.0.1", server.port)),
        pytest.raises(ServerNotStarted, match=f"has taken port {server.port}"),
    ):
        server.start()


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    server = OpenBao(tmp_path)
    with server:
        pass
    key = tmp_path / "openbao" / "seal.key"
    key.write_bytes(b"short")
    with pytest.raises(ServerNotStarted, match="ended at once") as failure:
        server.start()
    assert "key" in failure.value.message
    assert str(server.log_file) in failure.value.hint
    assert not server.running


_START_ALL = """
import sys, threading, time
from pathlib import Path
from bdlab.stack import OpenBao, Postgres, Tansu
servers = [kind(Path(sys.argv[1])) for kind in (OpenBao, Postgres, Tansu)]
for server in servers:
    # Started by threads that end: the servers must outlive them.
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
print(*(server.pid for server in servers), flush=True)
assert all(server.running for server in servers)
time.sleep(600)
"""


def test_servers_die_with_a_killed_parent_and_the_folder_is_usable_again(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _START_ALL, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent, parent.stdout:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 3
        parent.kill()
        parent.wait()
    for pid in pids:
        assert _gone(pid)
    for kind in SERVERS:
        with kind(tmp_path) as server:
            assert server.running


def test_a_leftover_is_ended_and_a_stranger_with_its_pid_is_not(tmp_path: Path) -> None:
    record = tmp_path / "run" / "tansu.json"
    record.parent.mkdir()
    with subprocess.Popen(["sleep", "600"]) as leftover, subprocess.Popen(["sleep", "600"]) as stranger:
        record.write_text(json.dumps({"pid": leftover.pid, "start_mark": start_mark(leftover.pid)}))
        with Tansu(tmp_path):
            assert leftover.wait(10) == -signal.SIGKILL
        record.write_text(json.dumps({"pid": stranger.pid, "start_mark": "another-boot:1"}))
        with Tansu(tmp_path):
            assert stranger.poll() is None
        stranger.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs to become somebody else for Postgres")
def test_postgres_runs_as_nobody_where_namespaces_are_forbidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bdlab.stack.servers import postgres

    real = postgres._works
    monkeypatch.setattr(postgres, "_works", lambda command: command[0] != "unshare" and real(command))
    assert _mode(tmp_path) == 0o700
    with Postgres(tmp_path) as server:
        assert (tmp_path / "postgres" / "data").stat().st_uid == 65534
        assert _mode(tmp_path) == _mode(tmp_path / "postgres") == 0o700
        _connect(server.server, server.admin_user, server.admin_password.reveal()).close()
    monkeypatch.undo()
    # What was made as nobody goes on as nobody.
    with Postgres(tmp_path) as server:
        assert server.running


_START_AS_NOBODY = """
import sys, time
from pathlib import Path
from bdlab.stack import Postgres
from bdlab.stack.servers import postgres
works = postgres._works
postgres._works = lambda command: command[0] != "unshare" and works(command)
server = Postgres(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs to become somebody else for Postgres")
def test_postgres_as_nobody_dies_with_a_killed_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _START_AS_NOBODY, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    assert _gone(pid)
