"""What OpenBao, Postgres and the broker have in common as servers of one data folder."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from bdlab.certificates import CertificateFiles
from bdlab.errors import ServerNotStarted, StackError, StartInterrupted
from bdlab.stack.servers.ports import PortBook
from bdlab.stack.servers.process import OverProcess, Process

_POLL_S = 0.02


class Server(OverProcess, ABC):
    """A server with its data in `<data_dir>/<name>`, its log in `<data_dir>/logs`, its port in
    `<data_dir>/ports.json`. Construction does nothing; `start` or `with` does.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    #: What it gets when this process dies; for a server that recovers by itself, the quickest end.
    orphan_signal: ClassVar[signal.Signals] = signal.SIGKILL

    def __init__(self, data_dir: Path, *, port: int | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.ports = PortBook(self.data_dir / "ports.json")
        self._wanted_port = port
        self._port: int | None = None
        self._process = Process(
            self.name,
            log_file=self.data_dir / "logs" / f"{self.name}.log",
            record_file=self.data_dir / "run" / f"{self.name}.json",
            stop_signal=self.stop_signal,
            orphan_signal=self.orphan_signal,
        )

    @property
    def folder(self) -> Path:
        return self.data_dir / self.name

    @property
    def port(self) -> int:
        """The port of the last start. Raises ServerNotStarted before the first."""
        if self._port is None:
            raise ServerNotStarted(f"{self.name} has no port before it was started")
        return self._port

    def start(self, timeout_s: float = 60.0, stop: threading.Event | None = None) -> None:
        """Start it and wait until it answers, at most `timeout_s` seconds.

        Raises ServerNotStarted, with the end of its log, and StartInterrupted where `stop` was set.
        """
        if self.running:
            return
        deadline = time.monotonic() + timeout_s
        try:
            self._make_folders()
            self._port = self._choose_port()
            arguments = self._configure(self._port)
        except OSError as error:
            raise ServerNotStarted(f"{self.name} could not be started: {error}") from error
        self._process.start(arguments, environment=self._environment(), folder=self.data_dir)
        try:
            wait_until_up(self._process, self._is_ready, deadline=deadline, stop=stop)
        except StackError:
            self.stop()
            raise

    def stop(self, timeout_s: float = 15.0) -> None:
        """Ask it to stop and wait; kill it where it has not after `timeout_s` seconds."""
        self._process.stop(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def _make_folders(self) -> None:
        for folder in (self.data_dir, self.folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.data_dir.chmod(0o700)
        self._process.end_leftover()

    def _choose_port(self) -> int:
        # Restarted, it has to be found where it was.
        return self.ports.choose(self.name, self._wanted_port or self._port)

    @abstractmethod
    def _configure(self, port: int) -> Sequence[str]:
        """Write what the server reads from disk, and return its command line."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Return whether the server is ready for clients."""

    def _environment(self) -> Mapping[str, str]:
        """The child's whole environment: nothing that configures a server by accident, and no secret."""
        return base_environment()


class Broker(Server):
    """The Kafka-protocol broker of a stack."""

    #: Whether the log outlives the process. Otherwise each start is a new incarnation of the log, with
    #: another `cluster_id` at another address.
    keeps_log: ClassVar[bool]

    certificates: CertificateFiles | None = None
    """The files that must be there before it starts; None for an unsecured broker."""

    @property
    def bootstrap_servers(self) -> str:
        """The address for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def admin_servers(self) -> str:
        """The address for administrators; empty for a broker that knows none."""
        return ""

    @property
    @abstractmethod
    def cluster_id(self) -> str:
        """The id of the log; empty before the first start."""

    @property
    def security_protocol(self) -> str:
        return "PLAINTEXT"

    @property
    def client_environment(self) -> Mapping[str, str]:
        """How clients reach it, as `BDLAB_KAFKA_...` variables for the first set-up."""
        return {
            "BDLAB_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "BDLAB_KAFKA_SECURITY_PROTOCOL": self.security_protocol,
        }

    def prepare(self) -> None:
        """Do before the start what takes time and needs no other server."""


def wait_until_up(
    process: Process, answers: Callable[[], bool], *, deadline: float, stop: threading.Event | None = None
) -> None:
    """Wait until `answers`, up to `deadline` on the monotonic clock.

    Raises ServerNotStarted, with the end of the log, and StartInterrupted where `stop` was set.
    """
    stop = stop or threading.Event()
    began = time.monotonic()
    hint = f"Its whole log is {process.log_file}."
    while not answers():
        if not process.running:
            raise ServerNotStarted(
                f"{process.name} ended at once ({ending(process.exit_status)}):\n{process.tail()}", hint=hint
            )
        waited_s = time.monotonic() - began
        if time.monotonic() >= deadline:
            raise ServerNotStarted(
                f"{process.name} does not answer after {waited_s:.0f} s:\n{process.tail()}", hint=hint
            )
        if stop.wait(_POLL_S):
            raise StartInterrupted(f"asked to stop while {process.name} was starting")


def ending(status: int | None) -> str:
    """An exit status in words: "exit code 1", "killed by SIGKILL"."""
    if status is not None and status < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
    return f"exit code {status}"


def base_environment() -> dict[str, str]:
    """The few variables that any program needs."""
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "TZ", "TMPDIR") if name in os.environ}
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8", **kept}
