"""Every option has an environment variable that names its command or section; former names are still read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.core import TyperOption

from bdlab.settings import Settings
from bdlab_cli.app import COMMANDS, load_command
from bdlab_cli.former_names import FORMER

#: Beside the commands and the sections of the settings: what the local stack's commands share.
_SHARED = ("BDLAB_STACK_", "BDLAB_STARTUP_TIMEOUT")


def _options(command: Any) -> Iterator[TyperOption]:
    yield from (one for one in command.params if isinstance(one, TyperOption))
    for child in getattr(command, "commands", {}).values():
        yield from _options(child)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_s_variable_names_its_command_or_section(command: str) -> None:
    sections = tuple(f"BDLAB_{section.upper()}_" for section in Settings.__struct_fields__)
    own = f"BDLAB_{command.upper().replace('-', '_')}_"
    options = list(_options(load_command(command)))
    assert options
    for option in options:
        assert isinstance(option.envvar, str), option.name
        assert option.envvar.startswith((own, *_SHARED, *sections)), option.envvar


@pytest.mark.parametrize("command", FORMER)
def test_a_former_name_leads_to_an_option_of_the_command(command: str) -> None:
    named = {option.envvar for option in _options(load_command(command))}
    assert {f"BDLAB_{name}" for name in FORMER[command].values()} <= named
    assert not {f"BDLAB_{former}" for former in FORMER[command]} & named


def _env(**environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BDLAB_")}
    return subprocess.run(
        [sys.executable, "-m", "bdlab_cli", "env"],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_former_name_is_read_with_a_warning() -> None:
    done = _env(BDLAB_DATA_DIR="/nowhere/former")
    assert "no local stack is up on /nowhere/former" in done.stderr
    assert "warning: BDLAB_DATA_DIR is called BDLAB_STACK_DATA_DIR now" in done.stderr


def test_the_new_name_wins() -> None:
    done = _env(BDLAB_DATA_DIR="/nowhere/former", BDLAB_STACK_DATA_DIR="/nowhere/new")
    assert "no local stack is up on /nowhere/new" in done.stderr
    assert "warning" not in done.stderr


def test_a_former_name_of_another_command_s_option_is_not_told() -> None:
    done = _env(BDLAB_STACK_DATA_DIR="/nowhere", BDLAB_JSON="1", BDLAB_CONSUMERS="2")
    assert "no local stack is up on /nowhere" in done.stderr
    assert "warning" not in done.stderr
