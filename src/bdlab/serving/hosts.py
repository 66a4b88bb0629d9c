"""Refuse requests whose Host header names another server, before anything else is done."""

from __future__ import annotations

from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from bdlab.hosts import DEFAULT_PORTS, AllowedHosts, parse
from bdlab.serving.problems import Problem, problem, send_problem

_OPEN = ("/health", "/health/live", "/health/ready", "/metrics")


def guard(app: ASGIApp, allowed: AllowedHosts) -> ASGIApp:
    """Return `app` for requests to an allowed host; health checks and /metrics may name any host."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope, allowed)
        if refusal is None:
            await app(scope, receive, send)
        else:
            await send_problem(refusal, scope, receive, send)

    return guarded


def _refusal(scope: Any, allowed: AllowedHosts) -> Problem | None:
    named = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    if len(named) > 1:
        return _bad("The request has more than one Host header.")
    text = named[0] if named else ""
    host = parse(text)
    if text and host is None:
        return _bad(f"The Host header {text[:100]!r} is not a host name or an address.")
    if scope["path"].rstrip("/") in _OPEN:
        return None
    if host is None:
        return _bad("The request has no Host header.")
    if host.port is None:
        host = host._replace(port=DEFAULT_PORTS.get(scope["scheme"]))
    if host in allowed:
        return None
    return problem(
        421,
        "wrong-host",
        "This server does not have that name",
        f"The Host header is {text[:100]!r}, which is not in the setting http.allowed_hosts. If it is a name "
        "of this server, its operator has to add it there.",
    )


def _bad(detail: str) -> Problem:
    return problem(400, "bad-host", "The request has no valid Host header", detail)
