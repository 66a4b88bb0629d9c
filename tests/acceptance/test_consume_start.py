"""`bdlab consume` before it has what it needs. Nothing is started: there is nobody at these addresses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def consumer(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("BDLAB_", "VAULT_"))}
    with subprocess.Popen(
        [sys.executable, "-m", "bdlab_cli", "consume", *options],
        env=kept | {"VAULT_ADDR": "http://127.0.0.1:1", "BDLAB_VAULT_IDENTITY_DIR": str(folder / "identity")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_waits_for_vault_and_leaves_when_it_is_told_to(tmp_path: Path) -> None:
    with consumer(tmp_path, "--startup-timeout", "60") as process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        assert line["event"] == "waiting for Vault"
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=20)
    assert process.returncode == 0, rest
    assert "stopped while it waited" in rest


def test_it_gives_up_in_time_and_says_what_it_waited_for(tmp_path: Path) -> None:
    with consumer(tmp_path, "--startup-timeout", "0.5") as process:
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    [told] = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "Vault" in told
    assert "Traceback" not in output


def test_a_setting_that_is_wrong_is_named(tmp_path: Path) -> None:
    with consumer(tmp_path, "--batch-wait", "0") as process:
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "sink.batch_wait_s from the command line" in output
