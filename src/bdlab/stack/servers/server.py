"""What OpenBao, Postgres and the broker have in common as servers of one data folder."""

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from bdlab.certificates import CertificateFiles
from bdlab.errors import ServerNotStarted
from bdlab.stack.servers.ports import PortRegistry
from bdlab.stack.servers.process import ManagedProcess


class Server(ManagedProcess):
    """A server with its data in `<data_dir>/<name>`, its log in `<data_dir>/logs`, its port in
    `<data_dir>/ports.json`. Construction does no I/O; `start` or `with` does.
    """

    name: str

    def __init__(self, data_dir: Path) -> None:
        super().__init__(self.name, data_dir)
        self.folder = self.data_dir / self.name
        self.ports = PortRegistry(self.data_dir / "ports.json")
        self._port: int | None = None

    @property
    def port(self) -> int:
        """The port of the last start. Raises ServerNotStarted before the first."""
        if self._port is None:
            raise ServerNotStarted(f"{self.name} has no port before it was started")
        return self._port

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def _prepare(self) -> Sequence[str]:
        for folder in (self.data_dir, self.folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.data_dir.chmod(0o700)
        self.end_leftover()
        self._port = self._choose_port()
        return self._configure(self._port)

    def _choose_port(self) -> int:
        # After a restart its clients must find it at the same port.
        return self.ports.choose(self.name, self._port)

    @abstractmethod
    def _configure(self, port: int) -> Sequence[str]:
        """Write what the server reads from disk, and return its command line."""

    def _environment(self) -> Mapping[str, str]:
        """Return the child's whole environment: nothing configures a server by accident, and no secret."""
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


def base_environment() -> dict[str, str]:
    """Return the few variables that any program needs."""
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "TZ", "TMPDIR") if name in os.environ}
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8", **kept}
