"""Signals that ask a command to end."""

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
    """Give an event that SIGTERM, SIGINT or SIGHUP sets; a second signal ends the process with code 130. A second
    SIGHUP does not: a terminal that closes sends several. A thread of its own receives the signals, because the main
    one may be inside a client library that waits for its server, where Python runs no handler. The former handlers are
    put back at the end."""
    from bdlab import signals

    stop = threading.Event()

    def heard(_number: int, _frame: FrameType | None) -> None:
        """Do nothing: Python writes the number of a signal that it handles to the wakeup descriptor."""

    def listen() -> None:
        while numbers := receiver.recv(16):
            for number in numbers:
                if signal.getsignal(number) is not heard:
                    continue  # another handler stands in its place, as a server's own
                if stop.is_set() and number != signal.SIGHUP:
                    os._exit(INTERRUPTED_TWICE)
                stop.set()

    receiver, sender = socket.socketpair()
    with receiver, sender:
        sender.setblocking(False)
        listener = threading.Thread(target=listen, name="signals", daemon=True)
        listener.start()
        descriptor = signal.set_wakeup_fd(sender.fileno())
        try:
            with signals.handled(heard):
                yield stop
        finally:
            signal.set_wakeup_fd(descriptor)
            sender.close()
            listener.join()
