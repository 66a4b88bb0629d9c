"""The brokers that a local stack can have, and the choice of one. Tansu speaks Kafka's protocol and keeps the log in
memory only, and what is lost when it ends is reported once; `servers.kafka` has the other."""

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import msgspec

from bdlab.errors import BinaryMissing, StackError
from bdlab.files import replace_file
from bdlab.probes import MEMORY_ONLY, MEMORY_ONLY_ID
from bdlab.stack.folder import BrokerKind, DataFolder
from bdlab.stack.servers import binaries, java
from bdlab.stack.servers.java import Progress
from bdlab.stack.servers.server import Broker, is_listening
from bdlab.stack.service import CommandResult
from bdlab.stack.supervisor import Event, Report

_DRAIN_S = 10


class Tansu(Broker):
    """Each start is a new incarnation of the log, with a new cluster id on a new port: a client of the old log, which
    is lost, must not mistake the new one for it."""

    name = "tansu"
    stop_signal = signal.SIGKILL  # it has nothing to save, and an orderly stop takes it two seconds
    keeps_log: ClassVar[bool] = False
    cluster_id = ""

    def _choose_port(self) -> int:
        return self.ports.choose_new(self._port)

    def _configure(self, port: int) -> Sequence[str]:
        self.cluster_id = f"{MEMORY_ONLY_ID}{secrets.token_hex(8)}"
        addresses = [f"--{kind}-url=tcp://127.0.0.1:{port}" for kind in ("listener", "advertised-listener")]
        log = [f"--cluster-id={self.cluster_id}", "--storage-engine=memory://tansu/"]
        return [str(binaries.tansu()), "broker", *addresses, *log]

    def _is_ready(self) -> bool:
        return is_listening(self.port) and self.running


def choose_broker(
    folder: DataFolder, wanted: BrokerKind | Literal["auto"], progress: Progress
) -> tuple[BrokerKind, BinaryMissing | None]:
    """Choose the broker for the stack of `folder`; return it, and why Apache Kafka is missing if it is. "auto" keeps
    the broker of the folder; a new folder gets Kafka, fetched into the cache unless it is there, and the broker in
    memory only if that fails. Raises StackError for a folder whose log would be left behind, and BinaryMissing if it
    must be Kafka."""
    folder.check_location()
    kept = folder.broker
    its_log = f"the data folder {folder.path} has its log on Apache Kafka"
    if (kept, wanted) == ("kafka", "tansu"):
        what = f"{its_log}, and the memory-only broker would leave behind what is not stored yet"
        raise StackError(what, hint="Leave --broker tansu out, or name another folder with --data-dir.")
    kind = kept if wanted == "auto" else wanted
    if kind == "tansu":
        return kind, None
    try:
        java.fetch_kafka(progress)
    except BinaryMissing as missing:
        if kept == "kafka":
            raise BinaryMissing(f"{its_log}: {missing.message}", hint=missing.hint) from missing
        if kind or os.environ.get("BDLAB_KAFKA_HOME"):  # somebody asked for it
            raise
        return "tansu", missing
    return "kafka", None


def described(kind: BrokerKind) -> str:
    """Return a description of the broker for a person. Raises BinaryMissing for Kafka if there is none."""
    if kind == "tansu":
        return MEMORY_ONLY
    return f"Apache Kafka {'.'.join(map(str, java.kafka().version))}, secured, its log on disk"


def lost_events(verify_output: str, cluster_id: str) -> int | None:
    """Return how many events of a log `bdlab verify --json` knows to be lost; None if it says nothing of that log."""
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
        former = self.file.read_text("ascii").strip() if self.file.exists() else ""
        replace_file(self.file, cluster_id.encode("ascii"))
        return former if former != cluster_id else ""

    def report_loss(self, former: str, stop: threading.Event) -> None:
        """Report what was lost with the log `former`."""
        lost = lost_events(self.verify(_DRAIN_S, stop).output, former)
        count = "whatever was on it is lost, for no consumer had seen it"
        if lost is not None:
            count = "no event is known to be lost; those that no consumer had seen yet are not known"
        if lost:
            count = f"at least {lost:,} events that were not stored yet are lost (`bdlab verify` lists them)"
        self.report(Event("notice", self.broker, f"the log {former} is gone; {count}"))

    def drain(self) -> None:
        """Wait some seconds until all of it is stored, and report how that went."""
        began = time.monotonic()
        try:
            result = self.verify(_DRAIN_S, None)
            problem = f"not everything was stored:\n{result.tail}" if result.code != 0 else ""
        except StackError as error:
            problem = error.message
        seconds = time.monotonic() - began
        if problem:
            self.report(Event("failed", "drain", problem, seconds))
        else:
            self.file.unlink(missing_ok=True)
            self.report(Event("done", "stored what was on the broker", seconds=seconds))
