"""Refuse requests whose Host header names another server, before anything else is done."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from bdlab.hosts import DEFAULT_PORTS, AllowedHosts, parse
from bdlab.serving.problems import Problem

_OPEN = ("/health", "/health/live", "/health/ready", "/metrics")
_REMEMBERED = 64
"""Host headers of which the verdict is remembered; nearly all requests have the same few."""


def host_guard(allowed: AllowedHosts) -> Callable[[Any], Problem | None]:
    """Return a function of a request's scope: why it is refused, None if it is not.

    Requests to a host that is not allowed are; health checks and /metrics may name any host."""
    remembered = lru_cache(_REMEMBERED)(partial(_refusal, allowed))

    def refusal(scope: Any) -> Problem | None:
        named = tuple(value for name, value in scope["headers"] if name == b"host")
        return remembered(named, scope["scheme"], scope["path"].rstrip("/") in _OPEN)

    return refusal


def _refusal(allowed: AllowedHosts, named: tuple[bytes, ...], scheme: str, any_host: bool) -> Problem | None:
    if len(named) > 1:
        return Problem("bad-host", "The request has more than one Host header.")
    text = named[0].decode("latin-1") if named else ""
    host = parse(text)
    if text and host is None:
        return Problem("bad-host", f"The Host header {text[:100]!r} is not a host name or an address.")
    if any_host:
        return None
    if host is None:
        return Problem("bad-host", "The request has no Host header.")
    if host.port is None:
        host = host._replace(port=DEFAULT_PORTS.get(scheme))
    if host in allowed:
        return None
    return Problem(
        "wrong-host",
        f"The Host header is {text[:100]!r}, which is not in the setting http.allowed_hosts. If it is a name "
        "of this server, its operator has to add it there.",
    )
