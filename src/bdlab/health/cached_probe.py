"""Probes whose result many may ask for, and that ask their server seldom."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from bdlab.errors import BdlabError

T = TypeVar("T")


@dataclass
class CachedProbe(Generic[T]):
    """Gives the latest result of `probe`: at most `max_age_s` seconds old, and within `timeout_s` seconds. However many
    ask at once, one probe runs, in a daemon thread. If it fails or does not answer in time, the result is what `absent`
    makes of the reason."""

    probe: Callable[[], T]
    absent: Callable[[str], T]
    name: str
    max_age_s: float = 1.0
    timeout_s: float = 3.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _future: Future[T] | None = None
    _started: float = 0.0
    _finished: float = 0.0

    async def get_async(self) -> T:
        """Return the result; wait at most for the time-out."""
        future, left_s = self._current()
        if future.done():
            return future.result()
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), left_s)
        except TimeoutError:
            return self.absent(f"no answer within {self.timeout_s:g} s")

    def _current(self) -> tuple[Future[T], float]:
        with self._lock:
            moment = time.monotonic()
            if self._future is None or (self._future.done() and moment - self._finished > self.max_age_s):
                self._future = Future()
                self._started = moment
                threading.Thread(target=self._run, args=(self._future,), name=f"probe-{self.name}", daemon=True).start()
            return self._future, max(0.0, self._started + self.timeout_s - moment)

    def _run(self, future: Future[T]) -> None:
        try:
            try:
                state = self.probe()
            except BdlabError as error:
                state = self.absent(error.message)
            self._finished = time.monotonic()
            future.set_result(state)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the result
            self._finished = time.monotonic()
            future.set_exception(error)


def at_once(probes: Iterable[CachedProbe[T]]) -> list[T]:
    """Ask all probes at the same time, and return their results in the same order."""

    async def results() -> list[T]:
        return await asyncio.gather(*(probe.get_async() for probe in probes))

    return asyncio.run(results())
