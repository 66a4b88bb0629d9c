"""Each command that prints JSON has its schema in docs/json, made from the types; a schema refuses what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from infra.docs import results

from bdlab_cli.app import COMMANDS, load_command
from tests.json_results import as_documented

#: They write a log, and no result.
_DAEMONS = {"serve", "consume", "console"}


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", {})
    yield from [(name, command)] if not children else ()
    for child in children.values():
        yield from _commands(child, f"{name} {child.name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_json_and_its_schema_is_there(name: str) -> None:
    for full, command in _commands(load_command(name), name):
        has_json = any("--json" in option.opts for option in command.params)
        assert has_json == (name not in _DAEMONS), full
        assert (full in results.RESULTS) == has_json, full


def test_the_schemas_are_those_of_the_types() -> None:
    """Otherwise run: python infra/docs/results.py"""
    written = {path.name: path.read_text("utf-8") for path in results.FOLDER.glob("*.json")}
    assert written == results.files()


def test_the_page_of_the_commands_names_each_schema() -> None:
    page = (Path(results.FOLDER).parent / "commands.md").read_text("utf-8")
    assert not [name for name in results.files() if f"(json/{name})" not in page]


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("fetch-kafka", '{"version": "4", "folder": "/", "outcome": "maybe"}'),
        ("fetch-kafka", '{"version": "4", "folder": "/", "outcome": "fetched", "more": 1}'),
        ("migrate", '{"what": "schema", "change": ""}\n{"what": "contract"}'),
        ("status", '{"state": "well", "checks": []}'),
        ("restore", '{"folder": "/", "made_at": "yesterday"}'),
    ],
)
def test_a_schema_refuses_what_is_otherwise(command: str, output: str) -> None:
    with pytest.raises(jsonschema_rs.ValidationError):
        as_documented(command, output)
