"""A load generator for a running API: it posts reviews at an even rate and records each response."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing

import msgspec

from bdlab.errors import BdlabError, InvalidInput
from bdlab.reachability import wrong_scheme
from bdlab.settings import http_url

_ANSWER_TIMEOUT_S = 30.0
#: A server closes a connection that was idle for some seconds, perhaps just when it is used again.
_IDLE_S = 1.0
_THREADS = 64
#: Its reviews are nobody's: the rows say so.
_HEADERS = {"Content-Type": "application/json", "Bdlab-Source": "drill"}
_SAMPLE = 300


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """Times are in milliseconds, each from the moment at which the request was due.

    `longest_pause_ms` is the longest time without any acknowledgement; `failures` says what the failed
    requests got, and how often.
    """

    sent: int
    failed: int
    failures: dict[str, int]
    seconds: float
    longest_pause_ms: float
    p50_ms: float
    p99_ms: float


class LoadGenerator:
    """Posts `bodies` in turn to `url`/predict, `requests_per_second` of them, each once.

    Whatever is not answered with 200 has failed. `ca_file` (PEM) is trusted beside the system's authorities.
    Used with `with`, it is stopped at the end.
    """

    def __init__(
        self, url: str, bodies: Sequence[bytes], *, requests_per_second: float, ca_file: str = ""
    ) -> None:
        """Raises InvalidInput for no http(s) URL, and for a rate that is not above 0."""
        parts = http_url(url)
        if requests_per_second <= 0:
            raise InvalidInput(f"a rate of {requests_per_second:g} requests a second is none")
        self._url = url
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._path = f"{parts.path.rstrip('/')}/predict"
        self._context = ssl.create_default_context() if parts.scheme == "https" else None
        if self._context and ca_file:
            try:
                self._context.load_verify_locations(ca_file)
            except OSError as error:
                raise InvalidInput(f"the authorities in {ca_file} cannot be used: {error}") from error
        self._bodies = bodies
        self._interval_s = 1 / requests_per_second
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(_THREADS)]
        self._began = self._last_answer = 0.0
        self._due = 0
        self._latencies_s: list[float] = []
        self._failures: Counter[str] = Counter()
        self._longest_pause_s = 0.0

    def start(self) -> None:
        """Begin, once one request is answered with 200. Raises BdlabError with the reason where it is not."""
        with closing(self._connect()) as connection:
            problem = self._post(connection, self._bodies[0])
        if problem:
            raise BdlabError(
                f"the API at {self._url} does not predict: {wrong_scheme(self._url) or problem}",
                hint="Start it with `bdlab serve` or `bdlab up`, or name its address with --url.",
            )
        self._began = self._last_answer = time.monotonic()
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> LoadGenerator:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def stop(self) -> LoadReport:
        """Let each request that is under way be answered; what became of all."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_ANSWER_TIMEOUT_S + 1)
        ended = time.monotonic()
        with self._lock:
            latencies = sorted(self._latencies_s)
            failed = sum(self._failures.values())
            return LoadReport(
                sent=len(latencies) + failed,
                failed=failed,
                failures=dict(self._failures),
                seconds=ended - self._began,
                longest_pause_ms=1000 * max(self._longest_pause_s, ended - self._last_answer),
                p50_ms=1000 * _quantile(latencies, 0.5),
                p99_ms=1000 * _quantile(latencies, 0.99),
            )

    def _run(self) -> None:
        with closing(self._connect()) as connection:
            self._post_when_due(connection)

    def _post_when_due(self, connection: http.client.HTTPConnection) -> None:
        used_at = 0.0
        while True:
            with self._lock:
                number, self._due = self._due, self._due + 1
            due_at = self._began + number * self._interval_s
            if self._stop.wait(max(0.0, due_at - time.monotonic())):
                return
            if time.monotonic() - used_at > _IDLE_S:
                connection.close()
            problem = self._post(connection, self._bodies[number % len(self._bodies)])
            used_at = time.monotonic()
            self._note(problem, due_at, used_at)

    def _note(self, problem: str, due_at: float, answered_at: float) -> None:
        with self._lock:
            if problem:
                self._failures[problem] += 1
                return
            self._latencies_s.append(answered_at - due_at)
            self._longest_pause_s = max(self._longest_pause_s, answered_at - self._last_answer)
            self._last_answer = max(self._last_answer, answered_at)

    def _connect(self) -> http.client.HTTPConnection:
        """It connects with its first request, and again after it was closed."""
        if self._context:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=_ANSWER_TIMEOUT_S, context=self._context
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=_ANSWER_TIMEOUT_S)

    def _post(self, connection: http.client.HTTPConnection, body: bytes) -> str:
        """Why it failed; empty for a 200."""
        try:
            connection.request("POST", self._path, body, _HEADERS)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return f"{type(error).__name__}: {error}"
        if answer.status == 200:
            return ""
        return f"HTTP {answer.status}: {text[:_SAMPLE].decode('utf-8', 'replace')}"


def _quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0
