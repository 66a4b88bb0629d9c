"""The requests in progress: what is done for all of them together, and the graceful shutdown."""

import asyncio
import contextlib
from collections.abc import Callable

from bdlab.serving.problems import Problem

TICK_S = 0.05
"""How often, in seconds, what gathers while requests are in progress is done for all of them."""


class InProgress:
    """Counts the requests in progress, and refuses new ones once the shutdown has begun.

    The HTTP server ends the application when it sees no connection any more, and still lets in a client whose
    TLS handshake ends a moment later. While there are requests, one timer of the loop calls `ticks`; they
    are called once more when the last request ends.
    """

    def __init__(self, *ticks: Callable[[], None]) -> None:
        self._ticks = ticks
        self._ticking = False
        self._ending = False
        self._count = 0
        self._idle = asyncio.Event()

    def begin(self) -> None:
        """Count a request, of which the end has to be told by `end`."""
        self._count += 1
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def end(self) -> None:
        self._count -= 1
        if not self._count:
            self._call()
            self._idle.set()

    def _tick(self) -> None:
        self._ticking = self._count > 0
        if self._ticking:
            asyncio.get_running_loop().call_later(TICK_S, self._tick)
            self._call()

    def _call(self) -> None:
        for tick in self._ticks:
            tick()

    def refuse_new(self) -> None:
        """Raise Problem, 503, if the shutdown has begun. To be called before each request."""
        if self._ending:
            raise Problem("ending", "Send the request again: another server may take it.")

    async def wait(self, timeout_s: float) -> None:
        """Begin the shutdown and wait for the requests in progress, at most `timeout_s` seconds."""
        self._ending = True
        if self._count:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)
