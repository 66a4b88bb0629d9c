"""The log of a broker that keeps it in memory: what is lost when the broker ends, reported once."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bdlab.errors import StackError
from bdlab.files import replace_file
from bdlab.stack.service import CommandResult
from bdlab.stack.supervisor import Event, Report

_DRAIN_S = 10


def lost_events(verify_output: str, cluster_id: str) -> int | None:
    """Return how many events of that log are known to be lost, from the output of `bdlab verify --json`. None if no
    consumer ever saw that log, or the output cannot be read."""
    try:
        closed = msgspec.json.decode(verify_output)["closed"]
        found = [int(log["lost"]) for log in closed if log["cluster_id"] == cluster_id]
    except (msgspec.DecodeError, KeyError, TypeError):
        return None
    return sum(found) if found else None


@dataclass
class VolatileLog:
    """The log of a broker whose start may be a new, empty one. `file` survives a kill: it has the cluster id of the log
    whose events may not all be stored yet. `broker` is its name for a person. `verify` runs `bdlab verify --json`,
    which waits for so many seconds."""

    file: Path
    broker: str
    verify: Callable[[int, threading.Event | None], CommandResult]
    report: Report

    def opened(self, cluster_id: str) -> str:
        """Note the log that is in use, and return the one before; "" if all of that was stored."""
        try:
            former = self.file.read_text("ascii").strip()
        except FileNotFoundError:
            former = ""
        replace_file(self.file, cluster_id.encode("ascii"))
        return former if former != cluster_id else ""

    def report_loss(self, former: str, stop: threading.Event) -> None:
        """Report what was lost with the log `former`."""
        lost = lost_events(self.verify(_DRAIN_S, stop).output, former)
        if lost is None:
            count = "whatever was on it is lost, for no consumer had seen it"
        elif lost:
            count = f"at least {lost:,} events that were not stored yet are lost (`bdlab verify` lists them)"
        else:
            count = "no event is known to be lost; those that no consumer had seen yet are not known"
        self.report(Event("notice", self.broker, f"the log {former} is gone; {count}"))

    def drain(self) -> None:
        """Wait some seconds until all of it is stored, and report how that went."""
        began = time.monotonic()
        try:
            result = self.verify(_DRAIN_S, None)
        except StackError as error:
            self.report(Event("failed", "drain", error.message, time.monotonic() - began))
            return
        seconds = time.monotonic() - began
        if result.code == 0:
            self.file.unlink(missing_ok=True)
            self.report(Event("done", "stored what was on the broker", seconds=seconds))
        else:
            self.report(Event("failed", "drain", f"not everything was stored:\n{result.tail}", seconds))
