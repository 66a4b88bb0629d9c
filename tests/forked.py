"""`bdlab` commands as processes of their own whose imports are done: a start takes a third of the CPU time.

What differs from `python -m bdlab_cli` is that the modules were imported before the environment was set, that
scikit-learn apart all are, and what `/proc` says of the command line. Who tests one of these starts a process
by `subprocess`, as `real` does.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from tests.fork_server import NUMBER

#: The interpreter reads variables that begin so when it starts, and these options start another one.
_AT_THE_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_")


def can(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a command with these behaves as one that an interpreter was started for."""
    names = environment.keys() | os.environ.keys()
    changed = [name for name in names if environment.get(name) != os.environ.get(name)]
    return "--workers" not in arguments and not any(name.startswith(_AT_THE_START) for name in changed)


class Process:
    """A command that runs. Its names are those of `subprocess.Popen`."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        streams: Sequence[int | IO[bytes]],
        folder: Path | None = None,
    ) -> None:
        """`streams` are its standard input, output and error, as descriptors or open files."""
        self.args = ("bdlab", *arguments)
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        self._told, theirs = socket.socketpair()
        request = {"arguments": arguments, "environment": dict(environment), "folder": str(folder or Path.cwd())}
        descriptors = [each if isinstance(each, int) else each.fileno() for each in streams]
        with theirs:
            socket.send_fds(_server(), [json.dumps(request).encode()], [theirs.fileno(), *descriptors])
        self.pid = self._number()
        self._told.setblocking(False)

    def _number(self) -> int:
        data = self._told.recv(NUMBER.size, socket.MSG_WAITALL)
        assert len(data) == NUMBER.size, f"what waits for {self.args} has ended before it"
        return int(NUMBER.unpack(data)[0])

    def poll(self) -> int | None:
        if self.returncode is None:
            with suppress(BlockingIOError):
                self.returncode = self._number()
                self._told.close()
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            told = select.poll()  # which takes any descriptor, as select does not
            told.register(self._told, select.POLLIN)
            if not told.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def started(arguments: Sequence[str], environment: Mapping[str, str]) -> Process:
    """A daemon; what it writes is read from `stdout` and `stderr`."""
    (out, their_out), (err, their_err) = os.pipe(), os.pipe()
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        process = Process(arguments, environment, [nothing, their_out, their_err])
    os.close(their_out)
    os.close(their_err)
    process.stdout, process.stderr = os.fdopen(out, encoding="utf-8"), os.fdopen(err, encoding="utf-8")
    return process


def run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: bytes = b"",
    folder: Path | None = None,
    timeout_s: float = 240,
) -> subprocess.CompletedProcess[str]:
    """Run one to its end. Raises subprocess.TimeoutExpired, when it is killed."""
    with ExitStack() as opened:
        streams = [opened.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        streams[0].write(stdin)
        streams[0].seek(0)
        process = Process(arguments, environment, streams, folder)
        try:
            code = process.wait(timeout_s)
        finally:
            process.kill()
            process.wait(10)
        for stream in streams:
            stream.seek(0)
        out, err = (stream.read().decode() for stream in streams[1:])
    return subprocess.CompletedProcess(process.args, code, out, err)


@functools.cache
def _server() -> socket.socket:
    """To the server of this process of the suite; it ends when this one does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("fork_server.py")), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait()

    return ours
