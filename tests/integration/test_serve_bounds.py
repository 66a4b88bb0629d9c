"""Hostile clients of a real `bdlab serve`: meanwhile it answers others, and stays small."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from tests import tls
from tests.fix_pipeline import Daemon, Pipeline
from tests.waiting import until

pytestmark = pytest.mark.once

#: Far above what it takes on a machine that is busy with other things, far below what each of these did once.
ANSWERED_WITHIN_S = 8.0
MEMORY_MIB = 200
FILES = 1024
WITH_FEW_FILES = ("sh", "-c", f'ulimit -n {FILES}; exec "$0" "$@"')
GET = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def memory_mib(daemon: Daemon) -> float:
    """The most that the process has had in memory."""
    lines = Path(f"/proc/{daemon.process.pid}/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


@contextmanager
def others_are_answered(daemon: Daemon, url: str) -> Iterator[None]:
    """Ask for /health/live on new connections meanwhile; each has its 200 soon, and memory stays small."""
    stop = threading.Event()
    answers: list[tuple[int, float]] = []

    def ask() -> None:
        while not stop.is_set():
            began = time.monotonic()
            with httpx.Client(base_url=url, timeout=60, trust_env=False, verify=tls.VERIFY) as client:
                answers.append((client.get("/health/live").status_code, time.monotonic() - began))
            stop.wait(0.1)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        until(lambda: len(answers) > 1)
        try:
            yield
            told = len(answers)
            until(lambda: len(answers) > told + 1)
        finally:
            stop.set()
        asking.result()
    assert {status for status, _ in answers} == {200}
    assert max(took for _, took in answers) < ANSWERED_WITHIN_S
    assert memory_mib(daemon) < MEMORY_MIB


class Wire:
    """Connections to the API below any HTTP client; with TLS where the suite has it."""

    def __init__(self, client: httpx.Client) -> None:
        self._url = client.base_url
        self._open = ExitStack()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def raw(self) -> socket.socket:
        """A connection on which nothing was said."""
        made = socket.socket()
        self._open.enter_context(made)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.settimeout(60)
        made.connect((self._url.host, self._url.port))
        return made

    def spoken(self) -> socket.socket:
        made = self.raw()
        if self._url.scheme != "https":
            return made
        assert not isinstance(tls.VERIFY, bool)
        return self._open.enter_context(tls.VERIFY.wrap_socket(made, server_hostname=self._url.host))


def everything(made: socket.socket) -> bytes:
    """What comes until the connection ends."""
    found = b""
    try:
        while part := made.recv(65536):
            found += part
    except ConnectionError:
        pass
    return found


def test_headers_without_an_end(pipeline: Pipeline) -> None:
    with pipeline.serve() as (daemon, client), Wire(client) as wire, others_are_answered(daemon, str(client.base_url)):
        made = wire.spoken()
        made.sendall((GET % b"/")[:-2])
        sent = 0
        try:
            while sent < 300 << 20:
                made.sendall(b"X-A: " + b"b" * 60_000 + b"\r\n")
                sent += 60_000
        except OSError:
            pass
        assert sent < 200 << 20, "nobody ended it"
        assert b"HTTP/1.1 431 " in everything(made)


def test_more_idle_and_half_sent_requests_than_files(pipeline: Pipeline) -> None:
    """None is open for ever, and files are left for the process itself."""
    with pipeline.serve(within=WITH_FEW_FILES) as (daemon, client), Wire(client) as wire:
        with others_are_answered(daemon, str(client.base_url)):
            idle = [wire.raw() for _ in range(1_100)]
            for half in idle[::2]:
                half.sendall((GET % b"/")[:-2])
            assert client.get("/vault-status").json()["authenticated"]
            assert client.post("/predict", json={"text": "good"}).status_code == 200
            ends = Counter(everything(made)[:12] for made in idle)
        if client.base_url.scheme == "http":
            assert ends.keys() == {b"", b"HTTP/1.1 408", b"HTTP/1.1 503"}
        daemon.wait_for("too many connections")
        # No renewal of a token or a lease that was due meanwhile failed for want of a file.
        assert not daemon.events("credentials cannot be renewed from Vault; the present ones stay in use")
        assert daemon.stop() == 0


def test_answers_that_are_not_read(pipeline: Pipeline) -> None:
    text = "terrible and good " * 50_000
    with pipeline.serve() as (daemon, client), pipeline.daemon("consume"), Wire(client) as wire:
        found = [client.post("/predict", json={"text": text}).json()["id"] for _ in range(5)]
        until(lambda: all(client.get(f"/predictions/{each}").status_code == 200 for each in found))
        with others_are_answered(daemon, str(client.base_url)):
            unread = [wire.spoken() for _ in range(40)]
            for each in unread:
                each.sendall(GET % b"/predictions?limit=1000")
            heads = Counter(each.recv(12)[9:] for each in unread)
        assert heads.keys() == {b"200", b"503"}
        assert daemon.stop() == 0, "clients that do not read do not hold up its end"
        assert not any("Traceback" in line for line in daemon.lines)


def test_batches_of_misspelt_names(pipeline: Pipeline) -> None:
    body = msgspec.json.encode(
        [
            {"text": "a", "sumary": "", **{f"helpfulnessnumerato_{index}_{name}": 1 for name in range(19)}}
            for index in range(1000)
        ]
    )
    assert 500_000 < len(body) < 1 << 20
    with pipeline.serve() as (daemon, client):
        url = str(client.base_url)

        def send() -> int:
            with httpx.Client(base_url=url, timeout=60, trust_env=False, verify=tls.VERIFY) as own:
                return own.post("/predict/batch", content=body, headers=JSON).status_code

        with others_are_answered(daemon, url), ThreadPoolExecutor(6) as pool:
            began = time.monotonic()
            assert {each.result() for each in [pool.submit(send) for _ in range(6)]} == {422}
            assert time.monotonic() - began < 2 * ANSWERED_WITHIN_S


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_client_stalled_in_its_body_does_not_hold_up_the_end(pipeline: Pipeline, workers: str) -> None:
    with pipeline.serve("--workers", workers) as (daemon, client), Wire(client) as wire:
        made = wire.spoken()
        made.sendall(
            b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nContent-Length: 100\r\n\r\n"
        )
        assert made.recv(65536).startswith(b"HTTP/1.1 100 "), "its request is inside now"
        daemon.process.send_signal(signal.SIGTERM)
        assert everything(made)[9:12] in (b"408", b"503")
        assert daemon.ended(within_s=15) == 0
        assert not any("Traceback" in line for line in daemon.lines)
