"""Prometheus and its promtool, as Debian packages them.

`python -m tests.servers.prometheus` fetches them into the cache. Nothing is installed: the package is only unpacked, so
that no root is needed and no service starts.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from bdlab.errors import BinaryMissing
from bdlab.stack.servers.binaries import cache_dir
from tests.waiting import until

STARTED_WITHIN_S = 60


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`: on the PATH, or in the cache. Raises BinaryMissing."""
    cached = _cached() / "usr/bin" / name
    found = shutil.which(name) or (str(cached) if cached.exists() else "")
    if not found:
        raise BinaryMissing(f"there is no {name}", hint="Run `make prometheus`: it is Debian's package prometheus.")
    return found


def promtool(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """What `promtool` says of files, or of `stdin`."""
    command = [program("promtool"), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)


@contextmanager
def running(config: Path, data: Path) -> Iterator[httpx.Client]:
    """A Prometheus on a free port of loopback; yields a client of its HTTP API."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = [f"--config.file={config}", f"--storage.tsdb.path={data}", f"--web.listen-address=127.0.0.1:{port}"]
    with (data.parent / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [program("prometheus"), *options, "--web.console.libraries=", "--web.console.templates="],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:

        def ready() -> bool:
            assert process.poll() is None, (data.parent / "prometheus.log").read_text()
            try:
                return client.get("/-/ready").is_success
            except httpx.TransportError:
                return False

        try:
            until(ready, STARTED_WITHIN_S)
            yield client
        finally:
            process.terminate()
            process.wait(STARTED_WITHIN_S)


def _cached() -> Path:
    return cache_dir() / "prometheus"


def fetch() -> None:
    """Unpack Debian's package into the cache, unless the programs are there."""
    try:
        program("prometheus"), program("promtool")
    except BinaryMissing:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)  # apt downloads as a user of its own
            _download(folder)
            package = next(Path(folder).glob("prometheus_*.deb"))
            unpacked = Path(f"{_cached()}.{os.getpid()}")
            _run(["dpkg", "-x", str(package), str(unpacked)], folder)
            shutil.rmtree(_cached(), ignore_errors=True)
            unpacked.rename(_cached())


def _download(folder: str) -> None:
    if _run(["apt-get", "download", "-q", "prometheus"], folder, check=False):
        _run(["apt-get", "update", "-q"], folder)  # lists of packages may be missing, as in an image of a container
        _run(["apt-get", "download", "-q", "prometheus"], folder)


def _run(command: Sequence[str], folder: str, *, check: bool = True) -> int:
    return subprocess.run(command, cwd=folder, stdout=sys.stderr, timeout=600, check=check).returncode


if __name__ == "__main__":
    try:
        fetch()
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"Prometheus cannot be fetched: {error}; it is Debian's package prometheus")
