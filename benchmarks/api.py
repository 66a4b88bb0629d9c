"""Measure acknowledged predictions a second over HTTP, relative to an echo endpoint in the same run.

    python benchmarks/api.py [SECONDS]

One process serves (Litestar and uvicorn, as in `bdlab serve`, with a log file), one is the broker, and this
one makes the load: connections that send the next request after each response. The broker has acknowledged
every 200. The echo endpoint decodes the same body and responds with a body of the same size on the same
server, and so shows what the framework itself takes.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import uvicorn
import uvloop
from litestar import Litestar, Response, post
from litestar.types import ASGIApp

from bdlab.credentials import KafkaLogin
from bdlab.events import Review
from bdlab.kafka.admin import Admin
from bdlab.kafka.producer import Producer
from bdlab.model import load_scorer
from bdlab.postgres.reader import Reader
from bdlab.probes import VaultState
from bdlab.reviews import decode
from bdlab.serving import Parts, make_app
from bdlab.serving.publisher import AsyncPublisher
from bdlab.settings import KafkaSettings, LogSettings, Settings
from bdlab.stack import Tansu
from bdlab.static_credentials import StaticCredentials
from bdlab_cli.output import logs

SECONDS = 5.0
ROUNDS = 3
CONNECTIONS = 64

REVIEW = (
    "I have bought several of these and have found them all to be of good quality. The product looks more "
    "like a stew than a processed meat and it smells better."
)
BODY = json.dumps({"text": REVIEW, "summary": "Good quality"}).encode()


# The servers.


class _NoVault:
    def state(self) -> VaultState:
        return VaultState(connected=False)


def predicting(bootstrap_servers: str) -> ASGIApp:
    """Return bdlab's API over a real broker; called in the event loop."""
    credentials = StaticCredentials(
        kafka=KafkaLogin(server=KafkaSettings(bootstrap_servers=bootstrap_servers))
    )
    producer = Producer(credentials, client_id="benchmark", source="/benchmarks")
    producer.open()
    return make_app(
        Parts(
            settings=Settings(),
            scorer=load_scorer(),
            publisher=AsyncPublisher(producer),
            stored=Reader(credentials),
            vault=_NoVault(),
            broker=Admin(credentials),
        ),
        on_shutdown=producer.close,
    )


@post("/predict", status_code=200)
async def echo(data: Review) -> Response[bytes]:
    return Response(
        json.dumps({"id": "0" * 36, "text": data.text[:180]}).encode(), media_type="application/json"
    )


def serve(what: str, port: int, bootstrap_servers: str) -> None:
    logs.configure(LogSettings(format="json"))
    factory = Litestar([echo], openapi_config=None, logging_config=None)
    config = uvicorn.Config(
        (lambda: predicting(bootstrap_servers)) if what == "predict" else (lambda: factory),
        factory=True,
        port=port,
        access_log=False,
        log_config=None,
    )
    uvicorn.Server(config).run()


# The load.


class Connection(asyncio.Protocol):
    """Sends the same request again after each response until the time is over. Fails on any but a 200."""

    def __init__(self, request: bytes, until: float, latencies: list[float]) -> None:
        self._request = request
        self._until = until
        self._latencies = latencies
        self._received = b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are no subclasses
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 200 "):
            self.done.set_exception(AssertionError(self._received.decode()))
            self._transport.close()
            return
        self._received = b""
        now = time.perf_counter()
        self._latencies.append(now - self._sent)
        if now < self._until:
            self._send()
        else:
            self._transport.close()
            self.done.set_result(None)


async def load(port: int, seconds: float) -> tuple[float, list[float]]:
    """Return the responses a second, and the seconds that each took."""
    lines = (
        "POST /predict HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(BODY)}",
    )
    head = "\r\n".join((*lines, "", ""))
    latencies: list[float] = []
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    until = started + seconds
    connections = []
    for _ in range(CONNECTIONS):
        _, made = await loop.create_connection(
            lambda: Connection(head.encode() + BODY, until, latencies), "127.0.0.1", port
        )
        connections.append(made)
    await asyncio.gather(*(made.done for made in connections))
    return len(latencies) / (time.perf_counter() - started), latencies


async def wait_until_ready(port: int) -> None:
    """Wait until the server responds with 200."""
    deadline = time.monotonic() + 30
    while True:
        try:
            async with asyncio.timeout(30):
                await load(port, 0)
        except (OSError, AssertionError):  # no listener yet, or a 503
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            return


def main(seconds: float) -> None:
    rates: dict[str, list[float]] = {"echo": [], "predict": []}
    latencies: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Tansu(Path(folder)) as broker:
        login = KafkaLogin(server=KafkaSettings(bootstrap_servers=broker.bootstrap_servers))
        with Admin(StaticCredentials(kafka=login)) as admin:
            admin.ensure_topic()
        servers = {}
        for what in rates:
            port = broker.ports.choose(what)
            with (Path(folder) / f"{what}.log").open("wb") as log:
                command = [sys.executable, __file__, what, str(port), broker.bootstrap_servers]
                servers[what] = port, subprocess.Popen(command, stdout=log, stderr=log)
        try:
            for port, _ in servers.values():
                uvloop.run(wait_until_ready(port))
            for _ in range(ROUNDS):
                for what, (port, _) in servers.items():
                    rate, times = uvloop.run(load(port, seconds))
                    rates[what].append(rate)
                    if what == "predict":
                        latencies += times
        finally:
            for _, process in servers.values():
                process.terminate()
                process.wait(30)
    one = load_scorer()
    review = decode(BODY)
    began = time.perf_counter()
    for _ in range(1000):
        one.score(review)
    scoring_us = (time.perf_counter() - began) * 1000
    echoed, predicted = (statistics.median(rates[what]) for what in ("echo", "predict"))
    quantiles = statistics.quantiles(latencies, n=100)
    print(f"{CONNECTIONS} connections, {ROUNDS} rounds of {seconds:g} s, {os.cpu_count()} cores")
    print(f"echo       {echoed:8.0f} requests/s")
    print(f"/predict   {predicted:8.0f} acknowledged predictions/s   ratio {predicted / echoed:.2f}")
    print(f"latency    {quantiles[49] * 1000:8.1f} ms median {quantiles[98] * 1000:8.1f} ms p99")
    print(f"scoring    {scoring_us:8.0f} us of it for this review of {len(REVIEW.split())} words")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        serve(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    else:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
