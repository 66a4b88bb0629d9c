"""A `bdlab` command as a child process: a daemon of the pipeline, or one that ends by itself."""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bdlab.errors import StackError, StartInterrupted
from bdlab.settings import environment_layer
from bdlab.stack.folder import DataFolder
from bdlab.stack.servers.process import OverProcess, Process
from bdlab.stack.servers.server import ending, wait_until_up
from bdlab.stack.tls import TlsFolder, connect

_PROBE_TIMEOUT_S = 2.0
_POLL_S = 0.05
_STOP_TIMEOUT_S = 15.0

#: A shell that points at other servers must not point the stack's services there, nor give one of them the
#: options of another.
_FOREIGN_PREFIXES = ("BDLAB_", "VAULT_", "BAO_", "POSTGRES_", "PG")
#: Settings that the stack decides itself, by section; None is the whole section.
_DECIDED: dict[str, set[str] | None] = {
    "vault": None,
    "postgres": None,
    "kafka": {"bootstrap_servers", "security_protocol", "sasl_mechanism"},
    "http": {"host", "port", "tls_cert_file", "tls_key_file", "ca_file"},
    "sink": {"metrics_port", "tls_cert_file", "tls_key_file"},
}


def service_environment(folder: DataFolder, vault_address: str) -> dict[str, str]:
    """The environment of the stack's `bdlab` commands: this process's own, pointed at the stack.

    Settings in it reach the services, except those that the stack decides.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN_PREFIXES)}
    for section, values in environment_layer(os.environ).items():
        decided = _DECIDED.get(section, set())
        if isinstance(values, Mapping) and decided is not None:
            kept |= {
                f"BDLAB_{section}_{field}".upper(): value
                for field, value in values.items()
                if field not in decided
            }
    if kept.get("BDLAB_MODEL_PATH"):  # the services run in another folder than this process
        kept["BDLAB_MODEL_PATH"] = str(Path(kept["BDLAB_MODEL_PATH"]).absolute())
    for name in ("BDLAB_DEBUG", "BDLAB_STARTUP_TIMEOUT"):
        if name in os.environ:
            kept[name] = os.environ[name]
    return kept | {
        "BDLAB_CONFIG": str(folder.config_file),
        "VAULT_ADDR": vault_address,
        "PYTHONUNBUFFERED": "1",
    }


class Service(OverProcess):
    """A daemon of the pipeline, known by `name`; ready when `ready_path` answers 200 on `port`, over HTTPS
    where it has `tls`.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        folder: DataFolder,
        environment: Mapping[str, str],
        port: int,
        ready_path: str,
        tls: TlsFolder | None = None,
    ) -> None:
        self.name = name
        self._arguments = arguments
        self._folder = folder
        self._environment = environment
        self._port = port
        self._ready_path = ready_path
        self._tls = tls
        self._process = _process(name, folder)

    def trim_log(self) -> None:
        self._process.trim_log()

    def start(self, timeout_s: float = 60.0, stop: threading.Event | None = None) -> None:
        """Start it and wait until it is ready. Raises ServerNotStarted and StartInterrupted."""
        deadline = time.monotonic() + timeout_s
        self._process.start(self._arguments, environment=self._environment, folder=self._folder.path)
        try:
            wait_until_up(self._process, self._ready, deadline=deadline, stop=stop)
        except StackError:
            self.stop()
            raise

    def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        self._process.stop(timeout_s)

    def ask(self, path: str) -> tuple[int, bytes]:
        """Status and body of its answer; 0 and nothing where there is none."""
        connection = connect("127.0.0.1", self._port, tls=self._tls, timeout_s=_PROBE_TIMEOUT_S)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        return 0, b""

    def _ready(self) -> bool:
        return self.ask(self._ready_path)[0] == 200


class Outcome:
    """How a command ended: `code`, its standard `output` and the `tail` of its log."""

    def __init__(self, code: int, output: str, tail: str) -> None:
        self.code = code
        self.output = output
        self.tail = tail


def run_command(
    name: str,
    arguments: Sequence[str],
    *,
    folder: DataFolder,
    environment: Mapping[str, str],
    timeout_s: float,
    stop: threading.Event | None = None,
) -> Outcome:
    """Run a command that ends by itself, in the stack's folder, its talk in `logs/<name>.log`.

    Raises StackError where it takes more than `timeout_s` seconds, StartInterrupted where `stop` was set.
    """
    stop = stop or threading.Event()
    output_file = folder.records / f"{name}.out"
    process = _process(name, folder, output_file=output_file)
    deadline = time.monotonic() + timeout_s
    process.start(arguments, environment=environment, folder=folder.path)
    try:
        while (code := process.wait(_POLL_S)) is None:
            if stop.is_set():
                raise StartInterrupted(f"asked to stop while {name} was running")
            if time.monotonic() >= deadline:
                raise StackError(
                    f"{name} did not end within {timeout_s:g} s:\n{process.tail()}",
                    hint=f"Its whole log is {process.log_file}.",
                )
        return Outcome(code, output_file.read_text("utf-8", "replace"), process.tail(lines=10))
    finally:
        process.stop(_STOP_TIMEOUT_S)
        output_file.unlink(missing_ok=True)


def require(name: str, outcome: Outcome, log_file: Path) -> None:
    """Raise StackError, with the end of its log, for a command that failed."""
    if outcome.code != 0:
        raise StackError(
            f"{name} failed ({ending(outcome.code)}):\n{outcome.tail}", hint=f"Its whole log is {log_file}."
        )


def _process(name: str, folder: DataFolder, *, output_file: Path | None = None) -> Process:
    return Process(
        name,
        log_file=folder.logs / f"{name}.log",
        record_file=folder.records / f"{name}.json",
        output_file=output_file,
    )
