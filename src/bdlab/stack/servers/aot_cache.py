"""Java's ahead-of-time cache for Apache Kafka, with which a start takes half the time.

The Java runtime writes it at the end of a recorded run, and ignores one that does not fit the jars. Source: JEP 483,
JEP 514."""

import shutil
import tempfile
import threading
from pathlib import Path

from bdlab.certificates import CertificateFiles
from bdlab.errors import ServerNotStarted
from bdlab.stack.servers import binaries
from bdlab.stack.servers.java import Distribution
from bdlab.stack.servers.kafka import ApacheKafka
from bdlab.stack.temporary_ca import subject, temporary_certificates

_TIMEOUT_S = 120.0
_CERTIFICATE_TTL_S = 3600
_PREFIX = ".aot-cache-"
#: Each version of the jars or of Java has its own, of 77 MB.
_KEPT = 2


class _RecordedKafka(ApacheKafka):
    """A broker whose run is recorded; Java writes `output` when it ends."""

    super_users = (subject("broker"),)

    @property
    def output(self) -> Path:
        return self.data_dir / "kafka.aot"

    def _java(self, distribution: Distribution, main: str, *arguments: str) -> list[str]:
        program, *others = super()._java(distribution, main, *arguments)
        # What the C2 compiler would record keeps it busy at each start, when the CPU is needed most.
        recording = [f"-XX:AOTCacheOutput={self.output}", "-XX:TieredStopAtLevel=1"]
        return [program, *(recording if main == "kafka.Kafka" else []), *others]


def prepare(distribution: Distribution, stop: threading.Event | None = None) -> None:
    """Make the cache for `distribution` unless it is there; that takes some 15 s. Starts a secured broker in a
    temporary folder and ends it. Concurrent first uses wait for each other. Raises StackError, and StartInterrupted if
    `stop` was set. Without the cache all works, and starts take longer."""
    target = distribution.aot_cache
    try:
        with binaries.locked(target.with_name("aot-cache")):
            if not target.exists():
                _make(distribution, target, stop or threading.Event())
    except OSError as error:
        raise ServerNotStarted(f"no ahead-of-time cache in {target.parent}: {error}") from error


def _make(distribution: Distribution, target: Path, stop: threading.Event) -> None:
    for left in target.parent.glob(f"{_PREFIX}*"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=target.parent) as folder:
        certificates = CertificateFiles(Path(folder))
        issued = temporary_certificates(["broker"], ttl_s=_CERTIFICATE_TTL_S)["broker"]
        certificates.write(issued, (), ttl_s=_CERTIFICATE_TTL_S)
        broker = _RecordedKafka(Path(folder), certificates=certificates, distribution=distribution)
        broker.start(_TIMEOUT_S, stop)
        broker.stop(_TIMEOUT_S)
        if not broker.output.exists():
            raise ServerNotStarted(f"Java wrote no ahead-of-time cache:\n{broker.tail()}")
        broker.output.rename(target)
    caches = sorted(target.parent.glob(f"*{target.suffix}"), key=lambda file: file.stat().st_mtime)
    for old in caches[:-_KEPT]:
        old.unlink(missing_ok=True)
