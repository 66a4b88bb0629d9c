"""A bound on the responses that are kept in memory because their clients do not read them."""

from __future__ import annotations

from typing import Any

from litestar.types import ASGIApp, Receive, Send

from bdlab.serving.problems import Problem, send_problem
from bdlab.serving.responses import json_messages

MAX_BYTES = 32 << 20  # the most that all larger responses of this process may hold together
SMALL_BYTES = 16 << 10
"""A response of up to this size is not counted. A larger one is sent in pieces of this size: the HTTP server
takes the next piece when the client has read."""


class ResponseBuffer:
    """Counts the bytes of larger responses until they are sent, and refuses those beyond the bound."""

    def __init__(self) -> None:
        self._held = 0

    def check(self) -> None:
        """Raise Problem, 503, if the bound is reached. To be called before work with a large response."""
        if self._held >= MAX_BYTES:
            raise self._full()

    async def pass_on(self, app: ASGIApp, scope: Any, receive: Receive, send: Send) -> int:
        """Have `app` respond, with 503 in place of a larger response beyond the bound, if the request only
        reads; return the status."""
        status = 0
        start: Any = None

        async def sending(message: Any) -> None:
            nonlocal start, status
            if message["type"] == "http.response.start":
                status = message["status"]
                start = message  # kept until the size of the body is known
                return
            head, start = start, None
            size = len(message.get("body", b""))
            if size <= SMALL_BYTES:
                if head:
                    await send(head)
                await send(message)
            elif head and self._held and self._held + size > MAX_BYTES and scope["method"] != "POST":
                status = await send_problem(self._full(), send)
            else:
                await self._send(head, message, send)

        await app(scope, receive, sending)
        return status

    async def send_json(self, body: bytes, send: Send) -> None:
        """Send a 200 with encoded JSON, in pieces if it is larger. It is not refused."""
        head, message = json_messages(body)
        if len(body) > SMALL_BYTES:
            await self._send(head, message, send)
            return
        await send(head)
        await send(message)

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
        return Problem(
            "busy",
            f"{self._held} bytes wait for clients that have not read them; the limit is {MAX_BYTES}. "
            "Nothing was done: retry a little later, or ask for less at once.",
            status=503,
            title="Too many large responses are in progress",
        )
