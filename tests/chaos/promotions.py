"""Versions of the shipped model, and a thread that promotes them and rolls back while servers are killed."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import threading
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from bdlab.resources import models_dir
from tests.fix_registry import TERMS, version_card

if TYPE_CHECKING:
    from tests.chaos.system import System

VERSIONS = ("2.0.0", "3.0.0", "4.0.0")
SHADOW = "reviews@3.0.0"
"""What scores the stored inputs again, and is promoted now and then."""

_NOTHING_BEFORE = "no other version was promoted before"
_WITHIN_S = 150.0


def write_version(folder: Path, number: int) -> Path:
    """The card of the shipped model as one of the versions: each says other stars to the same review."""
    table = json.loads(gzip.decompress((models_dir() / TERMS).read_bytes()))
    table["intercepts"]["rating"] += 0.1 * number
    content = gzip.compress(json.dumps(table).encode(), 1)
    files = {TERMS: {"role": "terms", "sha256": sha256(content).hexdigest(), "bytes": len(content)}}
    card = version_card(folder, VERSIONS[number], files=files)
    (folder / TERMS).write_bytes(content)
    return card


class Promotions:
    """One command after the other, from `start()` to `stop()`. What fails or is killed is tried again."""

    def __init__(self, system: System, rng: random.Random) -> None:
        self._system = system
        self._rng = rng
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stop = threading.Event()
        self.reported: list[str] = []
        """What the commands that ended well say they have promoted, in order."""
        self.tried_again = 0
        """Commands that were killed or failed: each may have promoted something."""
        self.wrong: list[str] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=2 * _WITHIN_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            rollback = len(self.reported) > 1 and self._rng.random() < 0.25
            self._until_done(["rollback"] if rollback else ["promote", f"reviews@{self._rng.choice(VERSIONS)}"])
            self._stop.wait(self._rng.uniform(1, 6))

    def _until_done(self, command: Sequence[str]) -> None:
        deadline = time.monotonic() + _WITHIN_S
        while True:
            why = "it was killed"
            killed_after_s = self._rng.uniform(0.05, 1.0) if self._rng.random() < 0.2 else _WITHIN_S
            try:
                done = self._system.bdlab("model", *command, "--why", "storm", "--json", timeout_s=killed_after_s)
            except subprocess.TimeoutExpired:
                pass
            else:
                why = f"exit code {done.returncode}: {done.stderr[-2000:]}"
                if done.returncode == 0:
                    if (told := json.loads(done.stdout))["change"]:
                        self.reported.append(told["what"])
                    return
                if _NOTHING_BEFORE in why:
                    return
                if done.returncode != 1 or "Traceback" in why or time.monotonic() > deadline:
                    self.wrong.append(f"model {' '.join(command)}: {why}")
                    return
            self.tried_again += 1
            time.sleep(0.2)
