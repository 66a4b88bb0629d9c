"""`bdlab up` as a person runs it in a terminal, and what is asked of it from a second one."""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from bdlab.stack import DataFolder, Endpoints, TlsFolder
from bdlab.stack.tls import connect
from tests import tls as suite
from tests.brokers import KIND
from tests.waiting import until

BDLAB = [sys.executable, "-m", "bdlab_cli"]
#: A shell that finds the `bdlab` under test, and no settings of somebody else.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("BDLAB_", "VAULT_"))} | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
}
if suite.ON:
    ENVIRONMENT["BDLAB_STACK_TLS"] = "1"
#: The broker that `up` and `demo` start by default. Apache Kafka if it is in the cache: no test fetches it.
DEFAULT_BROKER = "tansu" if KIND == "tansu" else "kafka"
if KIND == "tansu":
    ENVIRONMENT["BDLAB_STACK_BROKER"] = KIND
UP_WITHIN_S = 180
STOP_WITHIN_S = 180


class Up:
    """A `bdlab up` in its own terminal, its output read line by line."""

    def __init__(self, data_dir: Path, *options: str, **environment: str) -> None:
        self.folder = DataFolder(data_dir)
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [*BDLAB, "up", "--data-dir", str(data_dir), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            env=ENVIRONMENT | environment,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def wait_for(self, pattern: str, timeout_s: float = UP_WITHIN_S) -> re.Match[str]:
        """The first line from here on that matches."""
        while True:
            try:
                line = self._queue.get(timeout=timeout_s)
            except queue.Empty:
                line = None
            assert line is not None, "\n".join([f"no line matched {pattern!r} in:", *self.lines])
            self.lines.append(line)
            if found := re.search(pattern, line):
                return found

    def rest(self) -> list[str]:
        """The remaining lines, up to its end."""
        before = len(self.lines)
        while (line := self._queue.get(timeout=STOP_WITHIN_S)) is not None:
            self.lines.append(line)
        return self.lines[before:]

    def signal_and_wait(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(STOP_WITHIN_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        self._reader.join(10)

    @property
    def endpoint(self) -> Endpoints:
        return self.folder.running()


@pytest.fixture
def start_up() -> Iterator[Callable[..., Up]]:
    """Starts a `bdlab up`; it is stopped at the end of the test."""
    with ExitStack() as opened:

        def start(data_dir: Path, *options: str, **environment: str) -> Up:
            up = Up(data_dir, *options, **environment)
            opened.callback(up.close)
            return up

        yield start


def connection_to(api: Endpoints) -> http.client.HTTPConnection:
    """To the API of a stack, verified where it speaks TLS."""
    place = urlsplit(api.http_url)
    assert place.hostname
    tls = TlsFolder(Path(api.ca_file).parent) if api.ca_file else None
    return connect(place.hostname, place.port or 0, tls=tls, timeout_s=20)


def get(endpoint: Endpoints, path: str) -> Any:
    connection = connection_to(endpoint)
    with closing(connection):
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())


def post(endpoint: Endpoints, body: object) -> tuple[int, Any]:
    connection = connection_to(endpoint)
    with closing(connection):
        connection.request("POST", "/predict", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def post_until_acknowledged(endpoint: Endpoints, body: object, timeout_s: float = 60) -> Any:
    """The answer with 200; a 503 is asked again, as a caller would."""
    answers = []

    def acknowledged() -> bool:
        status, answer = post(endpoint, body)
        assert status in {200, 503}, answer
        answers.append(answer)
        return status == 200

    until(acknowledged, timeout_s)
    return answers[-1]


def wait_until_stored(endpoint: Endpoints, prediction_id: str, timeout_s: float = 60) -> None:
    def stored() -> bool:
        rows = get(endpoint, "/predictions?limit=100")
        # While the database is away it is a problem, not a list.
        return isinstance(rows, list) and prediction_id in {row["id"] for row in rows}

    until(stored, timeout_s)


def outlive(moments: Iterable[float]) -> None:
    """Wait until the last of these moments (seconds since 1970) is over by a second."""
    time.sleep(max(0.0, max(moments) - time.time()) + 1)


def shell(script: str) -> subprocess.CompletedProcess[str]:
    """Run it as a person would in another terminal."""
    return subprocess.run(
        ["bash", "-euc", script],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def no_secret_is_shown(folder: DataFolder) -> None:
    """In no log, no settings file, no command line and no environment of the stack."""
    keys = json.loads(folder.keys_file.read_bytes())
    assert keys["root_token"] == ""
    secrets = [key.encode() for key in keys["recovery_keys"]]
    secrets += [file.read_bytes().strip() for file in folder.identity_dir.glob("*/secret_id")]
    assert len(secrets) >= 5
    shown = {file: file.read_bytes() for file in [folder.config_file, *folder.logs.iterdir()]}
    for pid in folder.processes():
        for name in ("cmdline", "environ"):
            with suppress(OSError):  # a process that has ended since
                file = Path(f"/proc/{pid}/{name}")
                shown[file] = file.read_bytes()
    assert len(shown) > 20
    for file, content in shown.items():
        for secret in secrets:
            assert secret not in content, file


def all_gone(folder: DataFolder, timeout_s: float = 60) -> bool:
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.05)):
        if not folder.processes():
            return True
        pause.wait(0.05)
    return False
