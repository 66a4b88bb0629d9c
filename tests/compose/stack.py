"""The containers of a fresh clone, in an engine of the tests' own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.compose.engine import compose_command, run

ROOT = Path(__file__).resolve().parents[2]
LASTING = ("vault", "postgres", "kafka", "app", "db-consumer", "console")
PASSWORD = "first-set-up-only-7f3a"

_UP_TIMEOUT_S = 900.0
_SETTLE_S = 120.0
_APPS_MOST = 10
_REVIEW = {"text": "This product is terrible!", "summary": "Product review"}


def fresh_clone(target: Path) -> Path:
    """What a commit of the working tree would hold."""
    listed = run("git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    return target


class Stack:
    """One compose project. `files` are those of `infra/` that make it up."""

    def __init__(
        self, clone: Path, engine: dict[str, str], *, project: str, files: Sequence[str] = ("docker-compose.yml",)
    ) -> None:
        self.clone = clone
        first = _free_ports()
        self._compose = compose_command()
        self.environment = engine | {
            "COMPOSE_PROJECT_NAME": project,
            "COMPOSE_FILE": ":".join(str(clone / "infra" / name) for name in files),
            "BDLAB_PUBLISH": f"127.0.0.1:{first}-{first + _APPS_MOST - 1}",
            "BDLAB_CONSOLE_PUBLISH": f"127.0.0.1:{first + _APPS_MOST}",
        }

    @property
    def env_file(self) -> Path:
        return self.clone / ".env"

    def write_env(self) -> None:
        text = (self.clone / ".env.example").read_text("utf-8")
        self.env_file.write_text(text.replace("POSTGRES_PASSWORD=", f"POSTGRES_PASSWORD={PASSWORD}", 1), "utf-8")
        self.env_file.chmod(0o600)

    def compose(self, *arguments: str, timeout_s: float = 300.0) -> str:
        return run(*self._compose, *arguments, timeout_s=timeout_s, environment=self.environment)

    def docker(self, *arguments: str, check: bool = True) -> str:
        return run("docker", *arguments, check=check, environment=self.environment)

    def up(self, *arguments: str) -> None:
        try:
            self.compose("up", "-d", *arguments, timeout_s=_UP_TIMEOUT_S)
        except AssertionError as error:
            raise AssertionError(f"{str(error)[-1500:]}\n{self.logs()}") from None

    def down(self, *arguments: str) -> None:
        self.compose("down", "--timeout", "30", *arguments)

    def containers(self, *services: str) -> list[str]:
        """Ids of those that run."""
        return self.compose("ps", "-q", *services).split()

    def log_of(self, container: str) -> str:
        """Both of its streams; bdlab logs to standard error."""
        outcome = subprocess.run(
            ["docker", "logs", container],
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=True,
        )
        return outcome.stdout

    def inspect(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.docker("inspect", container))[0]
        return found

    def kill(self, containers: Sequence[str]) -> None:
        """kill -9 of their first processes, without asking the engine; waits for their return."""
        before = {name: self.inspect(name) for name in containers}
        for state in before.values():
            os.kill(state["State"]["Pid"], signal.SIGKILL)
        deadline = time.monotonic() + _SETTLE_S
        for name, state in before.items():
            while self.inspect(name)["RestartCount"] == state["RestartCount"]:
                assert time.monotonic() < deadline, f"{state['Name']} was not started again"
                time.sleep(0.2)

    def integration_test(self) -> str:
        """`infra/test_kafka_integration.sh` over this stack; what it said. Fails where a step is not ok."""
        outcome = subprocess.run(
            [self.clone / "infra" / "test_kafka_integration.sh"],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=_UP_TIMEOUT_S,
            check=False,
        )
        if outcome.returncode != 0:
            raise AssertionError(f"{outcome.stdout}{outcome.stderr}\n{self.logs()}")
        return outcome.stdout

    def logs(self) -> str:
        """The end of each container's."""
        return self.compose("logs", "--no-color", "--tail=15", timeout_s=60)[-16000:]

    def api_ports(self) -> list[int]:
        """The published port of each `app`."""
        bindings = [
            self.inspect(container)["NetworkSettings"]["Ports"]["8000/tcp"] for container in self.containers("app")
        ]
        return [int(binding[0]["HostPort"]) for binding in bindings]

    def predict(self, port: int) -> str:
        """The id of an acknowledged prediction."""
        answer = httpx.post(f"http://127.0.0.1:{port}/predict", json=_REVIEW, timeout=30)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def tool(self, name: str, *arguments: str) -> str:
        """What a tool of the compose file said on standard output."""
        return self.compose("run", "--rm", "-T", name, *arguments, timeout_s=180)

    def verify(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.tool("verify", "--wait", "60", "--json"))
        return report


def _free_ports() -> int:
    """The first of as many free ports in a row as there may be replicas of `app`, and one for the console."""
    for first in range(18000, 28000, _APPS_MOST + 1):
        if all(_is_free(port) for port in range(first, first + _APPS_MOST + 1)):
            return first
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
