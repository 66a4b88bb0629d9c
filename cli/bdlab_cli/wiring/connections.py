"""How many connections a process may have, and what they hold together."""

import resource
import time
from typing import Protocol

import structlog

from bdlab.errors import BdlabError, InvalidInput

log = structlog.get_logger()

MAX_CONNECTIONS = 2048
RESERVED_FILES = 128  # kept for the process itself: for Vault, the broker, PostgreSQL, and its logs

_FULL_TOLD_EVERY_S = 60.0


class Waiting(Protocol):
    """A connection that waits for its client."""

    def make_room(self) -> None:
        """End at once, to make room for another connection."""


class Bounds:
    """What the connections of this process hold together; used on its event loop only.

    `waiting` has the connections that wait for their client, not for an answer, the longest wait first."""

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self._told_at = -_FULL_TOLD_EVERY_S
        self.held = 0
        self.waiting: dict[Waiting, None] = {}

    def admit(self, connections: int) -> bool:
        """Return whether a new one of `connections` may stay; one that only waits may make room for it."""
        if connections <= self._max_connections:
            return True
        if time.monotonic() - self._told_at > _FULL_TOLD_EVERY_S:
            self._told_at = time.monotonic()
            what = "too many connections: the one that waits longest for its client is closed for a new one"
            log.warning(what, connections=self._max_connections, setting="http.max_connections")
        for longest in self.waiting:
            del self.waiting[longest]
            longest.make_room()
            return True
        return False


def max_connections(wanted: int) -> int:
    """Return how many connections a process may have: `wanted`, or as many as its files allow if that is 0.

    Sets the limit of open files as high as it may be. Raises InvalidInput and BdlabError if it is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = (1 << 20 if hard == resource.RLIM_INFINITY else hard) - RESERVED_FILES
    hint = "Raise it (`ulimit -n`, systemd's LimitNOFILE, Docker's --ulimit nofile)"
    if room < 1:
        why = f"this process may open {hard} files: {RESERVED_FILES} are kept for itself, none is left for connections"
        raise BdlabError(why, hint=f"{hint}.")
    if wanted > room:
        allowed = f"{hard}, of which {RESERVED_FILES} are kept for the process itself"
        why = f"http.max_connections {wanted} is more than the limit of open files allows: {allowed}"
        raise InvalidInput(why, hint=f"{hint}, or set http.max_connections to at most {room}.")
    return wanted or min(room, MAX_CONNECTIONS)
