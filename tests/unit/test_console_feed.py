"""Server-sent events of the console over real sockets: who is slow, who comes back, and how a server ends them."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import uvicorn
from litestar import Litestar
from litestar.datastructures import State
from litestar.plugins.jinja import JinjaTemplateEngine
from litestar.template.config import TemplateConfig

from bdlab_cli.wiring.uvicorn_server import Config
from bdlab_console import feed
from bdlab_console.feed import Channel, Render, events
from tests.waiting import until


class Everybody:
    async def still(self, _request: Any) -> bool:
        return True


class Serving:
    """A server with a channel at /log, whose events are published by the tests, and one at /pieces."""

    def __init__(self) -> None:
        self.made, self.stack = 0, ExitStack()
        self.log = Channel(missed=lambda count: ("missed", str(count)))
        self.pieces = Channel(self._make, every_s=0.05)
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 << 10)  # as bdlab's own
        listener.bind(("127.0.0.1", 0))
        self.address = listener.getsockname()
        templates: Any = TemplateConfig(directory=".", engine=JinjaTemplateEngine)
        app = Litestar(
            [events("/log", self.log), events("/pieces", self.pieces)],
            state=State({"access": Everybody()}),
            template_config=templates,
            openapi_config=None,
        )
        config = Config(app, timeout_graceful_shutdown=20, log_level="warning", lifespan="on")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=asyncio.run, args=[self._serve(listener)])
        self.thread.start()
        until(lambda: self.server.started)

    async def _serve(self, listener: socket.socket) -> None:
        self.loop = asyncio.get_running_loop()
        await self.server._serve([listener])

    async def _make(self, _render: Render) -> dict[str, str]:
        self.made += 1
        return {"always": "the same", "new": f"number\n{self.made}"}

    def publish(self, *texts: str) -> None:
        def each() -> None:
            for text in texts:
                self.log.publish("row", text)

        self.loop.call_soon_threadsafe(each)

    def viewer(self, path: str, **headers: str) -> socket.socket:
        viewer = self.stack.enter_context(socket.socket())
        viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        viewer.settimeout(10)
        viewer.connect(self.address)
        lines = [
            f"GET {path} HTTP/1.1",
            "Host: x",
            "Connection: close",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        viewer.sendall("\r\n".join([*lines, "", ""]).encode())
        return viewer

    def stop(self) -> float:
        began = time.monotonic()
        self.server.should_exit = True
        self.thread.join(30)
        return time.monotonic() - began


@pytest.fixture
def serving() -> Iterator[Serving]:
    running = Serving()
    with running.stack:
        yield running
        running.stop()


def read(viewer: socket.socket, until_it_has: bytes = b"") -> bytes:
    """What comes until it has this, or the stream ends."""
    found = b""
    while not until_it_has or until_it_has not in found:
        if not (data := viewer.recv(1 << 16)):
            break
        found += data
    return found


def test_a_slow_viewer_is_dropped_and_told_and_the_others_get_everything(serving: Serving) -> None:
    slow, good = serving.viewer("/log"), serving.viewer("/log")
    assert b"retry" in read(slow, b"retry")
    got = read(good, b"retry")
    last = serving.log.last
    for number in range(60):
        serving.publish(f"<{number}>" + "x" * 50_000)
        got += read(good, b"\n\n")
    until(lambda: serving.log.viewers == 2 and serving.log.last == last + 60)
    told = read(slow)  # it reads at last
    assert b"event: dropped" in told
    got += b"" if b"<59>" in got else read(good, b"<59>")
    assert all(b"<%d>" % number in got for number in range(60))
    # It comes back, with the id of the last event that it has.
    seen = int(told.rsplit(b"\nid: ", 1)[1].split(b"\n")[0])
    again = read(serving.viewer("/log", **{"Last-Event-ID": str(seen)}), b"<59>")
    assert again.count(b"event: row") + (b"event: missed" in again) >= min(60, last + 60 - seen)


def test_who_comes_back_gets_what_came_or_is_told_how_many_did(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_KEPT_EVENTS", 5)
    began = serving.log.last
    serving.publish(*(f"<{number}>" for number in range(12)))
    until(lambda: serving.log.last == began + 12)
    assert read(serving.viewer(f"/log?after={began + 9}"), b"<11>").count(b"event: row") == 3
    late = read(serving.viewer("/log", **{"Last-Event-ID": str(began + 2)}), b"<11>")
    assert b"event: missed\nid: %d\ndata: 5\n" % (began + 7) in late
    assert late.count(b"event: row") == 5


def test_pieces_are_made_while_somebody_looks_and_sent_if_they_are_others(serving: Serving) -> None:
    viewers = [serving.viewer("/pieces") for _ in range(3)]
    got = [read(viewer, b"data: 4\n") for viewer in viewers]
    assert all(each.count(b"data: the same") == 1 and b"data: number\ndata: 4\n" in each for each in got)
    assert serving.made < 10
    for viewer in viewers:
        viewer.close()
    until(lambda: serving.pieces.viewers == 0)
    time.sleep(0.2)
    made = serving.made
    time.sleep(0.3)
    assert serving.made == made


def test_too_many_are_refused(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_VIEWERS", 1)
    read(serving.viewer("/log"), b"retry")
    assert read(serving.viewer("/log")).startswith(b"HTTP/1.1 503")


def test_a_server_that_stops_ends_its_streams_also_of_who_does_not_read(serving: Serving) -> None:
    viewers = [serving.viewer("/log") for _ in range(50)]
    assert all(b"retry" in read(viewer, b"retry") for viewer in viewers)
    serving.publish(*["x" * 500_000] * 4)
    time.sleep(0.3)
    assert serving.stop() < 2
