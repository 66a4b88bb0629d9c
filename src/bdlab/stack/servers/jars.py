"""Apache Kafka's jars: fetched once from a Maven repository into the cache, as `kafka.lock` pins them."""

import configparser
import hashlib
import shutil
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bdlab.errors import BinaryMissing
from bdlab.stack.servers import binaries

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
        name = "-".join((artifact, version, *classifier))
        return f"{group.replace('.', '/')}/{artifact}/{version}/{name}.jar"

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def read(self, path: Path) -> bytes | None:
        """Return the content of the file `path` if its SHA-256 is this jar's; else None."""
        try:
            content = path.read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == self.sha256 else None


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
        try:
            found = {file.name: file.stat().st_size for file in (self.home / "libs").iterdir()}
        except OSError:
            return False
        return found == {jar.name: jar.size for jar in self.jars}


def kafka() -> Assembly:
    """Return the pinned Apache Kafka 4."""
    return pinned(Path(__file__).with_name("kafka.lock"))


def pinned(lock: Path) -> Assembly:
    """Return what `make lock` has written into the file `lock`."""
    (found,) = tomllib.loads(lock.read_text("utf-8")).values()
    return msgspec.convert(found, Assembly)


def fetch(assembly: Assembly, progress: Progress) -> None:
    """Fetch `assembly` into the cache, if it is not there yet.

    It is made under another name and renamed. The next run continues what a killed one has fetched, and concurrent
    first uses wait for each other. What `progress` raises ends it. Raises BinaryMissing: nothing came for 12 s, no
    repository has it, it is not what is pinned, or the cache cannot be written."""
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
    new = home.with_name(f".{home.name}.new")
    libs = new / "libs"
    for folder in (new, libs):
        folder.mkdir(mode=0o755, exist_ok=True)
    maven.Fetching(assembly.jars, libs).run(progress)
    for other in set(libs.iterdir()) - {libs / jar.name for jar in assembly.jars}:
        other.unlink()
    shutil.rmtree(home, ignore_errors=True)
    new.rename(home)
