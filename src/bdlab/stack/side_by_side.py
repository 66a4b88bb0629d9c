"""Steps that run side by side, each in a thread; the first that fails interrupts the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Self, TypeVar

_POLL_S = 0.05
_MOST_STEPS = 32

T = TypeVar("T")


class SideBySide:
    """A `with` block whose end waits for all that was begun in it.

    A step is given an event that asks it to end: it is set together with `stop`, and after the first failure.
    A step may wait for an earlier one's result; that raises what the earlier one raised.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._end = threading.Event()
        self._failing = threading.Lock()
        self._failed: BaseException | None = None
        self._steps: list[Future[object]] = []
        self._pool = ThreadPoolExecutor(max_workers=_MOST_STEPS, thread_name_prefix="step")

    def begin(self, step: Callable[[threading.Event], T]) -> Future[T]:
        """Run `step` beside the others."""
        future = self._pool.submit(self._run, step)
        self._steps.append(future)  # type: ignore[arg-type]
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Wait for all. Raises what the first that failed raised."""
        if error is not None:
            self._end.set()
        while wait(self._steps, timeout=_POLL_S).not_done:
            if self._stop.is_set():
                self._end.set()
        self._pool.shutdown()
        if error is None and self._failed is not None:
            raise self._failed

    def _run(self, step: Callable[[threading.Event], T]) -> T:
        try:
            return step(self._end)
        except BaseException as error:
            with self._failing:
                self._failed = self._failed or error
            self._end.set()
            raise
