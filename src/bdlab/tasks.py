"""Work in several threads that ends together."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Self, TypeVar

_POLL_S = 0.05
_MOST_TASKS = 32
T = TypeVar("T")


class TaskGroup:
    """A `with` block that ends when all its tasks have ended, like `asyncio.TaskGroup` but with threads. A task gets an
    event that asks it to end: it is set when `stop` is, and after the first failure. A task may wait for an earlier
    one's result, which raises what that one raised."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._end = threading.Event()
        self._failures: list[BaseException] = []
        self._tasks: list[Future[Any]] = []
        self._pool = ThreadPoolExecutor(max_workers=_MOST_TASKS, thread_name_prefix="step")

    def create_task(self, task: Callable[[threading.Event], T]) -> Future[T]:
        """Run `task` in a thread of its own."""
        future = self._pool.submit(self._run, task)
        self._tasks.append(future)
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Wait for all tasks. Raises what the first that failed raised."""
        if error is not None:
            self._end.set()
        while wait(self._tasks, timeout=_POLL_S).not_done:
            if self._stop.is_set():
                self._end.set()
        self._pool.shutdown()
        if error is None and self._failures:
            raise self._failures[0]

    def _run(self, task: Callable[[threading.Event], T]) -> T:
        try:
            return task(self._end)
        except BaseException as error:
            self._failures.append(error)
            self._end.set()
            raise
