"""The images that the compose files name: pulled where that works, else stand-ins built on this machine."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bdlab.errors import BinaryMissing
from bdlab.stack.servers import binaries, java
from tests.compose.engine import NoEngine, run
from tests.servers.zookeeper import LOGGING, kafka_with_zookeeper

_HERE = Path(__file__).parent / "standins"
_BASE = "bdlab-standin/debian:bookworm"
_PULL_TIMEOUT_S = 300.0
_TRY_TIMEOUT_S = 60.0
_CERTIFICATES = Path("/usr/local/share/ca-certificates")

OFFICIAL = (
    "python:3.13-slim-bookworm",
    "openbao/openbao:2.7.2",
    "postgres:17",
    "apache/kafka:4.4.0",
    "apache/kafka:3.9.2",
    "zookeeper:3.8.6",
)


def provide(environment: Mapping[str, str]) -> str:
    """Have all images in that engine; which ones, in words. Raises NoEngine."""
    if all(run("docker", "image", "ls", "--quiet", image, environment=environment) for image in OFFICIAL):
        return "those of an earlier run"
    try:
        for number, image in enumerate(OFFICIAL):
            timeout_s = _PULL_TIMEOUT_S if number else _TRY_TIMEOUT_S
            run("docker", "pull", "--quiet", image, timeout_s=timeout_s, environment=environment)
    except (AssertionError, subprocess.TimeoutExpired):
        _build_all(environment)
        return "stand-ins"
    return "official"


def _build_all(environment: Mapping[str, str]) -> None:
    try:
        kraft, zookeeper = java.kafka().home, kafka_with_zookeeper().home
        logging = {"logging/log4j2.yaml": java.LOGGING, "logging/log4j.properties": LOGGING}
        contents: tuple[tuple[str, str, Mapping[str, Path]], ...] = (
            ("python", "python:3.13-slim-bookworm", {}),
            ("openbao", "openbao/openbao:2.7.2", {"bao": binaries.openbao()}),
            ("postgres", "postgres:17", {"pgsql": binaries.postgres()}),
            ("java", "bdlab-standin/java:17", {}),
            ("kafka", "apache/kafka:4.4.0", {"libs": kraft / "libs", **logging}),
            ("kafka", "apache/kafka:3.9.2", {"libs": zookeeper / "libs", **logging}),
            ("zookeeper", "zookeeper:3.8.6", {"libs": zookeeper / "libs", **logging}),
        )
    except BinaryMissing as error:
        raise NoEngine(f"no image can be pulled, and for a stand-in {error}") from error
    with tempfile.TemporaryDirectory(prefix="bdlab-standins-") as scratch:
        _make_base(Path(scratch), environment)
        for number, (name, tag, parts) in enumerate(contents):
            context = Path(scratch) / f"{number}-{name}"
            shutil.copytree(_HERE / name, context)
            for target, source in parts.items():
                copy: Callable[..., object] = shutil.copytree if source.is_dir() else shutil.copy2
                (context / target).parent.mkdir(exist_ok=True)
                copy(source, context / target)
            run("docker", "build", "--quiet", "--tag", tag, context, timeout_s=1200, environment=environment)


def _make_base(scratch: Path, environment: Mapping[str, str]) -> None:
    """Debian's smallest system. The machine's own certificate authorities go along, for `pip` in a build."""
    root = scratch / "root"
    run("debootstrap", "--variant=minbase", "bookworm", root, timeout_s=900)
    inside = root / _CERTIFICATES.relative_to("/")
    inside.mkdir(parents=True, exist_ok=True)
    for certificate in _CERTIFICATES.glob("*.crt"):
        shutil.copy2(certificate, inside)
    archive = scratch / "root.tar"
    run("tar", "-C", root, "-cf", archive, ".")
    change = "ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt"
    run("docker", "import", "--change", change, archive, _BASE, environment=environment)
    archive.unlink()
    shutil.rmtree(root)


def skip_or_fail(error: NoEngine, *, in_ci: bool) -> None:
    (pytest.fail if in_ci else pytest.skip)(f"no containers here: {error}")
