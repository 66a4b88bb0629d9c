"""Requests that name another host are turned away before anything is done for them."""

from __future__ import annotations

from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from bdlab.hosts import DEFAULT_PORTS, AllowedHosts, parse
from bdlab.serving.problems import Problem, problem, send_problem

_OPEN = ("/health", "/health/live", "/health/ready", "/metrics")


def guard(app: ASGIApp, allowed: AllowedHosts) -> ASGIApp:
    """`app`, for requests to an allowed host. Probes and scrapes come by address: theirs may name any."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope, allowed) if scope["type"] == ScopeType.HTTP else None
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
        return _bad(f"The Host header {text[:100]!r} is no host name or address.")
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
        "This server is not called by that name",
        f"The Host header is {text[:100]!r}, which the setting http.allowed_hosts does not have. If that is "
        "a name of this server, whoever runs it has to add it there.",
    )


def _bad(detail: str) -> Problem:
    return problem(400, "bad-host", "The request does not say for which host it is", detail)
