"""The front door names every command and every setting, with its default."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bdlab.settings import Secret, Settings
from bdlab_cli.app import COMMANDS

_README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def _defaults() -> Iterator[tuple[str, str]]:
    for section in Settings.__struct_fields__:
        value = getattr(Settings(), section)
        if isinstance(value, msgspec.Struct):
            yield from (
                (f"{section}.{name}", _shown(getattr(value, name))) for name in value.__struct_fields__
            )
        else:
            yield section, _shown(value)


def _shown(value: object) -> str:
    value = value.reveal() if isinstance(value, Secret) else value
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`" if value != "" else ""


@pytest.mark.parametrize(("name", "default"), list(_defaults()))
def test_every_setting_stands_there_with_its_default(name: str, default: str) -> None:
    rows = [line for line in _README.splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1
    assert default in rows[0].split("|")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_stands_there(command: str) -> None:
    assert f"`bdlab {command}" in _README
