"""The load: reviews and feedback posted with an Idempotency-Key, retried until acknowledged, all written down."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from uuid import UUID

from tests.samples import FEEDBACK, REVIEWS, Review

_TEXT = """
    great taste fresh coffee terrible stale tea loved hated box arrived late early perfect bland
    dog cat treats sugar salt price cheap dear again never buy refund crunchy soft chocolate nutty
    bitter sweet leaking tin
"""
_WORDS = _TEXT.split()


@dataclass
class Ids:
    """Every id that left a client, and those that were answered with 200."""

    sent: set[UUID] = field(default_factory=set)
    acknowledged: set[UUID] = field(default_factory=set)


class Load:
    """`threads` clients that each post one review at a time over a kept connection.

    `connect()` gives the next connection to the API, or raises OSError while there is none; each client rests
    for `pause_s` seconds after an acknowledgement, and of the share `feedback` of its predictions it says what the
    right answer was: alone or in a batch, again later, and sometimes of an id that nobody knows. A request that
    fails is retried with the same key.
    """

    def __init__(
        self,
        connect: Callable[[], http.client.HTTPConnection],
        *,
        threads: int,
        seed: int,
        pause_s: float = 0.0,
        feedback: float = 0.0,
    ) -> None:
        self.connect = connect
        self.pause_s = pause_s
        self.share = feedback
        self._threads = [
            threading.Thread(target=_Client(self, number, random.Random(f"{seed}-{number}")).run, daemon=True)
            for number in range(threads)
        ]
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self.predictions, self.feedback = Ids(), Ids()
        self.of_nobody: set[UUID] = set()
        """Feedback that was sent for predictions that are none."""
        self.failures: dict[str, int] = {}
        self.longest_gap_s = 0.0
        self._last_ack = time.monotonic()
        self.wrong: list[str] = []
        """Answers against the contract: another id, 503 without Retry-After, 4xx for good input, a 500."""

    def start(self) -> None:
        self._last_ack = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 60) -> None:
        """Let each client finish the request that it is at."""
        self.stopped.set()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def send(self, ids: Ids, expected: Collection[UUID], of_nobody: Collection[UUID] = ()) -> None:
        with self._lock:
            ids.sent.update(expected)
            self.of_nobody.update(of_nobody)

    def acknowledge(self, ids: Ids, expected: Collection[UUID]) -> None:
        moment = time.monotonic()
        with self._lock:
            ids.acknowledged.update(expected)
            self.longest_gap_s = max(self.longest_gap_s, moment - self._last_ack)
            self._last_ack = moment

    def fail(self, kind: str) -> None:
        with self._lock:
            self.failures[kind] = self.failures.get(kind, 0) + 1


class _Client:
    """One client, for one thread."""

    def __init__(self, load: Load, number: int, rng: random.Random) -> None:
        self._load = load
        self._number = number
        self._rng = rng
        self._count = 0
        self._connection: http.client.HTTPConnection | None = None
        self._recent: deque[UUID] = deque(maxlen=30)
        """Predictions to give feedback of."""

    def run(self) -> None:
        while not self._load.stopped.is_set():
            self._count += 1
            self._post_review()
            if self._recent and self._rng.random() < self._load.share:
                self._post_feedback()
        self._close()

    def _post_review(self) -> None:
        rng, key = self._rng, f"storm-{self._number}-{self._count}"
        review = Review(text=" ".join(rng.choices(_WORDS, k=rng.randint(3, 40))), summary=rng.choice(_WORDS))
        expected = REVIEWS.idempotent_id(key, review)
        self._load.send(self._load.predictions, [expected])
        body = json.dumps({"text": review.text, "summary": review.summary})
        if self._post_until_answered("/predict", key, body, [expected], again=0.01):
            self._load.acknowledge(self._load.predictions, [expected])
            self._recent.append(expected)
            self._load.stopped.wait(self._load.pause_s)

    def _post_feedback(self) -> None:
        rng, key = self._rng, f"storm-{self._number}-{self._count}-feedback"
        count = rng.choice((1, 1, 1, rng.randint(2, 5)))
        known = [rng.random() > 0.05 for _ in range(count)]
        stars = [rng.choice((None, 1.0, 2.0, 3.0, 4.0, 5.0)) for _ in range(count)]
        given = [
            {"prediction_id": str(rng.choice(self._recent) if one else UUID(int=rng.getrandbits(128), version=4))}
            | ({"sentiment": rng.choice(("negative", "positive"))} if two is None else {"prediction": two})
            for one, two in zip(known, stars, strict=True)
        ]
        keys = [key] if count == 1 else [f"{key}#{index}" for index in range(count)]
        expected = [
            FEEDBACK.idempotent_id(own, FEEDBACK.given(**one | {"prediction_id": UUID(str(one["prediction_id"]))}))
            for own, one in zip(keys, given, strict=True)
        ]
        of_nobody = [event_id for event_id, one in zip(expected, known, strict=True) if not one]
        self._load.send(self._load.feedback, expected, of_nobody)
        path, body = ("/feedback", given[0]) if count == 1 else ("/feedback/batch", given)
        if self._post_until_answered(path, key, json.dumps(body), expected, again=0.1):
            self._load.acknowledge(self._load.feedback, expected)

    def _post_until_answered(self, path: str, key: str, body: str, expected: list[UUID], *, again: float) -> bool:
        """Whether it was answered with the ids; if not, it was sent, and is perhaps stored.

        A client that lost an answer sends again: in the share `again` of the cases it does so on purpose."""
        while not (answer := self._post(path, key, body)):
            if self._load.stopped.wait(0.05):
                return False
        if answer != [*map(str, expected)]:
            self._load.wrong.append(f"{path}: {answer}")
            return False
        if self._rng.random() < again:
            self._post(path, key, body)
        return True

    def _post(self, path: str, key: str, body: str) -> list[str] | str:
        """The ids of a 200, `""` for what is worth a retry, else what was wrong with the answer."""
        try:
            connection = self._connection = self._connection or self._load.connect()
            connection.request("POST", path, body, {"Content-Type": "application/json", "Idempotency-Key": key})
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._load.fail(type(error).__name__)
            self._close()
            return ""
        if response.status == 200:
            found = json.loads(answer)
            return [each["id"] for each in (found if isinstance(found, list) else [found])]
        self._load.fail(f"HTTP {response.status}")
        if response.status == 503:
            return "" if response.headers["Retry-After"] else "HTTP 503 without Retry-After"
        return f"HTTP {response.status}: {answer[:300].decode(errors='replace')}"

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
