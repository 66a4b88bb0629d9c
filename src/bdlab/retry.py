"""Waiting and trying again: the one back-off, the one loop, and the few lines of log of an outage."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import structlog

from bdlab.errors import BdlabError, BrokerUnavailable, DatabaseUnavailable, VaultUnavailable

T = TypeVar("T")
AWAY: tuple[type[BdlabError], ...] = (VaultUnavailable, BrokerUnavailable, DatabaseUnavailable)
"""A server that does not answer, which may come back by itself."""
LEAST_S = 0.1
"""The shortest time-out to give librdkafka: some of its calls take 0 or less as no limit."""
_log = structlog.get_logger()


def seconds_left(deadline: float) -> float:
    """Return the seconds until `deadline`, on the monotonic clock, at least LEAST_S."""
    return max(LEAST_S, deadline - time.monotonic())


class Backoff:
    """Pauses that double from `first_s` to `longest_s` seconds, each shortened at random by up to a half. The jitter
    keeps clients that lost the same server from coming back to it all at once."""

    def __init__(self, first_s: float = 0.1, longest_s: float = 1.0) -> None:
        self._first_s, self._next_s, self._longest_s = first_s, first_s, longest_s

    def next_s(self) -> float:
        """Return the next pause, in seconds."""
        pause = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311 - it spreads load and guards nothing
        self._next_s = min(self._longest_s, self._next_s * 2)
        return pause

    def wait(self, stop: threading.Event) -> float:
        """Make the next pause, at most until `stop` is set; return its length in seconds."""
        stop.wait(pause := self.next_s())
        return pause

    def reset(self) -> None:
        """Begin again with the first pause, after a success."""
        self._next_s = self._first_s


class Outage:
    """Logs an outage: one line for each kind of error, and one when it is over. A kind is the error's class; with
    `by_hint` the class and its hint, for somebody who waits and may act. `began` and `ended` are the events of the log.
    Errors of the first `quiet_s` seconds are not logged."""

    def __init__(self, began: str, ended: str, *, quiet_s: float = 0.0, by_hint: bool = False, **context: Any) -> None:
        self._began, self._ended, self._context = began, ended, context
        self._quiet_s, self._by_hint = quiet_s, by_hint
        self._logged: set[tuple[type[BdlabError], str]] = set()
        self._since: float | None = None

    def failed(self, error: BdlabError, *, at_once: bool = False, **context: Any) -> bool:
        """Note a failed try, and return whether it was logged; `at_once` also within `quiet_s`."""
        moment = time.monotonic()
        self._since = self._since or moment
        kind = (type(error), error.hint if self._by_hint else "")
        if kind in self._logged or not (at_once or moment - self._since >= self._quiet_s):
            return False
        self._logged.add(kind)
        _log.warning(self._began, problem=error.message, **self._context, **context)
        return True

    def over(self) -> None:
        """Note a success, and log the end of an outage that was logged."""
        if self._logged and self._since is not None:
            seconds = round(time.monotonic() - self._since, 1)
            _log.info(self._ended, after=self._began, seconds=seconds, **self._context)
        self._logged.clear()
        self._since = None


def tries(
    timeout_s: float, *, stop: threading.Event | None = None, first_s: float = 0.05, longest_s: float = 0.5
) -> Iterator[float]:
    """Yield once for each try, with the seconds that are left of `timeout_s`, and pause in between. There is at least
    one try, and a last one when the time is over. Setting `stop` ends the tries."""
    deadline, left_s = time.monotonic() + timeout_s, timeout_s
    backoff, stop = Backoff(first_s, longest_s), stop or threading.Event()
    while True:
        yield left_s
        left_s = deadline - time.monotonic()
        if left_s <= 0 or stop.wait(min(left_s, backoff.next_s())):
            return
        left_s = max(0.0, deadline - time.monotonic())


def wait_for(
    what: str,
    attempt: Callable[[], T],
    *,
    timeout_s: float,
    errors: tuple[type[BdlabError], ...] | Callable[[BdlabError], bool] = AWAY,
    stop: threading.Event | None = None,
    **context: Any,
) -> T:
    """Call `attempt` until it succeeds, and return its result. Errors that `errors` names or accepts are waited out,
    for up to `timeout_s` seconds or until `stop` is set; the last one is then raised with the time that was waited.
    Other errors are raised at once. `what` ("Vault", "the broker") and `context` go into the log."""
    began = time.monotonic()
    # A server that has just been started or opened refuses for some milliseconds: that is not worth a line.
    how: dict[str, Any] = {"quiet_s": 0.3, "by_hint": True, "timeout_s": timeout_s}
    outage = Outage(f"waiting for {what}", f"{what} is there", **how, **context)
    last: BdlabError  # there is at least one try
    for _ in tries(timeout_s, stop=stop, longest_s=2.0):
        try:
            result = attempt()
        except BdlabError as error:
            if not (isinstance(error, errors) if isinstance(errors, tuple) else errors(error)):
                raise
            last = error
            outage.failed(error)
        else:
            outage.over()
            return result
    try:
        waited_s = time.monotonic() - began
        raise type(last)(f"{last.message} (waited {waited_s:.0f} s)", hint=last.hint) from last
    finally:
        del last  # else it and this frame hold each other, and with them what `attempt` holds
