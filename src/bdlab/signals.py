"""The signals that ask a process to end, and how to put them off for a moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import structlog

log = structlog.get_logger()


def ending() -> tuple[signal.Signals, ...]:
    """SIGINT and SIGTERM; and SIGHUP, which a terminal that closes sends, unless it is ignored (nohup)."""
    hung_up = (signal.SIGHUP,) if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else ()
    return (signal.SIGINT, signal.SIGTERM, *hung_up)


@contextmanager
def held_back(doing: str) -> Iterator[None]:
    """Act on a signal that asks to end after the block only, and then on the first of them.

    For the few calls between which something is neither here nor there; each needs a bound of its own.
    `doing` says in the log what is finished first. In another thread than the main one it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        if not held:
            log.warning("finishing this first", doing=doing, signal=signal.Signals(number).name)
        held.append(number)

    numbers = [number for number in ending() if signal.getsignal(number) is not None]
    before = {number: signal.signal(number, hold) for number in numbers}
    # Whoever listens there would hear each of them a second time.
    descriptor = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
