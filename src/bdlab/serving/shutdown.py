"""Graceful shutdown: every request that came in gets its response before the API's parts are closed."""

from __future__ import annotations

import asyncio
import contextlib

from litestar.types import ASGIApp, Receive, Scope, Send

from bdlab.serving import problems


class GracefulShutdown:
    """Counts the requests in progress, and refuses new ones once the shutdown has begun.

    The HTTP server ends the application when it sees no connection any more, and still lets in a client whose
    TLS handshake ends a moment later.
    """

    def __init__(self) -> None:
        self._begun = False
        self._in_progress = 0
        self._idle = asyncio.Event()

    def count(self, app: ASGIApp) -> ASGIApp:
        """Return `app` with its requests counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            self._in_progress += 1
            try:
                await app(scope, receive, send)
            finally:
                self._in_progress -= 1
                if not self._in_progress:
                    self._idle.set()

        return counted

    def refuse_new(self) -> None:
        """Raise Problem, 503, if the shutdown has begun. To be called before each request."""
        if self._begun:
            raise problems.problem(
                503, "ending", "The server is stopping", "Send the request again: another server may take it."
            )

    async def wait(self, timeout_s: float) -> None:
        """Begin the shutdown and wait for the requests in progress, at most `timeout_s` seconds."""
        self._begun = True
        if self._in_progress:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)
