"""Java, and the Apache Kafka that it runs: a distribution, or what `make kafka` assembled in its layout."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import msgspec

from bdlab.errors import BinaryMissing
from bdlab.stack.binaries import cache_dir

_OLDEST_JAVA = 17
_ANSWER_TIMEOUT_S = 20.0
_ASSEMBLE = (
    "Run `make kafka` in a checkout of bdlab (it needs Maven), or name a distribution with {variable}."
)

#: A quick start and few threads: the first compiler only, one collector thread, no file for jstat. The heap
#: can be small because the system's page cache, not the heap, is what holds Kafka's log.
_JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "-Xms64m",
    "-Djava.awt.headless=true",
)


class Distribution(msgspec.Struct, frozen=True):
    """`home` holds `libs/*.jar` and `config/`; `version` is Kafka's, as numbers."""

    home: Path
    version: tuple[int, ...]

    def command(self, main: str, *arguments: str, heap_mb: int, logs_dir: Path) -> list[str]:
        """The command line of the Java class `main` with a heap of at most `heap_mb` MiB.

        It logs to standard output; `logs_dir` is for a distribution whose configuration also writes files.
        Raises BinaryMissing where there is no Java.
        """
        config = self.home / "config"
        yaml = config / "log4j2.yaml"
        logging = (
            f"-Dlog4j2.configurationFile={yaml}"
            if self.version >= (4,)
            else f"-Dlog4j.configuration={(config / 'log4j.properties').as_uri()}"
        )
        return [
            str(java()),
            *_JVM,
            f"-Xmx{heap_mb}m",
            logging,
            f"-Dkafka.logs.dir={logs_dir}",
            "-cp",
            f"{self.home}/libs/*",
            main,
            *arguments,
        ]


def kafka() -> Distribution:
    """The newest Kafka 4: `BDLAB_KAFKA_HOME`, else in the cache. Raises BinaryMissing."""
    return _find("BDLAB_KAFKA_HOME", 4, "Apache Kafka 4")


def kafka_with_zookeeper() -> Distribution:
    """The newest Kafka 3 with ZooKeeper: `BDLAB_KAFKA_ZOOKEEPER_HOME`, else in the cache.

    Raises BinaryMissing.
    """
    found = _find("BDLAB_KAFKA_ZOOKEEPER_HOME", 3, "Apache Kafka 3 with ZooKeeper")
    if not list(found.home.glob("libs/zookeeper-3*.jar")):
        raise BinaryMissing(
            f"{found.home} has no ZooKeeper beside Kafka",
            hint=_ASSEMBLE.format(variable="BDLAB_KAFKA_ZOOKEEPER_HOME"),
        )
    return found


def _find(variable: str, major: int, program: str) -> Distribution:
    hint = _ASSEMBLE.format(variable=variable)
    named = os.environ.get(variable)
    if named:
        chosen = _distribution(Path(named).expanduser().absolute())
        if chosen is None or chosen.version[0] != major:
            raise BinaryMissing(f"{variable}={named} is no installation of {program}", hint=hint)
        return chosen
    candidates = (_distribution(home) for home in cache_dir().glob(f"kafka-{major}.*"))
    found = [candidate for candidate in candidates if candidate]
    if not found:
        raise BinaryMissing(f"{program} is not installed: nothing in {cache_dir()}", hint=hint)
    return max(found, key=lambda candidate: candidate.version)


def _distribution(home: Path) -> Distribution | None:
    """What is at `home`; None where it is no Kafka, or one whose assembly was interrupted."""
    for jar in home.glob("libs/kafka_2.1*.jar"):
        match = re.fullmatch(r"kafka_2\.1\d-(\d+(?:\.\d+)*)\.jar", jar.name)
        if match and (home / "config").is_dir():
            return Distribution(home, tuple(int(part) for part in match[1].split(".")))
    return None


def java() -> Path:
    """The program `java` of `JAVA_HOME` or of the PATH. Raises BinaryMissing below Java 17."""
    home = os.environ.get("JAVA_HOME")
    candidate = Path(home) / "bin" / "java" if home else None
    found = str(candidate) if candidate and candidate.is_file() else shutil.which("java")
    hint = "Install a Java runtime, on Debian: apt-get install openjdk-17-jre-headless."
    if not found:
        raise BinaryMissing(
            "Apache Kafka needs Java, and there is none in JAVA_HOME or on the PATH", hint=hint
        )
    version = _java_version(found)
    if version < _OLDEST_JAVA:
        raise BinaryMissing(
            f"Apache Kafka needs Java {_OLDEST_JAVA} or newer; {found} is {version}", hint=hint
        )
    return Path(found)


@functools.cache
def _java_version(program: str) -> int:
    try:
        outcome = subprocess.run(
            [program, "-version"], capture_output=True, timeout=_ANSWER_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BinaryMissing(f"{program} does not run: {error}") from error
    said = outcome.stderr.decode("utf-8", "replace")
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    if not match:
        raise BinaryMissing(f"{program} does not tell its version: {said.strip()[:200]}")
    return int(match[1])
