"""The requests in progress: what is done for all of them together, time limits too, and the graceful shutdown."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from itertools import takewhile
from typing import Any, cast

from bdlab.serving.problems import Problem

TICK_S = 0.05  # how often what gathers while requests are in progress is done for all of them


class InProgress:
    """Counts the requests in progress, and refuses new ones once the shutdown has begun. The HTTP server ends the
    application when it sees no connection any more, and still lets in a client whose TLS handshake ends a moment later.
    While there are requests, one timer of the loop calls `ticks`; they are called once more when the last request
    ends."""

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


class Deadlines:
    """A context manager that ends its body with TimeoutError after `limit_s` seconds. One timer keeps the limits of all
    tasks: a timer for each would take more time than the rest. `expire` has to be called now and then. For one event
    loop; a task may be in the context once at a time."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ends: dict[asyncio.Task[Any], float] = {}  # all have the same limit: the first ends first
        self._expired: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> None:
        self._ends[self._current()] = time.monotonic() + self.limit_s

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        task = self._current()
        if self._ends.pop(task, None) is None:
            self._expired.remove(task)
            if task.uncancel() == 0 and kind is asyncio.CancelledError:
                raise TimeoutError from None

    def expire(self) -> None:
        """Cancel the bodies that are over their limit."""
        now = time.monotonic()
        for task in [*takewhile(lambda one: self._ends[one] <= now, self._ends)]:
            del self._ends[task]
            self._expired.add(task)
            task.cancel()

    def _current(self) -> asyncio.Task[Any]:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        # Without the loop, asyncio asks the system each time which process this is.
        return cast("asyncio.Task[Any]", asyncio.current_task(self._loop))
