"""Waiting between tries."""

from __future__ import annotations

import random
import threading


class Backoff:
    """Doubles its wait with each try, from `first_s` to `longest_s` seconds, each with full jitter.

    Jitter, so that consumers that lost the same server do not come back to it all at once.
    """

    def __init__(self, *, first_s: float = 0.1, longest_s: float = 2.0) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def wait(self, stop: threading.Event) -> float:
        """Wait, at most until `stop` is set; the seconds that it meant to wait."""
        delay = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        self._next_s = min(self._longest_s, self._next_s * 2)
        stop.wait(delay)
        return delay

    def reset(self) -> None:
        self._next_s = self._first_s
