"""A Docker engine of the tests' own, from Debian's packages, that leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

KEEP = "BDLAB_TEST_ENGINE"

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 60.0
_INSTALL_TIMEOUT_S = 600.0
_PACKAGES = ("docker.io", "docker-compose", "debootstrap", "iptables")
_PROGRAMS = ("dockerd", "docker", "debootstrap", "iptables-save")
_VERSION = ("docker", "version", "--format", "{{.Server.Version}}")
_RUNTIME = Path("/run/docker")
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


class NoEngine(Exception):
    """Why no engine can be had here."""


def run(
    *command: str | Path, environment: Mapping[str, str] | None = None, timeout_s: float = 600.0, check: bool = True
) -> str:
    """Run to the end; what it said on standard output. `environment` is laid over this process's own."""
    outcome = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if check and outcome.returncode != 0:
        said = f"{outcome.stdout[-4000:]}\n{outcome.stderr[-4000:]}"
        raise AssertionError(f"{' '.join(map(str, command))} ended with {outcome.returncode}:\n{said}")
    return outcome.stdout


def compose_command() -> list[str]:
    """`docker compose` or docker-compose, whichever is there, installed if neither is. Raises NoEngine."""
    found = _compose()
    if found is None:
        install()
        found = _compose()
    if found is None:
        raise NoEngine("neither `docker compose` nor docker-compose is installed")
    return found


def _compose() -> list[str] | None:
    plugin = ("docker", "compose")
    if (
        shutil.which(plugin[0])
        and subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode == 0
    ):
        return list(plugin)
    return ["docker-compose"] if shutil.which("docker-compose") else None


def install() -> None:
    """Get what is missing, the compose program too, from Debian. Raises NoEngine if that cannot be."""
    if all(map(shutil.which, _PROGRAMS)) and _compose():
        return
    if os.geteuid() != 0:
        raise NoEngine("only root can start a Docker engine, and install one")
    if not shutil.which("apt-get"):
        raise NoEngine(
            f"one of {', '.join(_PROGRAMS)} or compose is missing, and there is no apt-get to install it with"
        )
    try:
        run("apt-get", "update", timeout_s=_INSTALL_TIMEOUT_S)
        command = ("apt-get", "install", "--yes", "--no-install-recommends", *_PACKAGES)
        run(*command, timeout_s=_INSTALL_TIMEOUT_S, environment={"DEBIAN_FRONTEND": "noninteractive"})
    except (AssertionError, subprocess.TimeoutExpired) as error:
        raise NoEngine(f"apt-get could not install {', '.join(_PACKAGES)}: {str(error)[-500:]}") from error


@contextmanager
def private_engine() -> Iterator[dict[str, str]]:
    """A running engine, as the environment that points clients at it. Raises NoEngine.

    Its images are its own: stand-ins never get among those of the machine's engine. Afterwards its folder,
    interface, mounts and firewall rules are gone; the folder stays, with its images, where BDLAB_TEST_ENGINE
    names one.
    """
    install()
    kept = os.environ.get(KEEP)
    folder = Path(kept or tempfile.mkdtemp(prefix="bdlab-engine-"))
    folder.mkdir(exist_ok=True)
    rules, forwarding = run("iptables-save"), _FORWARD.read_text("ascii")
    bridge_before, runtime_before = Path("/sys/class/net/docker0").exists(), _RUNTIME.exists()
    command: Sequence[str] = (
        *("dockerd", f"--data-root={folder}/root", f"--exec-root={folder}/exec"),
        *(f"--pidfile={folder}/dockerd.pid", f"--host=unix://{folder}/docker.sock"),
    )
    try:
        with (folder / "dockerd.log").open("wb") as log:
            engine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            environment = {"DOCKER_HOST": f"unix://{folder}/docker.sock", "DOCKER_BUILDKIT": "0"}
            _wait(engine, environment, folder / "dockerd.log")
            yield environment
        finally:
            engine.terminate()
            try:
                engine.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                engine.kill()
                engine.wait()
    finally:
        _clean(folder, rules, forwarding, bridge_before=bridge_before)
        if not runtime_before:
            shutil.rmtree(_RUNTIME, ignore_errors=True)
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def _wait(engine: subprocess.Popen[bytes], environment: dict[str, str], log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while engine.poll() is None and time.monotonic() < deadline:
        if run(*_VERSION, check=False, environment=environment).strip():
            return
        time.sleep(0.1)
    raise NoEngine(f"dockerd does not start here: {log.read_text('utf-8', 'replace')[-1500:]}")


def _clean(folder: Path, rules: str, forwarding: str, *, bridge_before: bool) -> None:
    for line in Path("/proc/self/mounts").read_text("utf-8").splitlines():
        if str(folder) in line.split()[1]:
            run("umount", line.split()[1], check=False)
    if not bridge_before:
        run("ip", "link", "delete", "docker0", check=False)
        for table in ("filter", "nat"):
            run("iptables", "-t", table, "-F", check=False)
            run("iptables", "-t", table, "-X", check=False)
        run("iptables", "-P", "FORWARD", "ACCEPT", check=False)
    # What was there before, exactly.
    subprocess.run(["iptables-restore"], input=rules, text=True, check=False)
    _FORWARD.write_text(forwarding, "ascii")
