"""The end of the API: whoever came in at the last moment is answered before its parts are closed."""

from __future__ import annotations

import asyncio
import contextlib

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from bdlab.serving import problems


class GracefulShutdown:
    """Knows how many requests are inside, and turns away who comes once the end has begun.

    The HTTP server ends the application when it sees no connection any more, and a client whose TLS handshake
    ends a moment later is let in all the same.
    """

    def __init__(self) -> None:
        self._begun = False
        self._inside = 0
        self._empty = asyncio.Event()

    def count(self, app: ASGIApp) -> ASGIApp:
        """`app`, with its requests counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return
            self._inside += 1
            try:
                await app(scope, receive, send)
            finally:
                self._inside -= 1
                if not self._inside:
                    self._empty.set()

        return counted

    def refuse_new(self) -> None:
        """Before each request. Raises Problem, 503, once the end has begun."""
        if self._begun:
            raise problems.problem(
                503, "ending", "The server is stopping", "Ask again: another may be there."
            )

    async def wait(self, timeout_s: float) -> None:
        """Begin the end, and wait for those that are inside, at most `timeout_s` seconds."""
        self._begun = True
        if self._inside:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), timeout_s)
