"""Waiting for what happens elsewhere and tells nobody."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Ask until it holds; fails the test where it has not within `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"it did not come to hold within {timeout_s:g} s"
        time.sleep(0.02)
