"""Java, and the Apache Kafka that it runs: a distribution, or what was fetched into the cache."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import msgspec

from bdlab.errors import BinaryMissing
from bdlab.stack.servers import binaries, jars

_FETCH = "Run `bdlab fetch-kafka{option}`, or name a distribution with {variable}."
_ZOOKEEPER_HOME = "BDLAB_KAFKA_ZOOKEEPER_HOME"

LOGGING = Path(__file__).with_name("log4j")
"""What each log4j is told, whatever a distribution's own files say: everything to standard output."""

#: For a small server: one collector thread, no file for jstat. The heap can be small because the system's
#: page cache, not the heap, is what holds Kafka's log.
_JVM = (
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "-Xms32m",
    "-Djava.awt.headless=true",
    # Kafka puts its PEM files into key stores in memory, where 10,000 rounds of a key derivation protect
    # nothing and take half a second. Source: java.security, keystore.pkcs12.*.
    *(f"-Dkeystore.pkcs12.{what}IterationCount=1" for what in ("keyPbe", "certPbe", "mac")),
)


class Distribution(msgspec.Struct, frozen=True):
    """`home` holds `libs/*.jar`; `version` is Kafka's, as numbers."""

    home: Path
    version: tuple[int, ...]

    def command(self, main: str, *arguments: str, heap_mb: int) -> list[str]:
        """The command line of the Java class `main` with a heap of at most `heap_mb` MiB.

        It logs to standard output. Raises BinaryMissing where there is no Java.
        """
        logging = (
            f"-Dlog4j2.configurationFile={LOGGING / 'log4j2.yaml'}"
            if self.version >= (4,)
            else f"-Dlog4j.configuration={(LOGGING / 'log4j.properties').as_uri()}"
        )
        return [
            str(binaries.java()),
            *_JVM,
            *self._quick_start(),
            f"-Xmx{heap_mb}m",
            logging,
            "-cp",
            ":".join(map(str, self._jars)),
            main,
            *arguments,
        ]

    @property
    def archive(self) -> Path | None:
        """Where what spares Java work at the start is kept, for these jars in this place; None for a Kafka
        that is not started with one.
        """
        if self.version < (4,):
            return None
        seen = [(str(jar), jar.stat().st_size, jar.stat().st_mtime_ns) for jar in self._jars]
        mark = hashlib.sha256(repr((binaries.java_version(), _JVM, seen)).encode()).hexdigest()[:12]
        return binaries.cache_dir() / f"kafka-{'.'.join(map(str, self.version))}-{mark}.aot"

    @property
    def _jars(self) -> list[Path]:
        return sorted(self.home.glob("libs/*.jar"))

    def _quick_start(self) -> list[str]:
        # Kafka uses what a later Java will not have, and Java would tell of that and of each misfit.
        quiet = ["--sun-misc-unsafe-memory-access=allow", "-Xlog:disable"]
        archive = self.archive
        return [*quiet, *([f"-XX:AOTCache={archive}"] if archive and archive.exists() else [])]


def kafka() -> Distribution:
    """Kafka 4 on this machine: `BDLAB_KAFKA_HOME`, else in the cache. Raises BinaryMissing."""
    return _find("BDLAB_KAFKA_HOME", jars.kafka(), "Apache Kafka 4")


def fetch_kafka(progress: jars.Progress) -> Distribution:
    """Kafka 4, fetched into the cache (45 MB) unless it is there, or `BDLAB_KAFKA_HOME` names another.

    Where it cannot be fetched, one of another version in the cache will do. Raises BinaryMissing; also where
    there is no Java.
    """
    binaries.java()
    try:
        if not os.environ.get("BDLAB_KAFKA_HOME"):
            jars.fetch(jars.kafka(), progress)
    except BinaryMissing:
        if not _cached(jars.kafka()):
            raise
    return kafka()


def kafka_with_zookeeper() -> Distribution:
    """Kafka 3 with ZooKeeper on this machine: `BDLAB_KAFKA_ZOOKEEPER_HOME`, else in the cache.

    Raises BinaryMissing.
    """
    pinned = jars.kafka_with_zookeeper()
    found = _find(_ZOOKEEPER_HOME, pinned, "Apache Kafka 3 with ZooKeeper", " --zookeeper")
    if not list(found.home.glob("libs/zookeeper-3*.jar")):
        raise BinaryMissing(
            f"{found.home} has no ZooKeeper beside Kafka",
            hint=_FETCH.format(option=" --zookeeper", variable=_ZOOKEEPER_HOME),
        )
    return found


def _find(variable: str, pinned: jars.Assembly, program: str, option: str = "") -> Distribution:
    hint = _FETCH.format(option=option, variable=variable)
    named = os.environ.get(variable)
    if named:
        chosen = _distribution(Path(named).expanduser().absolute())
        if chosen is None or chosen.version[0] != int(pinned.version[0]):
            raise BinaryMissing(f"{variable}={named} is no installation of {program}", hint=hint)
        return chosen
    found = _cached(pinned)
    if not found:
        raise BinaryMissing(f"{program} is not installed: nothing in {binaries.cache_dir()}", hint=hint)
    return max(found, key=lambda candidate: candidate.version)


def _cached(pinned: jars.Assembly) -> list[Distribution]:
    """The pinned one if it is whole, else those of the same line that another version of bdlab has left."""
    others = binaries.cache_dir().glob(f"kafka-{pinned.version[0]}.*")
    homes = [pinned.home] if pinned.is_whole() else [home for home in others if home != pinned.home]
    return [found for home in homes if (found := _distribution(home))]


def _distribution(home: Path) -> Distribution | None:
    """What is at `home`; None where it is no Kafka."""
    for jar in home.glob("libs/kafka_2.1*.jar"):
        match = re.fullmatch(r"kafka_2\.1\d-(\d+(?:\.\d+)*)\.jar", jar.name)
        if match:
            return Distribution(home, tuple(int(part) for part in match[1].split(".")))
    return None
