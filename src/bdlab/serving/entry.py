"""Where every request comes in: it is counted, its host and its key are checked, and it goes its way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from litestar.enums import HttpMethod, ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Send

from bdlab.serving.access import NEED, Gate, Need, receive_credentials
from bdlab.serving.in_progress import InProgress
from bdlab.serving.metrics import Metrics
from bdlab.serving.openapi import DIRECT, Endpoint
from bdlab.serving.problems import Problem, problem_of, send_problem
from bdlab.serving.response_buffer import ResponseBuffer


@dataclass
class Entry:
    """The ASGI application around `framework`, which takes longer to call a route than most requests need.

    Routes among `handlers` with a direct endpoint are answered by it, without the framework. What is special about a
    request (a query, another spelling of its path, with `cors` a web page of another origin) takes the way through the
    framework, to the same endpoint. `refusal` returns why a request is refused by its host."""

    framework: ASGIApp
    handlers: Sequence[HTTPRouteHandler]
    refusal: Callable[[Any], Problem | None]
    gate: Gate
    cors: bool
    in_progress: InProgress
    metrics: Metrics
    response_buffer: ResponseBuffer

    def __post_init__(self) -> None:
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
            refusal = self.refusal(scope)
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
