"""Waiting between tries."""

from __future__ import annotations

import random
import threading


class Backoff:
    """Pauses that double from `first_s` to `longest_s` seconds, each shortened by chance.

    By chance, so that clients that lost the same server do not come back to it all at once.
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def next_s(self) -> float:
        """The pause to make now, in seconds."""
        pause = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311 - it spreads load and guards nothing
        self._next_s = min(self._longest_s, self._next_s * 2)
        return pause

    def wait(self, stop: threading.Event) -> float:
        """Make the pause, at most until `stop` is set; the seconds that it was to take."""
        pause = self.next_s()
        stop.wait(pause)
        return pause

    def reset(self) -> None:
        self._next_s = self._first_s
