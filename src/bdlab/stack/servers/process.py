"""A child process that dies with this one, logs to a file, and leaves a record for a later run to find."""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog

from bdlab.errors import ServerNotStarted, StackError, StartInterrupted
from bdlab.files import replace_file
from bdlab.retry import tries

_KILL_WAIT_S = 5.0
_POLL_S = 0.02
log = structlog.get_logger()


@functools.cache
def _spawner() -> ThreadPoolExecutor:
    """Return the one thread that starts children. Linux sends the parent-death signal when the *thread* ends; this one
    lives as long as the process."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="stack-spawner")


def start_mark(pid: int) -> str:
    """Return what tells a process from a later one with the same id, its boot id and start time; "" if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
    # The name in parentheses may hold anything; state is the first field after it, start time the twentieth.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def with_pdeathsig(arguments: Sequence[str], death_signal: signal.Signals = signal.SIGKILL) -> list[str]:
    """Return a command line whose program gets `death_signal` when the thread that starts it ends."""
    script = str(Path(__file__).with_name("pdeathsig.py"))
    return [sys.executable, "-I", "-S", script, str(os.getpid()), str(int(death_signal)), *arguments]


def run_to_end(
    what: str, argv: Sequence[str], env: Mapping[str, str], folder: Path, *, timeout_s: float, fds: Sequence[int] = ()
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in `folder` until it ends; it inherits `fds`. Raises ServerNotStarted after `timeout_s` seconds."""
    try:
        return subprocess.run(
            with_pdeathsig(argv),
            cwd=folder,
            env=dict(env),
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ServerNotStarted(f"{what} did not end within {timeout_s:.0f} s") from error


class Process:
    """A program that works in `data_dir`, with its log in `logs/<name>.log` there, and its pid and start mark in
    `run/<name>.json`, for a later run to find it. `stop_signal` asks it to end; `death_signal` is what it gets when
    this process dies. With an `output_file`, truncated at each start, its standard output goes there."""

    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL

    def __init__(self, name: str, data_dir: Path, *, output_file: Path | None = None) -> None:
        self.name, self.data_dir = name, data_dir.absolute()
        self.log_file = self.data_dir / "logs" / f"{name}.log"
        self._record_file = self.data_dir / "run" / f"{name}.json"
        self._output_file, self._log_begins = output_file, 0
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int | None:
        """The id of the process that was started last, running or not; None before the first start."""
        return self._popen.pid if self._popen else None

    @property
    def exit_status(self) -> int | None:
        """The exit code, or minus the signal's number; None while it runs or was never started."""
        return self._popen.poll() if self._popen else None

    def spawn(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it with this environment alone, after ending what a killed run left. Raises ServerNotStarted."""
        self.end_leftover()
        command = with_pdeathsig(arguments, self.death_signal)
        private = functools.partial(os.open, mode=0o600)
        # A Ctrl-C in the terminal is for the parent, which stops its children in order: hence a session of its own.
        how: dict[str, Any] = {"cwd": self.data_dir, "env": dict(environment), "start_new_session": True}
        try:
            for place in (self.log_file.parent, self._record_file.parent):
                place.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.trim_log()
            with contextlib.ExitStack() as files:
                output = errors = files.enter_context(open(self.log_file, "ab", opener=private))
                self._log_begins = errors.tell()
                if self._output_file:
                    output = files.enter_context(open(self._output_file, "wb", opener=private))
                how |= {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": errors}
                self._popen = _spawner().submit(lambda: subprocess.Popen(command, **how)).result()
            record = {"pid": self._popen.pid, "start_mark": start_mark(self._popen.pid)}
            replace_file(self._record_file, json.dumps(record).encode())
        except OSError as error:
            self.stop(_KILL_WAIT_S)
            raise ServerNotStarted(f"{self.name} could not be started: {error}") from error

    def stop(self, timeout_s: float = 15.0) -> None:
        """Ask it to end, and kill it if it has not after `timeout_s` seconds."""
        if self._popen is None:
            return
        if self._popen.poll() is None:
            self._popen.send_signal(self.stop_signal)
            try:
                self._popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                log.warning("killing a child that did not stop", child=self.name, waited_s=timeout_s)
                self._popen.kill()
                self._popen.wait(_KILL_WAIT_S)
        self._record_file.unlink(missing_ok=True)

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit status, None if it still runs after `timeout_s` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._popen.wait(timeout_s) if self._popen else None
        return None

    def tail(self, lines: int = 5) -> str:
        """Return the last lines of the log since the last start."""
        return tail(self.log_file, lines, self._log_begins)

    def end_leftover(self) -> None:
        """End what a killed run left behind, but only a process whose id, boot and start time are as recorded."""
        try:
            record = json.loads(self._record_file.read_text("utf-8"))
            pid, mark = int(record["pid"]), str(record["start_mark"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        if mark and start_mark(pid) == mark and not self.running:
            log.warning("ending a leftover of a killed run", child=self.name, pid=pid)
            end(self.name, pid, (self.stop_signal, 10.0), (signal.SIGKILL, _KILL_WAIT_S))
        self._record_file.unlink(missing_ok=True)

    def trim_log(self, limit_bytes: int = 10 << 20) -> None:
        """Copy a log over `limit_bytes` aside and empty it; the child, which appends, goes on."""
        with contextlib.suppress(FileNotFoundError):
            if self.log_file.stat().st_size > limit_bytes:
                shutil.copyfile(self.log_file, self.log_file.with_suffix(".log.1"))
                os.truncate(self.log_file, 0)
                self._log_begins = 0


def tail(file: Path, lines: int, begin: int = 0) -> str:
    """Return a text file's last lines from the byte `begin` on, without a stack trace's frames; "" without a file."""
    try:
        with file.open("rb") as handle:
            handle.seek(max(begin, handle.seek(0, os.SEEK_END) - 16_384))
            text = handle.read().decode("utf-8", "replace")
    except OSError:
        return ""
    # The frames of a Java stack trace would push out what went wrong, which is above them.
    telling = [line for line in text.rstrip().splitlines() if not line.startswith("\tat ")]
    return "\n".join(telling[-lines:])


def describe_exit(status: int | None) -> str:
    """Return an exit status in words: "exit code 1", "killed by SIGKILL"."""
    if status is not None and status < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
    return f"exit code {status}"


def end(name: str, pid: int, *steps: tuple[signal.Signals, float]) -> None:
    """Send each signal to a process that `name` left, and wait so many seconds. Raises ServerNotStarted if it stays."""
    mark = start_mark(pid)
    for number, wait_s in steps:
        deadline = time.monotonic() + wait_s
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        while mark and start_mark(pid) == mark and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    if mark and start_mark(pid) == mark:
        what = f"{name}: process {pid} of an earlier run does not end"
        raise ServerNotStarted(what, hint=f"See what holds it (ps {pid}) and end it, then try again.")


class ManagedProcess(Process, ABC):
    """A server or a service: one child process, started until it is ready."""

    def start(self, timeout_s: float = 60.0, stop: threading.Event | None = None) -> None:
        """Start it, unless it runs, and wait until it is ready. If it is not after `timeout_s` seconds, it is stopped.
        Raises ServerNotStarted, with the end of its log, and StartInterrupted if `stop` was set."""
        if self.running:
            return
        began, hint = time.monotonic(), f"Its whole log is {self.log_file}."
        try:
            arguments = self._prepare()
        except OSError as error:
            raise ServerNotStarted(f"{self.name} could not be started: {error}") from error
        self.spawn(arguments, self._environment())
        try:
            left_s = timeout_s - (time.monotonic() - began)
            for _ in tries(left_s, stop=stop, first_s=_POLL_S, longest_s=_POLL_S):
                if self._is_ready():
                    return
                if not self.running:
                    how = f"ended at once ({describe_exit(self.exit_status)})"
                    raise ServerNotStarted(f"{self.name} {how}:\n{self.tail()}", hint=hint)
            if stop and stop.is_set():
                raise StartInterrupted(f"asked to stop while {self.name} was starting")
            how = f"does not answer after {time.monotonic() - began:.0f} s"
            raise ServerNotStarted(f"{self.name} {how}:\n{self.tail()}", hint=hint)
        except StackError:
            self.stop()
            raise

    @abstractmethod
    def _prepare(self) -> Sequence[str]:
        """Write what it reads from disk, and return its command line."""

    @abstractmethod
    def _environment(self) -> Mapping[str, str]:
        """Return the child's whole environment."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Return whether it is ready for clients."""
