"""Bare ASGI under uvicorn: produce with bdlab's settings, and respond once the broker has acknowledged.

No validation, no model, no error path, no log: what produce and acknowledgement cost by themselves.

Run: python -m benchmarks.peers.bare PORT BOOTSTRAP_SERVERS LINGER_MS
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from confluent_kafka import KafkaError, Message, Producer

POLL_S = 0.001


class Acknowledged:
    """Polls every millisecond while something is in flight."""

    def __init__(self, bootstrap_servers: str, linger_ms: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._in_flight = 0
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": linger_ms,
            }
        )

    def produce(self, value: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()

        def report(error: KafkaError | None, message: Message) -> None:  # noqa: ARG001
            self._in_flight -= 1
            if not future.done():
                future.set_result(None) if error is None else future.set_exception(RuntimeError(error.str()))

        self._producer.produce("predictions", value, on_delivery=report)
        self._in_flight += 1
        if self._in_flight == 1:
            self._loop.call_later(POLL_S, self._poll)
        return future

    def _poll(self) -> None:
        self._producer.poll(0)
        if self._in_flight:
            self._loop.call_later(POLL_S, self._poll)


acknowledged: list[Acknowledged] = []
HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"400")],
}
BODY = {"type": "http.response.body", "body": b"{}".ljust(400)}


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] == "http":
        if not acknowledged:
            acknowledged.append(Acknowledged(sys.argv[2], sys.argv[3]))
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await acknowledged[0].produce(body.ljust(600))
        await send(HEAD)
        await send(BODY)


uvicorn.run(app, port=int(sys.argv[1]), access_log=False, lifespan="off")
