"""An archive of what Apache Kafka's start has loaded and linked, so that later starts take half the time.

The Java runtime writes it at the end of a run that was watched, and ignores one that does not fit the jars.
Source: JEP 483, JEP 514.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from bdlab.credentials import SUPER_USERS
from bdlab.errors import ServerNotStarted
from bdlab.stack import binaries
from bdlab.stack.java import Distribution
from bdlab.stack.kafka import ApacheKafka
from bdlab.stack.kafka_config import Certificates
from bdlab.stack.passing_authority import passing_certificates
from bdlab.stack.process import tail

_TIMEOUT_S = 120.0
_PASSING_S = 3600
_PREFIX = ".quick-start-"
#: Each installation of the jars or of Java has its own, of 77 MB.
_KEPT = 2


class _Watched(ApacheKafka):
    """A broker whose run is recorded; `archive` is written when it ends."""

    @property
    def archive(self) -> Path:
        return self.data_dir / "kafka.aot"

    def _java(self, distribution: Distribution, main: str, *arguments: str) -> list[str]:
        program, *others = super()._java(distribution, main, *arguments)
        # What the second compiler would record makes it busy at each start, when it is needed least.
        recording = [f"-XX:AOTCacheOutput={self.archive}", "-XX:TieredStopAtLevel=1"]
        return [program, *(recording if main == "kafka.Kafka" else []), *others]


def prepare(distribution: Distribution) -> None:
    """Make the archive for `distribution`, which takes some 15 s, unless there is one or Java knows none.

    Starts a secured broker in a folder of its own and ends it. Concurrent first uses wait for each other.
    Raises StackError; without an archive all works, and starts take longer.
    """
    target = distribution.archive
    if target is None or target.exists():
        return
    try:
        with binaries.locked(target.with_name("quick-start")):
            if not target.exists():
                _make(distribution, target)
    except OSError as error:
        raise ServerNotStarted(f"no archive for quick starts in {target.parent}: {error}") from error


def _make(distribution: Distribution, target: Path) -> None:
    for left in target.parent.glob(f"{_PREFIX}*"):  # by one that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=target.parent) as folder:
        issued = passing_certificates(["broker"], ttl_s=_PASSING_S, as_clients=True)["broker"]
        certificates = Certificates(server=issued.certificate, ca_pem=issued.ca_pem, super_users=SUPER_USERS)
        broker = _Watched(Path(folder), certificates=certificates, distribution=distribution)
        broker.start(_TIMEOUT_S)
        try:
            broker.stop(_TIMEOUT_S)
        finally:
            broker.kill()
        if not broker.archive.exists():
            raise ServerNotStarted(f"Java wrote no archive for quick starts:\n{tail(broker.log_file, 5)}")
        broker.archive.rename(target)
    archives = sorted(target.parent.glob(f"*{target.suffix}"), key=lambda file: file.stat().st_mtime)
    for old in archives[:-_KEPT]:
        old.unlink(missing_ok=True)
