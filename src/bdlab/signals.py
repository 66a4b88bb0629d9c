"""The signals that ask a process to end, and how to defer them for a moment."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType

import structlog

log = structlog.get_logger()
ENDLESS = "bdlab.endless"
"""The key in a request's scope of an answer that goes on until its server stops; it is not waited for then."""


def termination_signals() -> tuple[signal.Signals, ...]:
    """Return SIGINT, SIGTERM, and SIGHUP (the terminal was closed) unless that is ignored (nohup)."""
    hung_up = (signal.SIGHUP,) if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else ()
    return (signal.SIGINT, signal.SIGTERM, *hung_up)


@contextmanager
def handled(handler: Callable[[int, FrameType | None], object]) -> Iterator[Sequence[signal.Signals]]:
    """Have `handler` get the signals that ask to end, which are given; put the former handlers back."""
    # One that was installed by other code than Python's could not be put back.
    numbers = [number for number in termination_signals() if signal.getsignal(number) is not None]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield list(before)
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def deferred(doing: str) -> Iterator[None]:
    """Defer signals that ask to end until the block has ended; then the first of them is raised again. For steps that
    must not be separated, each with a time limit of its own. `doing` says in the log what is finished first. In another
    thread than the main one it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def defer(number: int, _frame: FrameType | None) -> None:
        if not received:
            log.warning("finishing this first", doing=doing, signal=signal.Signals(number).name)
        received.append(number)

    with ExitStack() as before:
        before.callback(lambda: signal.raise_signal(received[0]) if received else None)
        before.enter_context(handled(defer))
        # A listener there (asyncio) would get each of them a second time.
        before.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(-1))
        yield
