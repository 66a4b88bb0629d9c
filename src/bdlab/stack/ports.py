"""Ports on loopback: chosen once, kept with the data folder, chosen again where one is taken."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from pathlib import Path

from bdlab.errors import ServerNotStarted

# Below what Linux gives to outgoing connections (from 32768 on), so that none of those takes a port
# between its choice and its use.
_FIRST, _LAST = 20_000, 32_000
_ATTEMPTS = 200


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def hold(port: int) -> socket.socket | None:
    """Keep others from the port until the socket is closed; None where the system does not let us.

    It does not listen. A server that ran there a moment ago may have left connections, which refuse this
    bind and not that of a server.
    """
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        held.bind(("127.0.0.1", port))
    except OSError:
        held.close()
        return None
    return held


def answers(port: int, *, timeout_s: float = 1.0) -> bool:
    """Whether something on loopback accepts a connection."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=timeout_s):
        return True
    return False


def choose_free() -> int:
    """A free port. Raises ServerNotStarted where none of many is."""
    for _ in range(_ATTEMPTS):
        port = random.randint(_FIRST, _LAST)  # noqa: S311 - to stay out of each other's way, no secret
        if is_free(port):
            return port
    raise ServerNotStarted(f"no free port found between {_FIRST} and {_LAST} on 127.0.0.1")


class PortBook:
    """The ports of one data folder, by name, in a small JSON file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def choose(self, name: str, wanted: int | None = None, *, preferred: int | None = None) -> int:
        """`wanted` if given, else the port that `name` had, else `preferred`, else a free one; kept for the
        next time.

        Raises ServerNotStarted where `wanted` is taken.
        """
        if wanted is not None and not is_free(wanted):
            raise ServerNotStarted(
                f"port {wanted} for {name} is in use by another program",
                hint="Leave the port out to have a free one chosen.",
            )
        book = self._read()
        port = wanted or book.get(name) or preferred
        if port is None or not is_free(port):
            port = choose_free()
            while port in book.values():
                port = choose_free()
        if book.get(name) != port:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file.write_text(json.dumps(book | {name: port}, indent=1), "utf-8")
        return port

    def kept(self, name: str) -> int | None:
        """The port that `name` was given before."""
        return self._read().get(name)

    def _read(self) -> dict[str, int]:
        try:
            return {str(name): int(port) for name, port in json.loads(self._file.read_text("utf-8")).items()}
        except (OSError, ValueError, AttributeError):
            return {}
