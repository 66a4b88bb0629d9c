"""The load on an API, against a small HTTP server that answers as a test wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bdlab.errors import BdlabError, InvalidInput
from bdlab.load import LoadGenerator
from tests.waiting import until

Answer = Callable[[int], int]
"""The status for the request with this number; it may take its time."""


class Server(ThreadingHTTPServer):
    """After a standstill the load comes with all of its connections at once; by default 5 may wait."""

    daemon_threads = True
    request_queue_size = 128


@pytest.fixture
def serving() -> Iterator[Callable[[Answer], str]]:
    """Serves POST /api/predict, and gives the URL of what it serves."""
    servers: list[Server] = []

    def serve(answer: Answer) -> str:
        lock = threading.Lock()
        count = 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                nonlocal count
                self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Bdlab-Source"] == "drill"
                with lock:
                    count += 1
                    number = count
                status = answer(number) if self.path == "/api/predict" else 404
                body = b"because"
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its base names it so
                pass

        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/api"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_even_load_without_failures(serving: Callable[[Answer], str]) -> None:
    asked: list[int] = []

    def answer(number: int) -> int:
        asked.append(number)
        return 200

    load = LoadGenerator(serving(answer), [b"{}"], requests_per_second=100)
    load.start()
    until(lambda: len(asked) > 100)
    report = load.stop()
    # The first is the one that `start()` sends. None comes before it is due.
    assert report.sent == len(asked) - 1
    assert report.sent <= 100 * report.seconds + 1
    assert (report.failed, report.failures) == (0, {})
    assert 0 < report.p50_ms <= report.p99_ms
    assert 0 < report.longest_pause_ms <= 1000 * report.seconds


def test_each_failure_is_counted_by_its_reason_and_none_is_sent_again(serving: Callable[[Answer], str]) -> None:
    asked: list[int] = []

    def answer(number: int) -> int:
        asked.append(number)
        return 503 if number in {5, 6} else 200

    load = LoadGenerator(serving(answer), [b"{}"], requests_per_second=50)
    load.start()
    until(lambda: len(asked) > 20)
    report = load.stop()
    assert report.failed == 2
    assert report.failures == {"HTTP 503: because": 2}
    assert report.sent == len(asked) - 1


def test_a_standstill_is_the_longest_pause_and_shows_in_the_times(serving: Callable[[Answer], str]) -> None:
    asked: list[int] = []
    go_on = threading.Event()

    def standing_still(number: int) -> int:
        asked.append(number)
        if number > 20:
            go_on.wait(60)
        return 200

    load = LoadGenerator(serving(standing_still), [b"{}"], requests_per_second=50)
    load.start()
    until(lambda: len(asked) > 20)
    time.sleep(0.6)
    go_on.set()
    until(lambda: len(asked) > 120)
    report = load.stop()
    assert report.failed == 0
    assert report.longest_pause_ms > 500
    # The one that came first waited for all of it, and most waited for none.
    assert report.p99_ms > 400
    assert report.p50_ms < report.longest_pause_ms


def test_an_api_that_does_not_predict_is_said_at_once(serving: Callable[[Answer], str]) -> None:
    with pytest.raises(BdlabError, match="does not predict: HTTP 503: because"):
        LoadGenerator(serving(lambda _: 503), [b"{}"], requests_per_second=1).start()
    with pytest.raises(InvalidInput):
        LoadGenerator("nonsense", [b"{}"], requests_per_second=1)
    with pytest.raises(InvalidInput, match=r"no http\(s\) URL: Port out of range"):
        LoadGenerator("http://127.0.0.1:99999", [b"{}"], requests_per_second=1)
    with pytest.raises(InvalidInput, match="no-such-file"):
        LoadGenerator("https://127.0.0.1", [b"{}"], requests_per_second=1, ca_file="no-such-file")
    with pytest.raises(InvalidInput):
        LoadGenerator("http://127.0.0.1", [b"{}"], requests_per_second=0)
