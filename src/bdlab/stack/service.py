"""A `bdlab` command as a child process: a daemon of the pipeline, or a command that ends by itself."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bdlab.errors import StackError, StartInterrupted
from bdlab.settings import environment_layer
from bdlab.stack.folder import DataFolder
from bdlab.stack.servers.process import ManagedProcess, Process, describe_exit
from bdlab.stack.tls import TlsFolder, get

COMMAND_TIMEOUT_S = 120.0
#: Variables of the shell that would point the stack's services at other servers, or give one service the
#: options of another.
_FOREIGN_PREFIXES = ("BDLAB_", "VAULT_", "BAO_", "POSTGRES_", "PG")
#: Settings that the stack decides itself, by section; None is the whole section.
_DECIDED: dict[str, set[str] | None] = {
    "vault": None,
    "postgres": None,
    "kafka": {"bootstrap_servers", "security_protocol", "sasl_mechanism"},
    "http": {"host", "port", "tls_cert_file", "tls_key_file", "ca_file"},
    "console": {"host", "port", "tls_cert_file", "tls_key_file", "api_url"},
    "sink": {"metrics_port", "tls_cert_file", "tls_key_file"},
}


def service_environment(folder: DataFolder, vault_address: str) -> dict[str, str]:
    """Return the environment of the stack's `bdlab` commands: this process's own, pointed at the stack. Settings in it
    reach the services, except those that the stack decides."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN_PREFIXES)}
    for section, values in environment_layer(os.environ).items():
        decided = _DECIDED.get(section, set())
        if isinstance(values, Mapping) and decided is not None:
            given = {name: value for name, value in values.items() if name not in decided}
            kept |= {f"BDLAB_{section}_{name}".upper(): value for name, value in given.items()}
    for name in ("BDLAB_MODEL_PATH", "BDLAB_MODEL_REGISTRY"):
        if "://" not in (place := kept.get(name) or "://"):  # the services run in another folder than this process
            kept[name] = str(Path(place).absolute())
    kept |= {name: os.environ[name] for name in ("BDLAB_DEBUG", "BDLAB_STARTUP_TIMEOUT") if name in os.environ}
    return kept | {"BDLAB_CONFIG": str(folder.config_file), "VAULT_ADDR": vault_address, "PYTHONUNBUFFERED": "1"}


class CommandResult(NamedTuple):
    """How a command ended: its exit status, its standard output and the end of its log."""

    code: int
    output: str
    tail: str


@dataclass
class Commands:
    """Runs `bdlab` commands in `folder` with the command line `program` before them; they see `environment` alone."""

    program: Sequence[str]
    folder: DataFolder
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(
        self,
        name: str,
        arguments: Sequence[str],
        stop: threading.Event | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = COMMAND_TIMEOUT_S,
        check: bool = True,
    ) -> CommandResult:
        """Run one until it ends, with `environment` on top, and its standard error in `logs/<name>.log`. Raises
        StackError after `timeout_s` seconds and, with `check`, if it fails; StartInterrupted if `stop` was set."""
        output_file = self.folder.records / f"{name}.out"
        process = Process(name, self.folder.path, output_file=output_file)
        hint, deadline = f"Its whole log is {process.log_file}.", time.monotonic() + timeout_s
        process.spawn([*self.program, *arguments], {**self.environment, **(environment or {})})
        try:
            while (code := process.wait(0.05)) is None:
                if stop and stop.is_set():
                    raise StartInterrupted(f"asked to stop while {name} was running")
                if time.monotonic() >= deadline:
                    raise StackError(f"{name} did not end within {timeout_s:g} s:\n{process.tail()}", hint=hint)
            result = CommandResult(code, output_file.read_text("utf-8", "replace"), process.tail(lines=10))
            if check and code != 0:
                raise StackError(f"{name} failed ({describe_exit(code)}):\n{result.tail}", hint=hint)
            return result
        finally:
            process.stop()
            output_file.unlink(missing_ok=True)


class Service(ManagedProcess):
    """A daemon, run as `commands` are, ready when `ready_path` answers 200 on `port`, over HTTPS if it has `tls`."""

    def __init__(
        self, name: str, argv: Sequence[str], commands: Commands, *, port: int, ready_path: str, tls: TlsFolder | None
    ) -> None:
        super().__init__(name, commands.folder.path)
        self._argv, self._commands, self._ready_path = argv, commands, ready_path
        #: Called with a path; returns status and body of its response, 0 and nothing if there is none.
        self.get = partial(get, port, tls=tls, timeout_s=2.0)

    def _prepare(self) -> Sequence[str]:
        return [*self._commands.program, *self._argv]

    def _environment(self) -> Mapping[str, str]:
        return self._commands.environment

    def _is_ready(self) -> bool:
        return self.get(self._ready_path)[0] == 200
