"""Named checks and their results, shared by the HTTP API and `bdlab status`, what they add up to, and probes that many
may ask, and that ask their server seldom."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import msgspec

from bdlab.errors import BdlabError

T = TypeVar("T")
State = Literal["healthy", "degraded", "unhealthy", "unknown"]
#: From the best to the worst; `unknown`: the check could not be made.
ORDER: tuple[State, ...] = ("healthy", "degraded", "unknown", "unhealthy")
_TABLE = msgspec.json.decode(Path(__file__).with_name("checks.json").read_bytes(), type=dict[str, dict[str, str]])
#: Group -> its checks, in the order in which they are shown.
CHECKS = {group: tuple(checks) for group, checks in _TABLE.items()}
#: What to do about a check that is not well.
HINTS = {name: hint for checks in _TABLE.values() for name, hint in checks.items()}


class CheckResult(msgspec.Struct, frozen=True):
    """One named check: `message` says in a line what was found, `hint` what to do if it is not healthy. `detail` holds
    the figures behind the message, each with its unit in its name."""

    name: str
    state: State
    message: str = ""
    hint: str = ""
    detail: Mapping[str, Any] = {}


def healthy(name: str, message: str, /, **detail: Any) -> CheckResult:
    """Return a check that found nothing wrong."""
    return CheckResult(name, "healthy", message, detail=detail)


def unhealthy(name: str, message: str, hint: str = "", /, **detail: Any) -> CheckResult:
    """Return a check that found something wrong; without a hint it has that of checks.json."""
    return CheckResult(name, "unhealthy", message, hint or HINTS[name], detail)


def not_made(name: str, why: str, hint: str = "") -> CheckResult:
    """Return a check that could not be made."""
    return CheckResult(name, "unknown", why, hint)


class Report(msgspec.Struct, frozen=True):
    """The results of several checks."""

    checks: tuple[CheckResult, ...]

    @property
    def state(self) -> State:
        """Return the worst of the checks' states; unknown without any check."""
        return max((check.state for check in self.checks), key=ORDER.index, default="unknown")

    @property
    def healthy(self) -> bool:
        """Whether nothing is unhealthy, and everything could be checked."""
        return self.state in ("healthy", "degraded")


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
