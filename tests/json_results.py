"""What a command prints with --json, held against its schema in docs/json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs

_SCHEMAS = Path(__file__).parents[1] / "docs" / "json"


def as_documented(command: str, output: str) -> Any:
    """The one value in `output`, or a list of those of each line, which are as the schema of `command` says."""
    schema = json.loads((_SCHEMAS / f"{command.replace(' ', '-')}.json").read_text("utf-8"))
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    lines = schema["title"].endswith("each line")
    values = [json.loads(line) for line in output.splitlines()] if lines else [json.loads(output)]
    assert values, f"bdlab {command} printed nothing"
    for value in values:
        validator.validate(value)
    return values if lines else values[0]
