"""uvicorn's HTTP/1.1, with bounds on what one client, and all of them together, make a process hold. uvicorn bounds
neither the size of a request's head nor the time that it takes. It accepts connections until the process has no files
left, and keeps an answer that a client does not read for ever."""

import asyncio
import resource
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import urlsplit

import httptools
import msgspec
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bdlab.errors import BdlabError, InvalidInput
from bdlab.signals import ENDLESS

MAX_HEAD_BYTES = 32 << 10  # of a request's head, and of chunk headers and trailers of its body
HEAD_S = 10.0  # how long a client may take for a request's head, and for a TLS handshake
MAX_PIPELINED = 8  # requests of one connection that may wait for an earlier answer
FREE_BYTES = 16 << 10  # a request of up to this size is accepted, however much the others hold
REQUEST_BYTES = 32 << 20  # what all larger requests together may hold until their answers are complete
DRAIN_S, DRAIN_BYTES = 10.0, 64 << 20  # how long, and how much, a client may go on sending a body that was answered
STALLED_S = 30.0  # how long a client may leave its answer unread
LAST_S = 3.0  # how long a client may go on sending its request, or leave its answer unread, once the server stops
MAX_CONNECTIONS = 2048
_RESERVED_FILES = 128  # kept for the process itself: for Vault, the broker, PostgreSQL, and its logs
log = structlog.get_logger()


class Waiting(Protocol):
    """A connection that waits for its client."""

    def make_room(self) -> None:
        """End at once, to make room for another connection."""


class Bounds:
    """What the connections of this process hold together; used on its event loop only. `waiting` has the connections
    that wait for their client, not for an answer, the longest wait first."""

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self._told_at = float("-inf")
        self.held = 0
        self.waiting: dict[Waiting, None] = {}

    def admit(self, connections: int) -> bool:
        """Return whether a new one of `connections` may stay; one that only waits may make room for it."""
        if connections <= self._max_connections:
            return True
        if time.monotonic() - self._told_at > 60:
            self._told_at = time.monotonic()
            what = "too many connections: the one that waits longest for its client is closed for a new one"
            log.warning(what, connections=self._max_connections, setting="http.max_connections")
        for longest in self.waiting:
            del self.waiting[longest]
            longest.make_room()
            return True
        return False


def max_connections(wanted: int) -> int:
    """Return how many connections a process may have: `wanted`, or as many as its files allow if that is 0. Sets the
    limit of open files as high as it may be. Raises InvalidInput and BdlabError if it is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = (1 << 20 if hard == resource.RLIM_INFINITY else hard) - _RESERVED_FILES
    hint = "Raise it (`ulimit -n`, systemd's LimitNOFILE, Docker's --ulimit nofile)"
    if room < 1:
        why = f"this process may open {hard} files: {_RESERVED_FILES} are kept for itself, none is left for connections"
        raise BdlabError(why, hint=f"{hint}.")
    if wanted > room:
        allowed = f"{hard}, of which {_RESERVED_FILES} are kept for the process itself"
        why = f"http.max_connections {wanted} is more than the limit of open files allows: {allowed}"
        raise InvalidInput(why, hint=f"{hint}, or set http.max_connections to at most {room}.")
    return wanted or min(room, MAX_CONNECTIONS)


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Bytes are counted until the parser reports a head, a piece of a body, or an end."""

    def __init__(self, config: Any, **state: Any) -> None:
        super().__init__(config, **state)
        self._bounds: Bounds = config.bounds
        self._stop_s = config.timeout_graceful_shutdown or 0
        self._unparsed = self._left_over = self._held = self._counted = 0
        self._in_head = self._in_body = self._refused = self._head_written = False
        self._head = b""
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=16 << 10)
        # A request's cycle gets this protocol as its transport (see close()), and calls these.
        self.is_closing = transport.is_closing
        self._until(HEAD_S, self._late)
        if self._bounds.admit(len(self.connections)):
            self._bounds.waiting[self] = None
        else:
            self._refuse_busy("Too many connections are open")

    def connection_lost(self, exc: Exception | None) -> None:
        self._until(0, None)
        self._until(0, None, "stalled")
        self._release()
        self._bounds.waiting.pop(self, None)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        if self._refused or self.transport.is_closing():
            self.transport.close()
            return
        if self._answering() and ENDLESS in self.cycle.scope:
            self.transport.close()
            self._until(0.5, self.transport.abort)  # of who does not read
            return
        # Before uvicorn cancels it, which would log a traceback.
        self.loop.call_later(max(self._stop_s - 0.5, 0.0), self.transport.abort)
        if self.flow.write_paused:
            self._until(LAST_S, self.transport.abort)
        elif self._in_body and not self.cycle.response_complete:
            self._until(LAST_S, self._stop_reading)

    def make_room(self) -> None:
        self.connections.discard(self)
        if self.flow.write_paused:
            self.transport.abort()
            return
        if not self._refused and (self.cycle is None or self._in_body):
            self._refuse_busy("Too many connections are open")
            self._bounds.waiting.pop(self, None)
        self.transport.close()

    # What comes from the client

    def data_received(self, data: bytes) -> None:
        size = len(data)
        self._held += size
        if self._refused:
            if self._held > DRAIN_BYTES:
                self.transport.abort()
            return
        self._unset_keepalive_if_required()
        if self._held > FREE_BYTES and not self._hold():
            return
        self._unparsed += size
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            if not self._refused:
                self.logger.warning("Invalid HTTP request received.")
                self._refuse(400, "invalid-http", "The request is no valid HTTP", "")
            return
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        if self._unparsed > MAX_HEAD_BYTES:
            self._refuse_head()
        elif self._in_head or (self._unparsed and not self._in_body):
            # The parser does not say where one request ended and the next began within this read.
            self._left_over = 0 if self._unparsed else size
            if "deadline" not in self._timers:
                self._until(HEAD_S, self._late)

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._unparsed + self._left_over > MAX_HEAD_BYTES:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > MAX_HEAD_BYTES:
                self._refuse_head()
                raise ValueError("the head is too large")
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(503, "busy", "Too many requests at once", "")
            raise ValueError("too many requests are pipelined")
        self._unparsed = self._left_over = 0
        self._in_head = False
        self._until(0, None)
        if not self.url.startswith(b"/"):
            # If the target is a whole URL, its host counts, not the Host header (RFC 9112, 3.2.2).
            meant = urlsplit(self.url).netloc
            self.headers[:] = [(name, meant if name == b"host" else value) for name, value in self.headers]
        super().on_headers_complete()
        self._in_body = True
        self.cycle.transport = self  # type: ignore[assignment] # it has what the cycle calls

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        if self.scope["method"] == "POST":  # no other route reads its body
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        self._in_body = False
        super().on_message_complete()
        if self.cycle.response_complete:  # this was the rest of a body that was answered already
            self._until(0, None)
            self._rest()
            idle_s = self.timeout_keep_alive
            self.timeout_keep_alive_task = self.loop.call_later(idle_s, self.timeout_keep_alive_handler)
        else:
            self._bounds.waiting.pop(self, None)

    def _hold(self) -> bool:
        """Return whether there is room for what this connection holds; if not, refuse it."""
        if self._in_body and self.cycle.response_complete:
            if too_much := self._held > DRAIN_BYTES:
                self.transport.abort()
            return not too_much
        more = self._held - self._counted
        if self._bounds.held + more > REQUEST_BYTES:
            self._refuse_busy("The requests in progress are too large together")
            return False
        self._bounds.held += more
        self._counted = self._held
        return True

    def _release(self) -> None:
        self._bounds.held -= self._counted
        self._held = self._counted = 0

    # What goes to the client

    def write(self, data: bytes) -> None:
        """Write after what is held back: a head, which goes out with the first part of its body. The client would else
        be woken twice, which takes longer than all else that this server does."""
        if not self._head_written and not data.startswith(b"HTTP/1.1 100"):
            self._head_written, self._head = True, data
        else:
            self._write_head(data)

    def _write_head(self, data: bytes = b"") -> None:
        head, self._head = self._head, b""
        if head or data:
            self.transport.write(head + data)

    def close(self) -> None:
        """Close after the connection's last answer, which is when a request's cycle calls this. If the client still
        sends, the connection stays open for a while: a reset would destroy the answer that it has not read yet."""
        self._write_head()
        if self._in_body or self._refused:
            self._linger()
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        self._write_head()  # of an answer without a body
        self._head_written = False
        super().on_response_complete()
        if not self.cycle.response_complete or self._refused:
            return
        self._rest()
        if self._in_body:
            self._until(DRAIN_S, self.transport.abort)

    def _rest(self) -> None:
        """Wait for the client: everything is answered, or refused."""
        self._release()
        self._bounds.waiting[self] = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._bounds.waiting[self] = None
        self._until(STALLED_S, self.transport.abort, "stalled")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._until(0, None, "stalled")
        if self._answering() and not self._in_body:
            self._bounds.waiting.pop(self, None)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # Refusing

    def _late(self) -> None:
        if self._answering():  # reading may have been paused meanwhile
            self._until(HEAD_S, self._late)
        elif self._in_head or self._unparsed:
            why = f"The head was not complete after {HEAD_S:g} s."
            self._refuse(408, "too-slow", "The request came too slowly", why)
        else:
            self.transport.close()

    def _stop_reading(self) -> None:
        self._refuse(503, "ending", "The server is stopping", "Ask again: another server may answer.")
        self._until(LAST_S, self.transport.abort)

    def _refuse_busy(self, title: str) -> None:
        self._refuse(503, "busy", title, "Try again a little later.")

    def _refuse_head(self) -> None:
        why = f"The head, or what is sent with the body, may have at most {MAX_HEAD_BYTES} bytes."
        self._refuse(431, "head-too-large", "The request's head is too large", why)

    def _refuse(self, status: int, kind: str, title: str, detail: str) -> None:
        """Answer the request that is being received, and accept no more on this connection."""
        self._unset_keepalive_if_required()
        cycle = self.cycle
        if self._in_body and (self.pipeline or cycle.response_started):
            self.transport.abort()
            return
        if self._in_body:
            cycle.disconnected = True
            cycle.message_event.set()
        elif self._answering():  # send its answer, and those before it, first
            self._refused = True
            cycle.keep_alive = False
            return
        self.transport.write(_answer(status, kind, title, detail))
        self._linger()

    def _linger(self) -> None:
        """Read what the client still sends for a bounded time, so that it can read its answer."""
        self._refused = True
        self._rest()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._until(DRAIN_S, self.transport.abort)

    def _until(self, seconds: float, then: Callable[[], None] | None, timer: str = "deadline") -> None:
        if timer in self._timers:
            self._timers.pop(timer).cancel()
        if then:
            self._timers[timer] = self.loop.call_later(seconds, then)


def _answer(status: int, kind: str, title: str, detail: str) -> bytes:
    problem = {"type": f"urn:bdlab:problem:{kind}", "title": title, "status": status}
    body = msgspec.json.encode(problem | ({"detail": detail} if detail else {})) + b"\n"
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "content-type: application/problem+json"]
    lines += [f"content-length: {len(body)}", "connection: close", *(["retry-after: 2"] if status == 503 else [])]
    return "\r\n".join([*lines, "", ""]).encode() + body
