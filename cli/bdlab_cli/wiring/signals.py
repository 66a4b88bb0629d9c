"""Signals that ask a command to end."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED_TWICE = 130


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM, SIGINT or SIGHUP sets; a second one leaves at once with code 130.

    But no SIGHUP does: a terminal that closes sends several, and nobody is there to be impatient.

    A thread of its own looks at them: the main one may be inside a client library that waits for its server,
    where Python runs no handler. The handlers that stood before are put back at the end.
    """
    from bdlab import signals

    stop = threading.Event()

    def heard(_number: int, _frame: FrameType | None) -> None:
        """Nothing: that Python handles a signal at all is what has its number written to `mouth`."""

    def listen() -> None:
        while numbers := ear.recv(16):
            for number in numbers:
                if signal.getsignal(number) is not heard:
                    continue  # another handler stands in its place, as a server's own
                if stop.is_set() and number != signal.SIGHUP:
                    os._exit(INTERRUPTED_TWICE)
                stop.set()

    ear, mouth = socket.socketpair()
    with ear, mouth:
        mouth.setblocking(False)
        listener = threading.Thread(target=listen, name="signals", daemon=True)
        listener.start()
        descriptor = signal.set_wakeup_fd(mouth.fileno())
        handlers = {number: signal.signal(number, heard) for number in signals.ending()}
        try:
            yield stop
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(descriptor)
            mouth.close()
            listener.join()
