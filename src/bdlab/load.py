"""A load generator for a running API: it posts inputs at an even rate and records each response."""

import ssl
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Self

import httpx
import msgspec

from bdlab.errors import BdlabError, InvalidInput
from bdlab.reachability import wrong_scheme
from bdlab.settings import http_url

_ANSWER_TIMEOUT_S = 30.0
_THREADS = 64


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a load. Times are in milliseconds, each from the moment at which its request was due, and
    `longest_pause_ms` without an acknowledgement; `failures` counts the failed requests by what they got."""

    sent: int
    failed: int
    failures: dict[str, int]
    seconds: float
    longest_pause_ms: float
    p50_ms: float
    p99_ms: float


class LoadGenerator:
    """A context manager that posts `bodies` in turn to `url`/predict, `requests_per_second` of them, each once. Any
    response but a 200 counts as failed. `ca_file` (PEM) is trusted beside the system's authorities, `key` is an API
    key."""

    def __init__(
        self, url: str, bodies: Sequence[bytes], *, requests_per_second: float, ca_file: str = "", key: str = ""
    ) -> None:
        """Raises InvalidInput if `url` is not an http(s) URL, or the rate is not above 0."""
        http_url(url)
        if requests_per_second <= 0:
            raise InvalidInput(f"{requests_per_second:g} requests a second are not above 0")
        context = ssl.create_default_context()
        if ca_file:
            try:
                context.load_verify_locations(ca_file)
            except OSError as error:
                raise InvalidInput(f"the authorities in {ca_file} cannot be used: {error}") from error
        # The source marks the rows of its inputs, which no user wrote.
        headers = {"Content-Type": "application/json", "Bdlab-Source": "drill", **({"X-API-Key": key} if key else {})}
        # Shorter than any server's, which could close an idle connection just when it is used again.
        limits = httpx.Limits(max_connections=_THREADS, keepalive_expiry=1.0)
        timeout_s = _ANSWER_TIMEOUT_S
        self._client = httpx.Client(headers=headers, verify=context, timeout=timeout_s, limits=limits, trust_env=False)
        self._url, self._bodies, self._interval_s = url, bodies, 1 / requests_per_second
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(_THREADS)]
        self._began = self._last_answer = self._longest_pause_s = 0.0
        self._due, self._latencies_s, self._failures = 0, list[float](), Counter[str]()

    def start(self) -> None:
        """Begin after one request with response 200. Raises BdlabError with the reason if it fails."""
        if problem := self._post(self._bodies[0]):
            self._client.close()
            what = f"the API at {self._url} does not predict: {wrong_scheme(self._url) or problem}"
            raise BdlabError(what, hint="Start it with `bdlab serve` or `bdlab up`, or name its address with --url.")
        self._began = self._last_answer = time.monotonic()
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._client.close()

    def stop(self) -> LoadReport:
        """Wait for the requests in flight and return the report."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_ANSWER_TIMEOUT_S + 1)
        self._client.close()
        ended = time.monotonic()
        with self._lock:
            latencies = sorted(self._latencies_s)
            failed = sum(self._failures.values())
            p50_s, p99_s = (latencies[int(part * len(latencies))] if latencies else 0.0 for part in (0.5, 0.99))
            return LoadReport(
                sent=len(latencies) + failed,
                failed=failed,
                failures=dict(self._failures),
                seconds=ended - self._began,
                longest_pause_ms=1000 * max(self._longest_pause_s, ended - self._last_answer),
                p50_ms=1000 * p50_s,
                p99_ms=1000 * p99_s,
            )

    def _run(self) -> None:
        while True:
            with self._lock:
                number, self._due = self._due, self._due + 1
            due_at = self._began + number * self._interval_s
            if self._stop.wait(max(0.0, due_at - time.monotonic())):
                return
            problem = self._post(self._bodies[number % len(self._bodies)])
            answered_at = time.monotonic()
            with self._lock:
                if problem:
                    self._failures[problem] += 1
                    continue
                self._latencies_s.append(answered_at - due_at)
                self._longest_pause_s = max(self._longest_pause_s, answered_at - self._last_answer)
                self._last_answer = max(self._last_answer, answered_at)

    def _post(self, body: bytes) -> str:
        """Return why the request failed; empty for a 200."""
        try:
            response = self._client.post(f"{self._url.rstrip('/')}/predict", content=body)
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        return "" if response.status_code == 200 else f"HTTP {response.status_code}: {response.text[:300]}"
