"""What is lost when a broker that keeps its log in memory ends: noted, counted, and told once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bdlab.errors import StackError
from bdlab.files import replace_file
from bdlab.stack.service import Outcome
from bdlab.stack.supervisor import Event, Report

_DRAIN_S = 10


class _Closed(msgspec.Struct):
    cluster_id: str
    lost: int


class _Report(msgspec.Struct):
    closed: list[_Closed] = []


def lost_events(verify_output: str, cluster_id: str) -> int | None:
    """How many events of that incarnation are known to be lost, by what `bdlab verify --json` printed.

    None where no consumer ever saw that incarnation, or the report cannot be read.
    """
    try:
        report = msgspec.json.decode(verify_output, type=_Report)
    except msgspec.MsgspecError:
        return None
    found = [closed.lost for closed in report.closed if closed.cluster_id == cluster_id]
    return sum(found) if found else None


class MemoryLog:
    """The log of a broker that may forget it, and what is lost then.

    `file` outlives a kill: it has the cluster id of the incarnation whose events may not all be stored yet.
    `broker` is its name for a person. `verify` runs `bdlab verify --json`, which waits for so many seconds.
    """

    def __init__(
        self,
        file: Path,
        broker: str,
        verify: Callable[[int, threading.Event | None], Outcome],
        report: Report,
    ) -> None:
        self._file = file
        self._broker = broker
        self._verify = verify
        self._report = report

    def begin(self, cluster_id: str) -> str:
        """Note a new incarnation; the one before, empty if that one was stored to its end."""
        try:
            former = self._file.read_text("ascii").strip()
        except FileNotFoundError:
            former = ""
        replace_file(self._file, cluster_id.encode("ascii"))
        return former if former != cluster_id else ""

    def close(self) -> None:
        """All of it is stored."""
        self._file.unlink(missing_ok=True)

    def tell_losses(self, former: str, stop: threading.Event) -> None:
        """Say what the incarnation `former` took with it."""
        lost = lost_events(self._verify(_DRAIN_S, stop).output, former)
        if lost is None:
            count = "whatever was on it is lost, for no consumer had seen it"
        elif lost:
            count = f"at least {lost:,} events that were not stored yet are lost (`bdlab verify` lists them)"
        else:
            count = "no event is known to be lost; those that no consumer had seen yet are not known"
        detail = f"the log {former} is gone; {count}"
        self._report(Event("notice", self._broker, detail))

    def drain(self) -> None:
        """Wait until what is on it is stored, for some seconds; say how that went."""
        began = time.monotonic()
        try:
            outcome = self._verify(_DRAIN_S, None)
        except StackError as error:
            self._report(Event("failed", "drain", error.message, time.monotonic() - began))
            return
        seconds = time.monotonic() - began
        if outcome.code == 0:
            self.close()
            self._report(Event("done", "stored what was on the broker", seconds=seconds))
        else:
            self._report(Event("failed", "drain", f"not everything was stored:\n{outcome.tail}", seconds))
