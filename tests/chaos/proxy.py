"""A TCP proxy that breaks connections on request: the network between a service and a server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

_CHUNK = 1 << 16

Address = tuple[str, int]


class Link:
    """The connections of one pair of peers through a proxy."""

    def __init__(self, name: str, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self.name = name
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.open: set[asyncio.StreamWriter] = set()
        self._run = run

    def stall(self) -> None:
        """Keep connections open and move no byte, as a dropped route does, until `flow()`."""

        async def change() -> None:
            self.flowing.clear()

        self._run(change())

    def flow(self) -> None:
        async def change() -> None:
            self.flowing.set()

        self._run(change())

    def reset(self) -> None:
        """Cut every open connection with a RST."""

        async def cut() -> None:
            for writer in list(self.open):
                _cut(writer)

        self._run(cut())


def kafka_client_id(first: bytes) -> str:
    """The client id in a connection's first request (Kafka protocol guide, request header v1)."""
    length = int.from_bytes(first[12:14], "big", signed=True)
    return first[14 : 14 + max(0, length)].decode(errors="replace")


def kafka_api_key(request: bytes) -> int:
    """What a request is for (Kafka protocol guide, request header v0)."""
    return int.from_bytes(request[4:6], "big", signed=True)


class Proxy:
    """Forwards `address` to `target`; `port` is known before `start()`, so that a broker can advertise it.

    Where `peer_of` is given it names, from the first bytes that a client sends, the link that the
    connection belongs to; all names it can give are in `links`. What a client sends and `loses` is true of
    never arrives, on a connection that stays open.
    """

    def __init__(
        self,
        *links: str,
        peer_of: Callable[[bytes], str] | None = None,
        loses: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", 0))
        self.address: Address = self._listener.getsockname()
        self.host, self.port = self.address
        self.links = {name: Link(name, self._call) for name in links}
        self._peer_of = peer_of
        self._loses = loses
        self._target: Address = ("127.0.0.1", 0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy {links[0]}", daemon=True)

    def start(self, target: Address) -> Self:
        self._target = target
        self._thread.start()
        self._call(self._serve())
        return self

    def retarget(self, target: Address) -> None:
        """Send new connections to `target`; those that are open stay where they are."""
        self._target = target

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            for link in self.links.values():
                for writer in list(link.open):
                    _cut(writer)
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _serve(self) -> None:
        self._server = await asyncio.start_server(self._connected, sock=self._listener)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _cut(writer)
            return
        first = b""
        name = next(iter(self.links))
        if self._peer_of is not None:
            with contextlib.suppress(OSError):
                first = await reader.read(_CHUNK)
            name = self._peer_of(first)
        link = self.links[name]
        ends = {writer, up_writer}
        link.open |= ends
        try:
            up_writer.write(first)
            with contextlib.suppress(asyncio.CancelledError):  # by `close`: nobody waits for this task
                await asyncio.gather(_pump(reader, up_writer, link, self._loses), _pump(up_reader, writer, link))
        finally:
            link.open -= ends
            for end in ends:
                end.close()


async def _pump(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    link: Link,
    loses: Callable[[bytes], bool] = lambda _: False,
) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(_CHUNK):
            await link.flowing.wait()
            if not loses(data):
                sink.write(data)
                await sink.drain()
    sink.close()


def _cut(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # its peer may have closed it meanwhile
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
