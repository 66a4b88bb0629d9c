"""The load: reviews posted with an Idempotency-Key, retried until they are acknowledged, all written down."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from uuid import UUID

from tests.samples import REVIEWS, Review

_TEXT = """
    great taste fresh coffee terrible stale tea loved hated box arrived late early perfect bland
    dog cat treats sugar salt price cheap dear again never buy refund crunchy soft chocolate nutty
    bitter sweet leaking tin
"""
_WORDS = _TEXT.split()


class Load:
    """`threads` clients that each post one review at a time over a kept connection.

    `connect()` gives the next connection to the API, or raises OSError while there is none; each client rests
    for `pause_s` seconds after an acknowledgement. `sent` holds every id that left a client, `acknowledged`
    those that were answered with 200. A request that fails is retried with the same key.
    """

    def __init__(
        self, connect: Callable[[], http.client.HTTPConnection], *, threads: int, seed: int, pause_s: float = 0.0
    ) -> None:
        self._connect = connect
        self._pause_s = pause_s
        self._threads = [
            threading.Thread(target=self._run, args=(number, random.Random(f"{seed}-{number}")), daemon=True)
            for number in range(threads)
        ]
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.sent: set[UUID] = set()
        self.acknowledged: set[UUID] = set()
        self.failures: dict[str, int] = {}
        self.longest_gap_s = 0.0
        self._last_ack = time.monotonic()
        self.wrong: list[str] = []
        """Answers against the contract: another id, 503 without Retry-After, 4xx for a good review, a 500."""

    def start(self) -> None:
        self._last_ack = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 60) -> None:
        """Let each client finish the request that it is at."""
        self._stop.set()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def _run(self, number: int, rng: random.Random) -> None:
        connection = self._post_reviews(number, rng)
        if connection is not None:
            connection.close()

    def _post_reviews(self, number: int, rng: random.Random) -> http.client.HTTPConnection | None:
        """Until told to stop; the connection that is left open then."""
        count = 0
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            count += 1
            key = f"storm-{number}-{count}"
            review = Review(text=" ".join(rng.choices(_WORDS, k=rng.randint(3, 40))), summary=rng.choice(_WORDS))
            expected = REVIEWS.idempotent_id(key, review)
            body = json.dumps({"text": review.text, "summary": review.summary})
            with self._lock:
                self.sent.add(expected)
            while True:
                connection, answer = self._post(connection, key, body)
                if answer == str(expected):
                    self._acknowledge(expected)
                    # A client that lost an answer sends again: now and then do so on purpose.
                    if rng.random() < 0.01:
                        connection, _ = self._post(connection, key, body)
                    self._stop.wait(self._pause_s)
                    break
                if answer:
                    self.wrong.append(answer)
                    break
                if self._stop.wait(0.05):
                    return connection  # given up: sent, perhaps stored, never acknowledged
        return connection

    def _acknowledge(self, expected: UUID) -> None:
        moment = time.monotonic()
        with self._lock:
            self.acknowledged.add(expected)
            self.longest_gap_s = max(self.longest_gap_s, moment - self._last_ack)
            self._last_ack = moment

    def _post(
        self, connection: http.client.HTTPConnection | None, key: str, body: str
    ) -> tuple[http.client.HTTPConnection | None, str]:
        """The id of a 200, `""` for what is worth a retry, else what was wrong with the answer."""
        try:
            if connection is None:
                connection = self._connect()
            connection.request("POST", "/predict", body, {"Content-Type": "application/json", "Idempotency-Key": key})
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._fail(type(error).__name__)
            if connection is not None:
                connection.close()
            return None, ""
        if response.status == 200:
            return connection, str(json.loads(answer)["id"])
        self._fail(f"HTTP {response.status}")
        if response.status == 503:
            return connection, "" if response.headers["Retry-After"] else "HTTP 503 without Retry-After"
        return connection, f"HTTP {response.status}: {answer[:300].decode(errors='replace')}"

    def _fail(self, kind: str) -> None:
        with self._lock:
            self.failures[kind] = self.failures.get(kind, 0) + 1
