"""Starts children side by side, and keeps them running: one that dies is started again, and reported."""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from bdlab.errors import StackError, StartInterrupted
from bdlab.stack.servers.process import ManagedProcess, describe_exit

_FIRST_DELAY_S, _LONGEST_DELAY_S, _STEADY_AFTER_S = 0.5, 30.0, 60.0


class Event(msgspec.Struct, frozen=True):
    """What happened, for the person at the terminal. `seconds` is how long a finished step took."""

    kind: Literal["began", "done", "failed", "notice"]
    step: str
    detail: str = ""
    seconds: float = 0.0


Report = Callable[[Event], None]
AfterRestart = Callable[[threading.Event], None]


@dataclass
class _Watched:
    """A child and how its restarts went."""

    child: ManagedProcess
    after_restart: AfterRestart | None
    restart_timeout_s: float
    delay_s: float = _FIRST_DELAY_S
    up_since: float = field(default_factory=time.monotonic)
    restart_at: float | None = None

    def put_off(self, now: float) -> str:
        """Put the next start off, the next time longer; return in how many seconds that is."""
        after, self.restart_at = f"{self.delay_s:g} s", now + self.delay_s
        self.delay_s = min(2 * self.delay_s, _LONGEST_DELAY_S)
        return after


class Supervisor:
    """Watches children from the thread that calls `watch`, and stops them in reverse order."""

    def __init__(self, report: Report) -> None:
        self._report, self._children, self._told = report, ExitStack(), ""
        self._watched: list[_Watched] = []

    def add(
        self, child: ManagedProcess, after_restart: AfterRestart | None = None, *, restart_timeout_s: float = 90.0
    ) -> None:
        """Watch a child from the next `watch` on; `stop_all` stops it. `after_restart` lets the others find it again;
        if it raises StackError, the restart has failed and is tried again. Give less time to a child whose start may
        wait for another one: that is not watched meanwhile."""
        self._watched.append(_Watched(child, after_restart, restart_timeout_s))
        self._children.callback(self._stop, child)

    def forget(self, child: ManagedProcess) -> None:
        """Watch a child no more; `stop_all` still stops it."""
        self._watched = [watched for watched in self._watched if watched.child is not child]

    def before_stop(self, action: Callable[[], None]) -> None:
        """Have `stop_all` call `action` before it stops the children that were added until now."""
        self._children.callback(action)

    def watch(self, stop: threading.Event, every: Mapping[float, Callable[[], None]] = {}) -> None:
        """Restart what dies until `stop` is set. `every` has housekeeping by its period in seconds."""
        due = {period_s: time.monotonic() + period_s for period_s in every}
        while not stop.wait(0.2):
            now = time.monotonic()
            for watched in self._watched:
                self._look_after(watched, now, stop)
            for period_s in [period_s for period_s, moment in due.items() if now >= moment]:
                due[period_s] = now + period_s
                try:
                    every[period_s]()
                except OSError as error:  # such as a full disk, which must not end what runs
                    if str(error) != self._told:
                        self._told = str(error)
                        self._report(Event("notice", "housekeeping", f"is put off: {error}"))

    def stop_all(self) -> None:
        """Stop the children, the one that was added last first."""
        self._watched.clear()
        self._children.close()

    def _stop(self, child: ManagedProcess) -> None:
        began = time.monotonic()
        was_started = child.running or child.exit_status is not None
        child.stop()
        if was_started:
            self._report(Event("done", f"stopped {child.name}", seconds=time.monotonic() - began))

    def _look_after(self, watched: _Watched, now: float, stop: threading.Event) -> None:
        child = watched.child
        if watched.restart_at is None:
            if child.running:
                return
            if now - watched.up_since >= _STEADY_AFTER_S:
                watched.delay_s = _FIRST_DELAY_S
            detail = f"ended ({describe_exit(child.exit_status)}); starting it again in {watched.put_off(now)}"
            self._report(Event("notice", child.name, detail))
            return
        if now < watched.restart_at:
            return
        began = time.monotonic()
        try:
            child.start(watched.restart_timeout_s, stop)
            if watched.after_restart:
                watched.after_restart(stop)
        except StartInterrupted:
            return
        except (StackError, OSError) as error:  # OSError: such as a full disk
            detail = f"restart failed; again in {watched.put_off(time.monotonic())}: {error}"
            self._report(Event("failed", child.name, detail, time.monotonic() - began))
            return
        watched.restart_at, watched.up_since = None, time.monotonic()
        self._report(Event("done", f"restarted {child.name}", seconds=watched.up_since - began))
