"""Time limits of many tasks, kept by one timer: a timer for each would take more time than the rest."""

import asyncio
import time
from itertools import takewhile
from typing import Any, cast


class Deadlines:
    """A context manager that ends its body with TimeoutError after `limit_s` seconds.

    `expire` has to be called now and then. For one event loop; a task may be in the context once at a time.
    """

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
