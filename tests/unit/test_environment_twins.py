"""Every option has its help, and an environment variable that names its command or section."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperOption

import bdlab_cli
from bdlab.settings import Settings
from bdlab_cli.app import COMMANDS, load_command

#: Beside the commands and the sections of the settings: what the local stack's commands share.
_SHARED = ("BDLAB_STACK_", "BDLAB_STARTUP_TIMEOUT")


def _options(command: Any) -> Iterator[TyperOption]:
    yield from (one for one in command.params if isinstance(one, TyperOption))
    for child in getattr(command, "commands", {}).values():
        yield from _options(child)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_its_help_and_a_variable_of_its_command_or_section(command: str) -> None:
    sections = tuple(f"BDLAB_{section.upper()}_" for section in Settings.__struct_fields__)
    own = f"BDLAB_{command.upper().replace('-', '_')}_"
    options = list(_options(load_command(command)))
    assert options or command == "fetch-kafka"
    for option in options:
        assert option.help, option.name
        assert isinstance(option.envvar, str), option.name
        assert option.envvar.startswith((own, *_SHARED, *sections)), option.envvar


def test_no_help_is_left_of_an_option_that_is_gone() -> None:
    texts = json.loads(Path(bdlab_cli.__file__).with_name("options.json").read_text("utf-8"))
    loaded = {name: load_command(name) for name in COMMANDS}
    every = {option.opts[0] for command in loaded.values() for option in _options(command)}
    for path, options in texts.items():
        command, _, child = path.partition(" ")
        named = {each.partition("/")[0].partition(" ")[0] for each in options}
        if path == "shared":
            assert named <= every
        else:
            found = loaded[command].commands[child] if child else loaded[command]
            assert named <= {option.opts[0] for option in _options(found)}, path
