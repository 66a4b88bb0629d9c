"""The supervisor over real children, and the data folder that holds them."""

from __future__ import annotations

import errno
import os
import queue
import signal
import stat
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from bdlab.errors import ServerNotStarted, StackError, StackInUse, StartInterrupted
from bdlab.services import BDLAB, Deployment
from bdlab.stack import DataFolder, Endpoints, Event, Postgres, Tansu
from bdlab.stack.servers.process import ManagedProcess, Process, start_mark
from bdlab.stack.service import Commands, Service, service_environment
from bdlab.stack.supervisor import Supervisor


class Sleeper(ManagedProcess):
    """A child that sleeps; `fail_first` restarts of it fail before one works."""

    def __init__(self, name: str, folder: Path, fail_first: int = 0) -> None:
        super().__init__(name, folder)
        self._fail = fail_first
        self.stopped_at = 0.0

    def _prepare(self) -> list[str]:
        if self.pid is not None and self._fail:
            self._fail -= 1
            raise ServerNotStarted("not this time")
        return ["sleep", "600"]

    def _environment(self) -> Mapping[str, str]:
        return os.environ

    def stop(self, timeout_s: float = 5.0) -> None:
        super().stop(timeout_s)
        self.stopped_at = time.monotonic()

    def _is_ready(self) -> bool:
        return self.running

    def kill(self) -> None:
        os.kill(self.pid or 0, signal.SIGKILL)


Events = queue.Queue[Event]


@contextmanager
def _watching(supervisor: Supervisor) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=supervisor.watch, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        supervisor.stop_all()
        assert not thread.is_alive()


def _next(events: Events, kind: str) -> Event:
    while (event := events.get(timeout=20)).kind != kind:
        pass
    return event


def test_a_child_that_dies_is_started_again_and_said_so(tmp_path: Path) -> None:
    events: Events = queue.Queue()
    supervisor = Supervisor(events.put)
    child = Sleeper("sleeper", tmp_path)
    child.start()
    supervisor.add(child)
    with _watching(supervisor):
        first = child.pid
        child.kill()
        notice = _next(events, "notice")
        assert notice.step == "sleeper"
        assert "killed by SIGKILL" in notice.detail
        assert _next(events, "done").step == "restarted sleeper"
        assert child.running
        assert child.pid != first
    assert not child.running


def test_restarts_back_off_and_go_on_after_failures(tmp_path: Path) -> None:
    events: Events = queue.Queue()
    announced = []
    supervisor = Supervisor(events.put)
    child = Sleeper("sleeper", tmp_path, fail_first=1)
    child.start()

    def announce(_stop: threading.Event) -> None:
        announced.append(child.pid)
        if len(announced) == 1:
            raise OSError(errno.ENOSPC, "the disk is full")

    supervisor.add(child, announce)
    with _watching(supervisor):
        child.kill()
        assert "in 0.5 s" in _next(events, "notice").detail
        first, second = _next(events, "failed"), _next(events, "failed")
        assert "again in 1 s: not this time" in first.detail
        assert "again in 2 s: [Errno 28] the disk is full" in second.detail
        assert _next(events, "done").step == "restarted sleeper"
    # The announcement was repeated, the child not started twice.
    assert announced == [child.pid] * 2


def test_children_stop_in_reverse_order(tmp_path: Path) -> None:
    supervisor = Supervisor(lambda _event: None)
    children = [Sleeper(name, tmp_path) for name in ("first", "second", "third")]
    for child in children:
        child.start()
        supervisor.add(child)
    supervisor.stop_all()
    assert not any(child.running for child in children)
    assert sorted(children, key=lambda child: child.stopped_at) == children[::-1]


def test_a_child_that_ignores_its_signal_is_killed(tmp_path: Path) -> None:
    process = Process("deaf", tmp_path)
    deaf = "import signal, sys; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
    process.spawn([sys.executable, "-c", deaf], os.environ)
    _until(lambda: process.tail() == "deaf")
    process.stop(0.2)
    assert process.exit_status == -signal.SIGKILL


def test_a_child_that_could_not_be_found_again_is_not_left_running(tmp_path: Path) -> None:
    """Where its record cannot be written, as on a full disk."""
    process = Process("lost", tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lost.json").symlink_to(tmp_path / "not_there" / "lost.json")
    with pytest.raises(ServerNotStarted, match=r"lost could not be started: .*lost\.json"):
        process.spawn(["sleep", "600"], os.environ)
    assert process.exit_status == -signal.SIGTERM


def test_housekeeping_that_fails_ends_nothing_and_is_said_once(tmp_path: Path) -> None:
    events: Events = queue.Queue()
    supervisor = Supervisor(events.put)
    child = Sleeper("one", tmp_path)
    child.start()
    supervisor.add(child)
    tries = 0
    stop = threading.Event()

    def full() -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            stop.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    supervisor.watch(stop, {0.01: full})
    assert child.running
    supervisor.stop_all()
    said = [event for event in events.queue if event.kind == "notice"]
    assert [event.step for event in said] == ["housekeeping"]
    assert "No space left on device" in said[0].detail


def _until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def test_a_long_log_is_copied_aside_while_the_child_goes_on(tmp_path: Path) -> None:
    process = Process("chatty", tmp_path)
    script = "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two; sleep 600"
    process.spawn(["sh", "-c", script], os.environ)
    try:
        _until(lambda: process.tail() == "one")
        process.trim_log(limit_bytes=2)
        assert (tmp_path / "logs" / "chatty.log.1").read_text() == "one\n"
        (tmp_path / "go").touch()
        _until(lambda: process.tail() == "two")
        assert process.log_file.read_bytes() == b"two\n"
    finally:
        process.stop(1)


def test_the_end_of_a_log_is_of_the_last_start_alone(tmp_path: Path) -> None:
    for process, said in ((Process("twice", tmp_path), said) for said in ("one", "two")):
        process.spawn(["echo", said], os.environ)
        assert process.wait(20) == 0
        assert process.tail() == said
    assert process.log_file.read_bytes() == b"one\ntwo\n"


def test_a_start_can_be_interrupted(tmp_path: Path) -> None:
    stop = threading.Event()
    folder = DataFolder(tmp_path / "data")
    with folder:
        sleep = Commands(["sleep"], folder, os.environ)
        service = Service("never", ["600"], sleep, port=1, ready_path="/", tls=None)
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(StartInterrupted, match="never was starting"):
            service.start(60, stop)
        assert not service.running
        with pytest.raises(StartInterrupted, match="sleeping was running"):
            sleep.run("sleeping", ["600"], stop)
        with pytest.raises(StackError, match=r"sleeping did not end within 0\.2 s"):
            sleep.run("sleeping", ["600"], timeout_s=0.2)
        assert folder.processes() == []


def test_a_commands_output_and_log_are_kept_apart(tmp_path: Path) -> None:
    with DataFolder(tmp_path / "data") as folder:
        sh = Commands(["sh", "-c"], folder, os.environ)
        outcome = sh.run("both", ["echo result; echo talk >&2; exit 3"], check=False)
        assert (outcome.code, outcome.output, outcome.tail) == (3, "result\n", "talk")
        assert (folder.logs / "both.log").read_text() == "talk\n"


_HOLD = """
import sys, time
from pathlib import Path
from bdlab.stack import DataFolder
with DataFolder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_has_one_holder_and_the_second_learns_who(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StackInUse, match=f"process {holder.pid}"), DataFolder(tmp_path):
            pass
        holder.kill()
        holder.wait()
        # A lock dies with its holder.
        with DataFolder(tmp_path) as folder:
            assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_endpoints_are_only_those_of_a_living_stack(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    with pytest.raises(StackError, match="no local stack is up") as nothing:
        folder.running()
    assert "bdlab up --data-dir" in nothing.value.hint
    endpoints = Endpoints(
        pid=os.getpid(),
        start_mark=start_mark(os.getpid()),
        http_url="http://127.0.0.1:1",
        vault_address="http://127.0.0.1:2",
        bootstrap_servers="127.0.0.1:3",
        postgres_host="127.0.0.1",
        postgres_port=4,
    )
    with folder:
        folder.publish(endpoints)
        assert folder.running() == endpoints
    with pytest.raises(StackError, match="no local stack is up"):
        folder.running()
    with folder:
        import msgspec

        folder.publish(msgspec.structs.replace(endpoints, start_mark="an earlier process with this id"))
        with pytest.raises(StackError, match="no local stack is up"):
            folder.running()


def test_a_folder_that_was_moved_is_not_used(tmp_path: Path) -> None:
    with DataFolder(tmp_path / "old") as folder:
        folder.check_location()
        folder.record_location()
        folder.check_location()
    (tmp_path / "old").rename(tmp_path / "new")
    moved = DataFolder(tmp_path / "new")
    with moved, pytest.raises(StackError, match=r"was moved from .*old to .*new"):
        moved.check_location()
    (tmp_path / "old").symlink_to(tmp_path / "new")
    with moved:
        moved.check_location()


def test_files_of_the_folder(tmp_path: Path) -> None:
    odd = tmp_path / 'a "quoted" \\ föld er'
    with DataFolder(odd) as folder:
        folder.write_env({"POSTGRES_PASSWORD": "x"})
        assert stat.S_IMODE(folder.env_file.stat().st_mode) == 0o600
        chosen: dict[str, dict[str, str | int | float]]
        chosen = {"vault": {"identity_dir": str(folder.identity_dir)}, "http": {"port": 1}}
        folder.write_config(chosen)
        read = tomllib.loads(folder.config_file.read_text("utf-8"))
        assert read == {"deployment": "bdlab", **chosen}
        folder.keep_deployment(Deployment("sales"))
        assert folder.deployment == "sales"
        (folder.path / "openbao").mkdir()
        folder.keep_deployment(BDLAB)
        with pytest.raises(StackError, match="keeps to the deployment sales"):
            folder.keep_deployment(Deployment("another"))
        folder.write_config(chosen)
        assert "sales" in folder.config_file.read_text("utf-8")


def test_servers_live_in_a_folder_with_an_odd_name(tmp_path: Path) -> None:
    from bdlab.stack import OpenBao

    odd = tmp_path / 'a "quoted" \\ ${föld} er'
    for kind in (OpenBao, Postgres, Tansu):
        with kind(odd) as server:
            assert server.running


def test_services_see_the_settings_of_the_shell_but_not_its_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "VAULT_ADDR": "http://elsewhere:8200",
        "VAULT_TOKEN": "secret",
        "BDLAB_POSTGRES_HOST": "elsewhere",
        "BDLAB_KAFKA_BOOTSTRAP_SERVERS": "elsewhere:9092",
        "BDLAB_HTTP_PORT": "1",
        "BDLAB_VAULT_INIT_JSON": "1",
        "BDLAB_KAFKA_PARTITIONS": "3",
        "BDLAB_HTTP_MAX_BATCH": "7",
        "BDLAB_STARTUP_TIMEOUT": "5",
        "BDLAB_MODEL_PATH": "my/model.json",
        "OTEL_TRACES_EXPORTER": "otlp",
    }.items():
        monkeypatch.setenv(name, value)
    folder = DataFolder(tmp_path)
    environment = service_environment(folder, "http://127.0.0.1:1")
    ours = {name: value for name, value in environment.items() if name.startswith(("BDLAB_", "VAULT_"))}
    assert ours == {
        "BDLAB_CONFIG": str(folder.config_file),
        "VAULT_ADDR": "http://127.0.0.1:1",
        "BDLAB_KAFKA_PARTITIONS": "3",
        "BDLAB_HTTP_MAX_BATCH": "7",
        "BDLAB_STARTUP_TIMEOUT": "5",
        "BDLAB_MODEL_PATH": str(Path.cwd() / "my/model.json"),
    }
    assert environment["PATH"] == os.environ["PATH"]
    assert environment["OTEL_TRACES_EXPORTER"] == "otlp"
