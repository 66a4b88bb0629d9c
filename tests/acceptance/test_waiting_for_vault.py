"""Commands that start without Vault: how long they wait, what they say, and how they are stopped."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import forked
from tests.fix_pipeline import Pipeline
from tests.terminal import Terminal

#: Nobody listens there.
NOWHERE = "http://127.0.0.1:1"
COMMANDS = (
    "serve --port 0",
    "consume",
    "predict good",
    "verify",
    "dlq list",
    "prune --older-than 1d",
    "migrate",
    "rotate",
    "broker-certificate --folder . --host kafka",
    "vault-init",
    "vault-token",
    "vault-rekey",
)


def environment(folder: Path, vault: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("BDLAB_", "VAULT_"))}
    return kept | {
        "VAULT_ADDR": vault,
        "BDLAB_VAULT_IDENTITY_DIR": str(folder),
        "BDLAB_VAULT_KEYS_FILE": str(folder / "keys.json"),
        "COLUMNS": "200",
    }


def test_every_command_waits_as_long_as_it_is_told_and_says_what_to_do(tmp_path: Path) -> None:
    def run(command: str) -> tuple[int, str, float]:
        began = time.monotonic()
        arguments = [*command.split(), "--startup-timeout", "1"]
        done = forked.run(arguments, environment(tmp_path, NOWHERE), folder=tmp_path, timeout_s=120)
        return done.returncode, done.stderr, time.monotonic() - began

    with ThreadPoolExecutor(len(COMMANDS)) as pool:
        for command, (code, said, seconds) in zip(COMMANDS, pool.map(run, COMMANDS), strict=True):
            assert code == 1, (command, said)
            error = said.partition("error: ")[2]
            unreachable = rf"Vault at {NOWHERE} is unreachable: Connection refused \(waited \d+ s\)"
            assert re.search(unreachable, error), (command, error)
            assert "Check that it runs, and the setting vault.address (VAULT_ADDR)" in error, command
            assert "Traceback" not in said, command
            assert 1 < seconds < 50, command


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    with contextlib.ExitStack() as opened:

        def run(*arguments: str, vault: str) -> Terminal:
            made = Terminal([*arguments], environment(tmp_path, vault))
            opened.callback(made.close)
            return made

        yield run


@pytest.mark.parametrize("command", ["predict good", "verify"])
@pytest.mark.parametrize("silent", [False, True], ids=["refusing", "silent"])
def test_a_person_is_told_of_the_wait_and_can_end_it(
    terminal: Callable[..., Terminal], command: str, *, silent: bool
) -> None:
    """Also where Vault takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        vault = f"http://127.0.0.1:{listener.getsockname()[1]}" if silent else NOWHERE
        opened = terminal(*command.split(), "--startup-timeout", "60", vault=vault)
        line = f"Waiting for Vault at {vault}, at most 60 s (--startup-timeout)"
        assert opened.shows(line, within_s=60), opened.screen
        if not silent:
            assert opened.shows("Connection refused", within_s=20), opened.screen
        began = time.monotonic()
        assert opened.interrupt() == 1
        assert time.monotonic() - began < 30
        assert "error: " in opened.screen
        assert "Traceback" not in opened.screen


def test_a_person_is_not_kept_waiting_for_a_vault_that_refuses(terminal: Callable[..., Terminal]) -> None:
    opened = terminal("predict", "good", vault=NOWHERE)
    assert opened.ended() == 1
    assert f"Waiting for Vault at {NOWHERE}, at most 5 s (--startup-timeout)" in opened.screen
    assert re.search(r"Connection refused \(waited [5-9] s\)", opened.screen), opened.screen


def test_status_does_not_wait_for_a_vault_that_never_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        vault = f"http://127.0.0.1:{listener.getsockname()[1]}"
        began = time.monotonic()
        done = forked.run(["status"], environment(tmp_path, vault) | {"BDLAB_VAULT_TIMEOUT_S": "90"})
        assert time.monotonic() - began < 60
    assert done.returncode == 10
    assert f"Vault at {vault} is unreachable: timed out" in done.stdout


@pytest.mark.once
@pytest.mark.parametrize("command", ["verify", "consume", "serve --port 0"])
def test_a_denial_by_policy_is_not_tried_again(pipeline: Pipeline, tmp_path: Path, command: str) -> None:
    """Each with the identity of `predict`, whose policy knows no database."""
    service = command.split(maxsplit=1)[0]
    assert pipeline.run("predict", "good").returncode == 0  # has unwrapped its secret id
    shutil.copytree(pipeline.folder / "identity" / "predict", tmp_path / service)
    audit = pipeline.vault.folder / "audit.log"
    before = len(audit.read_text())
    began = time.monotonic()
    done = pipeline.run(*command.split(), BDLAB_VAULT_IDENTITY_DIR=str(tmp_path))
    assert done.returncode == 1
    assert time.monotonic() - began < 50
    error = done.stderr.partition("error: ")[2]
    assert "forbids this identity (policies: predict) to read kv/data/database/credentials" in error
    assert "Its policy is in vault/policies" in error
    asked = [
        line
        for line in audit.read_text()[before:].splitlines()
        if '"type":"response"' in line and '"path":"kv/data/database/credentials"' in line
    ]
    assert len(asked) == 1
