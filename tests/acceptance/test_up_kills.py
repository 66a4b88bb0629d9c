"""kill -9 of anything that `bdlab up` runs, and of itself: what was acknowledged is stored exactly once."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from bdlab import settings
from bdlab.errors import StackError
from bdlab.postgres.session import ConnectionLimits, connect
from bdlab.stack import DataFolder, exports
from bdlab.stack.servers import binaries, java
from bdlab.stack.servers.process import start_mark
from bdlab.vault.session import VaultSession
from tests.chaos.load import Load
from tests.fix_servers import installed_or_skip
from tests.fix_up import BDLAB, ENVIRONMENT, Up, all_gone, connection_to, shell
from tests.rounds import ALL, rounds
from tests.waiting import until

# What is lost once is lost: never tried again, not by CI either.
pytestmark = [pytest.mark.storm, pytest.mark.kafka, pytest.mark.flaky(reruns=0)]

BROKER = "kafka"
SEED = 20260215
#: For a machine on which everything else is tested at the same time.
WITHIN_S = 300.0
#: Of `up`: how far it has come when it dies; None is when it is up and has been through the servers' kills.
ENDS = (
    ("everything", None),
    ("up", BROKER),
    *((("up", None), ("everything", "postgres"), ("everything", None)) if ALL else ()),
    *((("up", None), ("everything", BROKER), ("up", "consume-1")) if ALL else ()),
)
#: What dies while `up` is there to start it again, in rounds between its ends.
ROUNDS = (
    ("openbao", BROKER, "postgres", "serve", "consume-1"),
    *(((BROKER, "postgres"), (BROKER, "postgres", BROKER), (BROKER, "openbao", "serve")) if ALL else ()),
)


@pytest.fixture(autouse=True)
def _installed() -> None:
    with installed_or_skip():
        java.kafka()
        binaries.java()


class Stack:
    """One data folder, what was acknowledged in it, and what dies in it."""

    def __init__(self, data_dir: Path, start_up: Callable[..., Up]) -> None:
        self.folder = DataFolder(data_dir)
        self.kills = 0
        self._start_up = start_up
        self.load = Load(self._connect, threads=6, seed=SEED, pause_s=0.02, feedback=0.2)
        self.from_file: set[UUID] = set()
        self._chance = random.Random(SEED)

    def _connect(self) -> http.client.HTTPConnection:
        try:
            return connection_to(self.folder.running())
        except StackError as error:
            raise ConnectionRefusedError(str(error)) from error

    def start(self) -> Up:
        return self._start_up(self.folder.path)

    def pid(self, name: str) -> int | None:
        """The process that runs under this name now."""
        try:
            record = json.loads((self.folder.records / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None
        return int(record["pid"]) if start_mark(record["pid"]) == record["start_mark"] else None

    def kill(self, name: str) -> None:
        """kill -9 of a server or service, perhaps while it is starting after the last one."""
        until(lambda: self.pid(name) is not None, WITHIN_S)
        time.sleep(self._chance.uniform(0, 2))
        until(lambda: self.pid(name) is not None, WITHIN_S)
        os.kill(self.pid(name) or 0, signal.SIGKILL)
        self.kills += 1

    def comes_to(self, up: Up, name: str) -> None:
        """Wait until the start of `up` is at this server or service."""
        until(lambda: self.pid(name) is not None or up.process.poll() is not None, WITHIN_S)
        assert up.process.poll() is None, up.rest()
        time.sleep(self._chance.uniform(0, 1))

    def end(self, up: Up, what: str) -> None:
        """kill -9 of `up`, whose children die with it, or of all of its processes at once."""
        victims = [up.process.pid]
        if what == "everything":
            victims += self.folder.processes()
            self._chance.shuffle(victims)
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kills += 1
        up.process.wait(WITHIN_S)
        assert all_gone(self.folder)

    def goes_on(self) -> None:
        """The load is acknowledged again, and a file of reviews is published."""
        reached = len(self.load.predictions.acknowledged) + 100
        until(lambda: len(self.load.predictions.acknowledged) >= reached, WITHIN_S)
        file = self.folder.path.parent / "reviews.jsonl"
        file.write_text("".join(f'{{"text": "Good, {self.kills} {number}."}}\n' for number in range(50)))
        done = subprocess.run(
            [*BDLAB, "predict", "--file", str(file), "--json", "--source", "demo", "--startup-timeout", "60"],
            env=ENVIRONMENT | exports(self.folder, self.folder.running()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
        for line in map(json.loads, done.stdout.splitlines()):
            if line["state"] == "acknowledged":
                self.from_file.add(UUID(line["id"]))

    def nothing_is_lost(self) -> None:
        """What was acknowledged up to here is stored, each once; the load goes on meanwhile."""
        acknowledged = self.load.predictions.acknowledged | self.load.feedback.acknowledged | self.from_file
        terminal = f'eval "$(bdlab env --data-dir {shlex.quote(str(self.folder.path))})"'
        done = shell(f"{terminal}\nbdlab verify --wait 120 --json")
        assert done.returncode == 0, done.stdout + done.stderr
        report = json.loads(done.stdout)
        assert report["closed"] == []
        assert sum(one["dead_letters"] for one in report["partitions"]) == 0
        assert len({one["topic_id"] for one in report["partitions"]}) == 2  # that of the feedback too
        stored = list(self.stored())
        assert len(stored) == len(set(stored))
        assert acknowledged <= set(stored)

    def stored(self) -> Iterator[UUID]:
        """The id of each row of both tables, but for those of the file's whose answer is not known."""
        layers = settings.load(environ=exports(self.folder, self.folder.running()))
        with (
            VaultSession(layers, service="verify", database_role="bdlab-reader", daemon=False) as session,
            contextlib.closing(
                connect(session.database(), application_name="test", limits=ConnectionLimits())
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT id::text, source FROM predictions UNION ALL SELECT id::text, 'load' FROM feedback")
            for text, source in cursor:
                if source != "demo" or UUID(text) in self.from_file:
                    yield UUID(text)


def test_kills_lose_nothing(tmp_path: Path, start_up: Callable[..., Up]) -> None:
    """Under load; also while `up`, or the broker, is starting after the kill before."""
    stack = Stack(tmp_path / "stack", start_up)
    up = stack.start()
    stack.load.start()
    kills = iter(ROUNDS)
    try:
        for what, reached in ENDS:
            if reached:
                stack.comes_to(up, reached)
            else:
                up.wait_for("eval", WITHIN_S)
                stack.nothing_is_lost()
                for name in next(kills):
                    stack.kill(name)
                stack.goes_on()
                stack.nothing_is_lost()
            stack.end(up, what)
            up = stack.start()
        up.wait_for("eval", WITHIN_S)
        stack.goes_on()
    finally:
        stack.load.stop()
    assert stack.kills == rounds(7, 21)
    assert stack.load.wrong == []
    stack.nothing_is_lost()
    assert set(stack.stored()) <= stack.load.predictions.sent | stack.load.feedback.sent | stack.from_file

    # Ctrl-C, and once more.
    before = set(stack.stored())
    assert up.signal_and_wait(signal.SIGINT) == 0
    stack.start().wait_for("eval", WITHIN_S)
    stack.nothing_is_lost()
    assert set(stack.stored()) == before
