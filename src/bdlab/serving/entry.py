"""Where every request comes in: it is counted, its host and its key are checked, and it goes its way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from litestar.enums import HttpMethod, ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Send

from bdlab.hosts import DEFAULT_PORTS, AllowedHosts, parse
from bdlab.serving.access import NEED, Gate, Need, receive_credentials
from bdlab.serving.in_progress import InProgress
from bdlab.serving.metrics import Metrics
from bdlab.serving.openapi import DIRECT, Endpoint
from bdlab.serving.problems import Problem, problem_of, send_problem
from bdlab.serving.response_buffer import ResponseBuffer

_OPEN = ("/health", "/health/live", "/health/ready", "/metrics")
_REMEMBERED = 64  # Host headers of which the verdict is remembered; nearly all requests have the same few


@dataclass
class Entry:
    """The ASGI application around `framework`, which takes longer to call a route than most requests need.

    Routes among `handlers` with a direct endpoint are answered by it, without the framework. What is special about a
    request (a query, another spelling of its path, with `cors` a web page of another origin) takes the way through the
    framework, to the same endpoint. A request to a host that is not `allowed` is refused before anything else is done;
    health checks and /metrics may name any host."""

    framework: ASGIApp
    handlers: Sequence[HTTPRouteHandler]
    allowed: AllowedHosts
    gate: Gate
    cors: bool
    in_progress: InProgress
    metrics: Metrics
    response_buffer: ResponseBuffer

    def __post_init__(self) -> None:
        self._refusal = lru_cache(_REMEMBERED)(partial(_refusal, self.allowed))
        self._direct: dict[tuple[str, str], tuple[Endpoint, Need | None]] = {
            (method, path): (handler.opt[DIRECT], handler.opt.get(NEED))
            for handler in self.handlers
            if handler.opt.get(DIRECT)
            for method in handler.http_methods
            for path in handler.paths
            if method != HttpMethod.OPTIONS
        }

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:  # the lifespan
            await self.framework(scope, receive, send)
            return
        if scope["method"] == HttpMethod.HEAD:  # as GET (RFC 9110, 9.3.2); the server leaves out the body
            scope = {**scope, "method": HttpMethod.GET}
        send = receive_credentials(scope, send)
        started = time.perf_counter()
        self.in_progress.begin()
        status = 0
        try:
            named = tuple(value for name, value in scope["headers"] if name == b"host")
            refusal = self._refusal(named, scope["scheme"], scope["path"].rstrip("/") in _OPEN)
            if refusal is not None:
                status = await send_problem(refusal, send)
            elif (found := self._find(scope)) is not None:
                scope["path_template"] = scope["path"]
                status = await self._answer(*found, scope, receive, send)
            else:
                status = await self.response_buffer.pass_on(self.framework, scope, receive, send)
        finally:
            route = scope.get("path_template") or "unmatched"
            self.metrics.answered(scope["method"], route, status, time.perf_counter() - started)
            self.in_progress.end()

    def _find(self, scope: Any) -> tuple[Endpoint, Need | None] | None:
        """Return what answers a request, and the key that it needs; None if the framework does."""
        if scope["query_string"] or (self.cors and any(name == b"origin" for name, _ in scope["headers"])):
            return None
        return self._direct.get((scope["method"], scope["path"]))

    async def _answer(self, endpoint: Endpoint, need: Need | None, scope: Any, receive: Receive, send: Send) -> int:
        """Respond without the framework, and return the status."""
        try:
            self.in_progress.refuse_new()
            await self.gate.admit(scope, need)
            body = await endpoint(scope, receive)
        except Exception as error:  # noqa: BLE001 - logged if it is a defect
            return await send_problem(problem_of(error, scope), send)
        await self.response_buffer.send_json(body, send)
        return 200


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
