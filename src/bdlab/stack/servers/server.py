"""What OpenBao, Postgres and the broker have in common as servers of one data folder, and their ports on 127.0.0.1:
chosen once, kept with the data folder, chosen again if one is taken."""

import contextlib
import json
import os
import random
import socket
import threading
import weakref
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import msgspec

from bdlab.certificates import CertificateFiles
from bdlab.errors import ServerNotStarted
from bdlab.files import replace_file
from bdlab.stack.servers.process import ManagedProcess

# Below the ports of outgoing connections (Linux: from 32768 on), so that none of those takes a port between
# its choice and its use.
_FIRST, _LAST = 20_000, 32_000


def is_listening(port: int) -> bool:
    """Return whether something on 127.0.0.1 accepts a connection."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


class _Reservation:
    """A port that no other stack of this machine chooses while this object exists. It is a Unix socket with an abstract
    name, which, like a port, belongs to a network namespace and ends with its process. The port itself cannot be bound
    here: the server binds it seconds later, and would be refused by connections that have just ended."""

    def __init__(self, port: int, owner: Path) -> None:
        """Raises OSError if another process has it."""
        self.owner = owner
        named = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        weakref.finalize(self, named.close)
        named.bind(f"\0bdlab-port-{port}")


#: This process's, by port; the registries keep them alive.
_reservations: weakref.WeakValueDictionary[int, _Reservation] = weakref.WeakValueDictionary()
#: Servers that are started at the same time write the same file.
_choosing = threading.RLock()


class PortRegistry:
    """The ports of one data folder, by name, in a small JSON file; reserved while this object exists."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._reserved: dict[int, _Reservation] = {}

    def choose(self, name: str, wanted: int | None = None, *, preferred: int | None = None) -> int:
        """Return `wanted` if given, else the port that `name` had, else `preferred`, else a free one. It is kept for
        the next time. Raises ServerNotStarted if `wanted` is taken, or no port is free."""
        if wanted is not None and not self.reserve(wanted):
            what = f"port {wanted} for {name} is in use by another program"
            raise ServerNotStarted(what, hint="Leave the port out to have a free one chosen.")
        with _choosing:
            kept = self.kept
            port = wanted or kept.get(name) or preferred
            if port is None or not (port == wanted or self.reserve(port)):
                port = self.choose_new(*kept.values())
            if kept.get(name) != port:
                self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                replace_file(self._file, json.dumps(kept | {name: port}, indent=1).encode())
        return port

    def choose_new(self, *excluded: int | None) -> int:
        """Return a free port that is none of `excluded`. Raises ServerNotStarted if there is none."""
        for _ in range(200):
            port = random.randint(_FIRST, _LAST)  # noqa: S311 - no secret
            if port not in excluded and self.reserve(port):
                return port
        raise ServerNotStarted(f"no free port found between {_FIRST} and {_LAST} on 127.0.0.1")

    def reserve(self, port: int) -> bool:
        """Reserve the port for this folder; return False if another one has it or a program listens there."""
        with _choosing, contextlib.suppress(OSError), socket.socket() as probe:
            found = _reservations.get(port) or _Reservation(port, self._file)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            if found.owner == self._file:
                self._reserved[port] = _reservations[port] = found
                return True
        return False

    @property
    def kept(self) -> dict[str, int]:
        """The ports that were given before, by name."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, int])
        return {}


class Server(ManagedProcess):
    """A server with its data in `<data_dir>/<name>` and its port in `<data_dir>/ports.json`. `with` starts it."""

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
        """Return the few variables that any program needs: nothing configures a server by accident, and no secret."""
        kept = {name: os.environ[name] for name in ("HOME", "PATH", "TZ", "TMPDIR") if name in os.environ}
        return {"PATH": os.defpath, "LC_ALL": "C.UTF-8", **kept}


class Broker(Server):
    """The Kafka-protocol broker of a stack."""

    #: Whether the log outlives the process. Otherwise each start is a new incarnation of the log, with
    #: another `cluster_id` at another address.
    keeps_log: ClassVar[bool]
    #: The files that must be there before it starts; None for an unsecured broker.
    certificates: CertificateFiles | None = None

    @property
    def bootstrap_servers(self) -> str:
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
        return "SASL_SSL" if self.certificates else "PLAINTEXT"

    @property
    def client_environment(self) -> dict[str, str]:
        """How clients reach it, as `BDLAB_KAFKA_...` variables for the first set-up; Vault signs its certificate."""
        address = {"BDLAB_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers}
        authority = {"BDLAB_KAFKA_CA_FILE": "vault"} if self.certificates else {}
        return {**address, "BDLAB_KAFKA_SECURITY_PROTOCOL": self.security_protocol, **authority}

    def prepare(self) -> None:
        """Do before the start what takes time and needs no other server."""
