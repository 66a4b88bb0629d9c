"""Server-sent events: what a page shows anew, made once and given to all who look at it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from litestar import Request, get
from litestar.exceptions import HTTPException
from litestar.response import Stream

from bdlab.errors import BdlabError
from bdlab.signals import ENDLESS

MAX_VIEWERS = 500
_KEPT_EVENTS, _KEPT_BYTES = 256, 4 << 20  # for who comes back after a while
_BEHIND = 32  # events that a viewer may be behind
_CHECK_S, _BEAT_S = 3.0, 15.0  # between two looks at a viewer's key, and two signs of life
Render = Callable[..., str]
Pieces = Callable[[Render], Awaitable[Mapping[str, str]]]


class Channel:
    """Events for any number of viewers, up to MAX_VIEWERS. A page whose pieces change makes one of its `pieces`, which
    is asked every `every_s` seconds while somebody looks, and gives it to `events`:

        async def pieces(render: Render) -> dict[str, str]:
            answer = await parts.shared.get("lag", ask, keep_s=2.0)
            return {"lag": render("parts/lag.html", lag=answer)}

        return [page_of_it, events("/pipeline/events", Channel(pieces, every_s=3.0))]

        <section hx-ext="sse" sse-connect="/pipeline/events"><div sse-swap="lag">{% include "parts/lag.html" %}</div>

    A piece is sent if it is another one than before; who comes gets the newest of each. `render(template, **context)`
    knows nobody who asks: a piece has no form with a CSRF token. Where each event counts, as rows of a feed, there are
    no pieces: `publish` sends each, and who comes back (Last-Event-ID, or `?after=`) gets what came meanwhile, or
    what `missed(how many)` says (event, HTML). Who does not read fast enough gets a last event `dropped`; whose key was
    revoked, `refused`; the browser connects again by itself."""

    def __init__(
        self,
        pieces: Pieces | None = None,
        *,
        every_s: float = 3.0,
        missed: Callable[[int], tuple[str, str]] | None = None,
        last: int | None = None,
    ) -> None:
        """`last` is the id that the next event's follows; by default one that grows from process to process."""
        self.viewers = 0
        self.last = time.time_ns() // 1_000_000 if last is None else last
        self._pieces, self._every_s, self._missed = pieces, every_s, missed
        self._newest: dict[str, str] = {}
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_after, self._size, self._count = self.last, 0, 0
        self._news: asyncio.Future[None] | None = None
        self._renewing: asyncio.Task[None] | None = None

    def publish(self, name: str, html: str, *, last: int | None = None) -> None:
        """Send an event. Its id is `last`, which never falls, or one more than the id before: the ids' difference is
        what somebody missed."""
        self.last = self.last + 1 if last is None else last
        data = _frame(name, html, self.last)
        self._kept.append((self.last, data))
        self._size, self._count = self._size + len(data), self._count + 1
        while len(self._kept) > _KEPT_EVENTS or (self._size > _KEPT_BYTES and len(self._kept) > 1):
            self._kept_after, gone = self._kept.popleft()
            self._size -= len(gone)
        if self._news is not None:
            self._news.set_result(None)
            self._news = None

    async def events(self, request: Request[Any, Any, Any]) -> Stream:
        """Return the answer that goes on until the viewer, or the process, ends. Raises HTTPException 503."""
        if self.viewers >= MAX_VIEWERS:
            raise full()
        after = str(request.headers.get("last-event-id") or request.query_params.get("after", ""))
        seen = int(after) if after.isdecimal() and len(after) < 20 else None
        request.scope[ENDLESS] = True  # type: ignore[literal-required]
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return Stream(self._stream(request, seen), media_type="text/event-stream", headers=headers)

    async def _stream(self, request: Request[Any, Any, Any], after: int | None) -> AsyncIterator[bytes]:
        self.viewers += 1
        try:
            if self._pieces is not None and (self._renewing is None or self._renewing.done()):
                render = request.app.template_engine.engine.get_template  # type: ignore[union-attr]
                self._renewing = asyncio.create_task(
                    self._renew(self._pieces, lambda name, **more: render(name).render(**more))
                )
            count, told_at = self._count, time.monotonic()
            checked_at = told_at
            yield b"retry: 1000\n\n" + self._since(after)
            while True:
                if count == self._count:
                    self._news = self._news or asyncio.get_running_loop().create_future()
                    await asyncio.wait([self._news], timeout=_CHECK_S)
                now = time.monotonic()
                if now - checked_at >= _CHECK_S:
                    checked_at = now
                    if not await request.app.state.access.still(request):
                        yield b"event: refused\ndata:\n\n"
                        return
                    if self._renewing is not None and self._renewing.done():
                        self._renewing.result()  # raises what it failed with
                        return
                behind, count = self._count - count, self._count
                if behind > min(_BEHIND, len(self._kept)):
                    yield b"event: dropped\ndata: %d\n\n" % behind
                    return
                if behind or now - told_at >= _BEAT_S:
                    told_at = now
                    yield b"".join(self._kept[n][1] for n in range(-behind, 0)) or b":\n\n"
        finally:
            self.viewers -= 1

    def _since(self, after: int | None) -> bytes:
        """Return what somebody gets first who has seen `after`."""
        if self._pieces is not None:
            newest = [_frame(name, html, self.last) for name, html in self._newest.items()]
            return b"".join(newest if after != self.last else [])
        if after is None or after >= self.last:
            return b""
        told = b""
        if after < self._kept_after and self._missed is not None:
            told = _frame(*self._missed(self._kept_after - after), self._kept_after)
        return told + b"".join(data for last, data in self._kept if last > after)

    async def _renew(self, pieces: Pieces, render: Render) -> None:
        self._newest.clear()
        while self.viewers:
            try:
                found = await pieces(render)
            except BdlabError:
                found = {}  # what is away is said on every page
            for name, html in found.items():
                if self._newest.get(name) != html:
                    self._newest[name] = html
                    self.publish(name, html)
            await asyncio.sleep(self._every_s)


def events(path: str, channel: Channel) -> Any:
    """Return the route that gives a channel's events."""

    @get(path, include_in_schema=False)
    async def stream(request: Request[Any, Any, Any]) -> Stream:
        return await channel.events(request)

    return stream


def full() -> HTTPException:
    """Return what one viewer too many is told."""
    why = f"{MAX_VIEWERS} viewers get this page's news already, which is the most; reload the page to see it anew."
    return HTTPException(why, status_code=503, headers={"Retry-After": "10"})


def _frame(name: str, html: str, last: int) -> bytes:
    lines = html.replace("\r", "").replace("\n", "\ndata: ")
    return f"event: {name}\nid: {last}\ndata: {lines}\n\n".encode()
