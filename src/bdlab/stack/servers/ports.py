"""Ports on loopback: chosen once, kept with the data folder, chosen again where one is taken."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import weakref
from pathlib import Path

from bdlab.errors import ServerNotStarted
from bdlab.files import replace_file

# Below what Linux gives to outgoing connections (from 32768 on), so that none of those takes a port
# between its choice and its use.
_FIRST, _LAST = 20_000, 32_000
_ATTEMPTS = 200


def _is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def answers(port: int, *, timeout_s: float = 1.0) -> bool:
    """Whether something on loopback accepts a connection."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=timeout_s):
        return True
    return False


class _Claim:
    """A port that no other stack of this machine chooses while this object lives.

    The mark is a Unix socket with an abstract name, which, like ports, belongs to a network namespace and
    goes with its process. Binding the port itself would not do: the server has to, seconds later, and
    connections of one that has just ended there refuse it.
    """

    def __init__(self, port: int, owner: Path) -> None:
        """Raises OSError where another process has it."""
        self.owner = owner
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        weakref.finalize(self, mark.close)
        mark.bind(f"\0bdlab-port-{port}")


#: This process's, by port; the books hold them.
_claims: weakref.WeakValueDictionary[int, _Claim] = weakref.WeakValueDictionary()
_claiming = threading.Lock()
#: Servers that are started side by side write into one book.
_writing = threading.Lock()


class PortBook:
    """The ports of one data folder, by name, in a small JSON file. What it gives is no other folder's for as
    long as the book lives.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._held: dict[int, _Claim] = {}

    def choose(self, name: str, wanted: int | None = None, *, preferred: int | None = None) -> int:
        """`wanted` if given, else the port that `name` had, else `preferred`, else a free one; kept for the
        next time.

        Raises ServerNotStarted where `wanted` is taken, or none of many is free.
        """
        if wanted is not None and not self.take(wanted):
            raise ServerNotStarted(
                f"port {wanted} for {name} is in use by another program",
                hint="Leave the port out to have a free one chosen.",
            )
        with _writing:
            book = self._read()
            port = wanted or book.get(name) or preferred
            if port is None or not (port == wanted or self.take(port)):
                port = self.choose_new(*book.values())
            if book.get(name) != port:
                self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                replace_file(self._file, json.dumps(book | {name: port}, indent=1).encode())
        return port

    def choose_new(self, *besides: int | None) -> int:
        """A free port that is none of `besides`.

        Raises ServerNotStarted where none of many is free.
        """
        for _ in range(_ATTEMPTS):
            port = random.randint(_FIRST, _LAST)  # noqa: S311 - to stay out of each other's way, no secret
            if port not in besides and self.take(port):
                return port
        raise ServerNotStarted(f"no free port found between {_FIRST} and {_LAST} on 127.0.0.1")

    def take(self, port: int) -> bool:
        """Whether a server could listen there now; if so, the port is this folder's from here on."""
        with _claiming:
            claim = _claims.get(port)
            if claim is None:
                try:
                    claim = _Claim(port, self._file)
                except OSError:
                    return False
            if claim.owner != self._file or not _is_free(port):
                return False
            self._held[port] = _claims[port] = claim
            return True

    def kept(self, name: str) -> int | None:
        """The port that `name` was given before."""
        return self._read().get(name)

    def _read(self) -> dict[str, int]:
        try:
            return {str(name): int(port) for name, port in json.loads(self._file.read_text("utf-8")).items()}
        except (OSError, ValueError, AttributeError):
            return {}
