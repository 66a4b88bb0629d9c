"""A person's habits with a stack that is up: its line of life, completion, and JSON of every command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from bdlab.stack import DataFolder
from tests.fix_up import ENVIRONMENT, UP_WITHIN_S, shell
from tests.json_results import as_documented
from tests.terminal import Terminal
from tests.waiting import until

pytestmark = [pytest.mark.long, pytest.mark.once, pytest.mark.plaintext("it says itself which parts speak TLS")]


@dataclass
class Stack:
    folder: DataFolder
    terminal: Terminal

    def run(self, command: str) -> str:
        """What a command prints in another terminal."""
        done = shell(f'eval "$(bdlab env --data-dir {shlex.quote(str(self.folder.path))})"\n{command}')
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def json(self, command: str, options: str = "") -> Any:
        return as_documented(command, self.run(f"bdlab {command} {options} --json"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """In memory, so that anybody may write what is no event to the broker; with TLS, so that there are certificates."""
    folder = DataFolder(tmp_path_factory.mktemp("habits") / "a stack")
    up = ["up", "--broker", "tansu", "--tls", "--data-dir", str(folder.path)]
    with closing(Terminal(up, ENVIRONMENT | {"TERM": "xterm"})) as terminal:
        assert terminal.shows('eval "$(', UP_WITHIN_S), terminal.screen
        yield Stack(folder, terminal)


def test_up_shows_life_below_what_it_says_and_the_shell_completes_positions(stack: Stack) -> None:
    assert stack.terminal.shows("stored 0  lag 0  dead letters 0", 60), stack.terminal.screen
    stack.run("bdlab predict Fine.")
    assert stack.terminal.shows("stored 1  lag 0  dead letters 0", 60), stack.terminal.screen
    assert re.search(r"0\.[1-9]/s  stored 1", stack.terminal.screen)
    producer = Producer({"bootstrap.servers": stack.folder.running().bootstrap_servers})
    producer.produce("predictions", b"no event", partition=2)
    assert producer.flush(60) == 0
    assert stack.terminal.shows("dead letters 1", 60), stack.terminal.screen

    [letter] = stack.json("dlq list")
    place = f"{letter['partition']}/{letter['offset']}"
    asked = 'COMP_WORDS="bdlab dlq show 2/" COMP_CWORD=3 _BDLAB_COMPLETE=complete_bash'
    tried = []

    def completed() -> bool:  # on a busy machine a try may take too long
        tried.append(stack.run(f"{asked} bdlab").split())
        return tried[-1] == [place]

    until(completed, 60)
    assert all(each in ([], [place]) for each in tried)
    assert stack.run(f"{asked.replace('2/', '1/')} bdlab").split() == []
    assert stack.json("dlq show", place)["value_base64"] == "bm8gZXZlbnQ="
    assert stack.json("dlq replay", f"{place} --dry-run")[0]["problem"] in ("", None)
    [fate] = stack.json("dlq discard", f"{place} --because test")
    assert fate["position"]["offset"] == letter["offset"]


def test_every_result_is_json_as_documented(stack: Stack, tmp_path: Path) -> None:
    assert stack.json("env", f"--data-dir {shlex.quote(str(stack.folder.path))}")["VAULT_ADDR"].startswith("https:")
    [predicted] = stack.json("predict", "Good.")
    assert predicted["state"] == "acknowledged"
    assert stack.json("verify", "--wait 60")["verified"]
    assert stack.json("trace", predicted["id"])[0]["outcome"] == "stored"
    assert stack.json("status")[0]["state"] == "healthy"
    assert as_documented("doctor", stack.run("bdlab doctor --json || test $? = 10"))["checks"]
    assert {change["change"] for change in stack.json("migrate")} == {""}
    [issued] = stack.json("server-certificate", f"api --folder {tmp_path} --host localhost")
    assert "issued for localhost" in issued["change"]
    assert [step for step in stack.json("vault-init", "--authority kafka") if step["outcome"] == "done"]
    (tmp_path / "broker").mkdir()
    assert stack.json("broker-certificate", f"--folder {tmp_path / 'broker'} --host localhost")
    assert stack.json("vault-token", "--ttl 10s")["ttl_s"] == 10
    assert stack.json("rotate", "database")[0]["outcome"] == "rotated"
    assert stack.json("rotate", "approle --service verify --drill --seconds 1 --requests-per-second 5")["verified"]
    assert stack.json("prune", "--older-than 30d") == []
    assert stack.json("vault-rekey")["kind"] == "recovery keys"
    made = stack.json("backup", f"--to {tmp_path / 'backup'}")
    assert made["keys"].startswith(made["folder"])
    restored = stack.json("restore", f"--from {tmp_path / 'backup'} --rows-only --data-dir {tmp_path / 'new'}")
    assert restored["folder"] == str(tmp_path / "new")


def test_a_terminal_that_does_not_know_of_it_is_told_of_this_stack_and_up_ends_cleanly(stack: Stack) -> None:
    quoted = shlex.quote(str(stack.folder.path))
    done = shell("bdlab verify --startup-timeout 0")
    assert done.returncode == 1
    if "Connection refused" in done.stderr:
        assert f'env --data-dir {quoted})"' in done.stderr
    assert stack.terminal.interrupt() == 0
    lines = stack.terminal.lines
    assert [line.split()[2] for line in lines if line.startswith("✓ stopped")][-1] == "openbao"
    assert not [line for line in lines if "dead letters" in line]
    assert lines[-1] == ""
