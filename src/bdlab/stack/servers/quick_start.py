"""An archive of what Apache Kafka's start has loaded and linked, so that later starts take half the time.

The Java runtime writes it at the end of a run that was watched, and ignores one that does not fit the jars.
Source: JEP 483, JEP 514.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

from bdlab.credentials import SUPER_USERS
from bdlab.errors import ServerNotStarted, StartInterrupted
from bdlab.stack.servers import binaries
from bdlab.stack.servers.java import Distribution
from bdlab.stack.servers.kafka import ApacheKafka
from bdlab.stack.servers.kafka_config import Certificates
from bdlab.stack.temporary_ca import passing_certificates

_TIMEOUT_S = 120.0
_POLL_S = 0.1
_PASSING_S = 3600
_PREFIX = ".quick-start-"
#: Each installation of the jars or of Java has its own, of 77 MB.
_KEPT = 2


class _Watched(ApacheKafka):
    """A broker whose run is recorded; `archive` is written when it ends."""

    @property
    def archive(self) -> Path:
        return self.data_dir / "kafka.aot"

    def finish(self, stop: threading.Event) -> None:
        """End it, and wait until its archive is written.

        Raises ServerNotStarted without one, StartInterrupted if `stop` was set.
        """
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + _TIMEOUT_S
        while self._process.wait(_POLL_S) is None and time.monotonic() < deadline:
            if stop.is_set():
                raise StartInterrupted("asked to stop while Apache Kafka was prepared for quick starts")
        if not self.archive.exists():
            raise ServerNotStarted(f"Java wrote no archive for quick starts:\n{self._process.tail()}")

    def _java(self, distribution: Distribution, main: str, *arguments: str) -> list[str]:
        program, *others = super()._java(distribution, main, *arguments)
        # What the second compiler would record makes it busy at each start, when it is needed least.
        recording = [f"-XX:AOTCacheOutput={self.archive}", "-XX:TieredStopAtLevel=1"]
        return [program, *(recording if main == "kafka.Kafka" else []), *others]


def is_due(distribution: Distribution) -> bool:
    """Whether there is no archive for `distribution` yet, and Java could make one."""
    archive = distribution.archive
    return archive is not None and not archive.exists()


def prepare(distribution: Distribution, stop: threading.Event | None = None) -> None:
    """Make the archive for `distribution`, which takes some 15 s, if it is due.

    Starts a secured broker in a folder of its own and ends it. Concurrent first uses wait for each other.
    Raises StackError, and StartInterrupted if `stop` was set; without an archive all works, and starts take
    longer.
    """
    target = distribution.archive
    if target is None:
        return
    try:
        with binaries.locked(target.with_name("quick-start")):
            if not target.exists():
                _make(distribution, target, stop or threading.Event())
    except OSError as error:
        raise ServerNotStarted(f"no archive for quick starts in {target.parent}: {error}") from error


def _make(distribution: Distribution, target: Path, stop: threading.Event) -> None:
    for left in target.parent.glob(f"{_PREFIX}*"):  # by one that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=target.parent) as folder:
        issued = passing_certificates(["broker"], ttl_s=_PASSING_S, as_clients=True)["broker"]
        certificates = Certificates(server=issued.certificate, ca_pem=issued.ca_pem, super_users=SUPER_USERS)
        broker = _Watched(Path(folder), certificates=certificates, distribution=distribution)
        broker.start(_TIMEOUT_S, stop)
        try:
            broker.finish(stop)
        finally:
            broker.kill()
        broker.archive.rename(target)
    archives = sorted(target.parent.glob(f"*{target.suffix}"), key=lambda file: file.stat().st_mtime)
    for old in archives[:-_KEPT]:
        old.unlink(missing_ok=True)
