"""The README names every command and every setting with its default; developers' pages name what is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bdlab.settings import Secret, Settings
from bdlab_cli.app import COMMANDS

_ROOT = Path(__file__).parents[2]
_README = (_ROOT / "README.md").read_text("utf-8")


def _defaults() -> Iterator[tuple[str, str]]:
    for section in Settings.__struct_fields__:
        value = getattr(Settings(), section)
        if isinstance(value, msgspec.Struct):
            yield from ((f"{section}.{name}", _shown(getattr(value, name))) for name in value.__struct_fields__)
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


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_each_file_that_a_page_for_developers_names_is_there(page: str) -> None:
    text = (_ROOT / page).read_text("utf-8")
    linked = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    named = re.findall(r"(?<!\[)`((?:src|cli|tests|docs|infra|vault|benchmarks)/[\w./*-]+)`", text)
    paths = [(_ROOT / page).parent / path for path in linked] + [_ROOT / path for path in named]
    assert len(paths) > 15
    assert not [str(path) for path in paths if not list(path.parent.glob(path.name))]


def test_the_map_names_each_room() -> None:
    text = (_ROOT / "docs/architecture.md").read_text("utf-8")
    rooms = {path.stem for path in (_ROOT / "src/bdlab").iterdir() if not path.name.startswith(("_", "py."))}
    assert "sink" in rooms
    assert not {room for room in rooms if f"`{room}`" not in text}
