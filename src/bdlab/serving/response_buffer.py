"""A bound on the answers that are held because their clients do not read them."""

from __future__ import annotations

from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from bdlab.serving.problems import Problem, problem, send_problem

MAX_BYTES = 32 << 20
"""Of all larger answers together, in this process."""
SMALL_BYTES = 16 << 10
"""An answer of up to this size is not counted. A larger one goes in pieces of it: the HTTP server takes the
next one when its client has read."""


class ResponseBuffer:
    """Counts the bytes of larger answers until they are sent, and turns those away that would be too many."""

    def __init__(self) -> None:
        self._held = 0

    def check(self) -> None:
        """Before something is done of which a large answer has to tell. Raises Problem, 503."""
        if self._held >= MAX_BYTES:
            raise self._full()

    def bound(self, app: ASGIApp) -> ASGIApp:
        """`app`, whose larger answers to what only reads are 503 while others hold too much."""

        async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return
            start: Any = None

            async def sending(message: Any) -> None:
                nonlocal start
                if message["type"] == "http.response.start":
                    start = message  # goes with the body, whose size decides about it
                    return
                head, start = start, None
                size = len(message.get("body", b""))
                if size <= SMALL_BYTES:
                    if head:
                        await send(head)
                    await send(message)
                elif head and self._held and self._held + size > MAX_BYTES and scope["method"] != "POST":
                    await send_problem(self._full(), scope, receive, send)
                else:
                    await self._send(head, message, send)

            await app(scope, receive, sending)

        return bounded

    async def _send(self, head: Any, message: Any, send: Send) -> None:
        body = message["body"]
        self._held += len(body)
        try:
            if head:
                await send(head)
            for at in range(0, len(body), SMALL_BYTES):
                more = at + SMALL_BYTES < len(body) or message.get("more_body", False)
                await send(message | {"body": body[at : at + SMALL_BYTES], "more_body": more})
        finally:
            self._held -= len(body)

    def _full(self) -> Problem:
        return problem(
            503,
            "busy",
            "Too many large answers are on their way",
            f"{self._held} bytes wait for clients that have not read them, and {MAX_BYTES} may. Nothing was "
            "done: retry a little later, or ask for less at once.",
        )
