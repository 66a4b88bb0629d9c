"""Measure `bdlab console`: its first page, the processor time a viewer takes, and its memory while a feed goes on.

    python -m benchmarks.console [--viewers 1,50,200] [--rate 100] [--minutes 0]

On a memory-only stack with a steady load of `--rate` predictions a second, each number of viewers has the page Live
open (its stream and that of the servers' states) for a while; with `--minutes` the most of them go on for so long.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import selectors
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import common
from benchmarks.common import BDLAB, REVIEW, CannotRun, Daemon, Stack

PATHS = "/live/events", "/state/events"
BATCH = 20


class Viewers:
    """Streams that are read by one thread, which counts their bytes."""

    def __init__(self, url: str, count: int) -> None:
        self.bytes = self.ended = 0
        self._place, self._selector, self._over = urlsplit(url), selectors.DefaultSelector(), threading.Event()
        self._paths = PATHS * count
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Viewers:
        place = self._place
        for path in self._paths:
            stream = socket.create_connection((place.hostname or "", place.port or 80))
            stream.sendall(f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode())
            self._selector.register(stream, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]

    def _read(self) -> None:
        while not self._over.is_set():
            for key, _ in self._selector.select(0.2):
                data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                self.bytes += len(data)
                if not data:
                    self.ended += 1
                    self._selector.unregister(key.fileobj)


@contextlib.contextmanager
def load(url: str, rate: int) -> Iterator[None]:
    """Have about `rate` new predictions a second made in batches."""
    over, place = threading.Event(), urlsplit(url)

    def post() -> None:
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        number, due = 0, time.monotonic()
        while not over.is_set():
            body = json.dumps([{"text": f"{REVIEW} {number + each}"} for each in range(BATCH)])
            number, due = number + BATCH, due + BATCH / rate
            connection.request("POST", "/predict/batch", body, {"Content-Type": "application/json"})
            connection.getresponse().read()
            over.wait(max(0.0, due - time.monotonic()))

    thread = threading.Thread(target=post, daemon=True)
    thread.start()
    yield
    over.set()
    thread.join(60)


def page(url: str, path: str) -> tuple[float, int]:
    """Return how many ms a page takes over a new connection, and its bytes."""
    place, began = urlsplit(url), time.perf_counter()
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    size = len(answer.read())
    connection.close()
    if answer.status != 200:
        raise CannotRun(f"{path} answers {answer.status}")
    return (time.perf_counter() - began) * 1000, size


def rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def measure(url: str, pid: int, count: int, seconds: float) -> list[str]:
    with Viewers(url, count) as viewers:
        time.sleep(3)
        cpu, got, began = common.cpu_s(pid), viewers.bytes, time.monotonic()
        time.sleep(seconds)
        lasted = time.monotonic() - began
        share = 1000 * (common.cpu_s(pid) - cpu) / lasted
        if viewers.ended:
            raise CannotRun(f"{viewers.ended} streams of {count} viewers ended")
        speed = (viewers.bytes - got) / lasted / count
    return [f"{count}", f"{share:.0f}", f"{share / count:.2f}", f"{speed / 1024:.1f}", f"{rss_mb(pid):.0f}"]


def main() -> None:
    parser = common.options(__doc__)
    parser.add_argument("--viewers", default="1,50,200", metavar="N,...")
    parser.add_argument("--rate", type=int, default=100, metavar="N", help="predictions a second")
    parser.add_argument("--minutes", type=float, default=0.0, metavar="N", help="how long the most viewers go on")
    given = parser.parse_args()
    counts = [int(count) for count in given.viewers.split(",")]
    print(f"{common.machine()}\n")
    with tempfile.TemporaryDirectory(prefix="bdlab-bench-") as name, contextlib.ExitStack() as opened:
        folder, port = Path(name), common.free_port()
        stack = opened.enter_context(Stack("stack", folder, broker="tansu"))
        url = f"http://127.0.0.1:{port}"
        env = stack.exports | {"BDLAB_CONSOLE_API_URL": stack.url}
        console = Daemon("console", [*BDLAB, "console", "--port", str(port)], folder / "console.log", env=env)
        opened.enter_context(console)
        console.wait_until(lambda: common.answers(f"{url}/health/live"))
        first, size = page(url, "/live")
        opened.enter_context(load(stack.url, given.rate))
        again = statistics.median(page(url, "/live")[0] for _ in range(20))
        print(f"the page /live: first {first:.0f} ms, {size:,} bytes; then {again:.0f} ms (median of 20)\n")
        rows = [measure(url, console.pid, count, 10 if given.quick else 30) for count in counts]
        common.table(["viewers", "CPU ms a second", "a viewer", "kB/s a viewer", "RSS MB"], rows)
        if given.minutes:
            with Viewers(url, max(counts)) as viewers:
                time.sleep(30)
                sizes = [rss_mb(console.pid)]
                until = time.monotonic() + 60 * given.minutes
                while time.monotonic() < until:
                    time.sleep(min(60.0, until - time.monotonic()))
                    sizes.append(rss_mb(console.pid))
                    common.say(f"{sizes[-1]:.1f} MB")
                ended = viewers.ended
            told = f"{sizes[0]:.1f} MB at the start, {max(sizes):.1f} at most, {sizes[-1]:.1f} at the end"
            print(f"\n{max(counts)} viewers for {given.minutes:g} min: {told}; {ended} streams ended")


if __name__ == "__main__":
    common.run(main)
