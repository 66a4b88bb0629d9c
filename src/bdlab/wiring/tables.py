"""The figures of versions and of a comparison as tables, for a terminal and a page; `tables.toml` says which."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from bdlab.quality import Comparison

PARTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
Figures = tuple[str, dict[str, bool], list[list[Any]]]


def tables(kind: str, document: Mapping[str, Any]) -> Iterator[Figures]:
    """Yield the title, the heads, with whether a column has numbers, and the rows of each table of a `version` or a
    `comparison` that has rows; a column without any value is left out."""
    for part in PARTS[kind]:
        found = rows(document, part)
        columns = {head: [at(row, path) for row in found] for head, path in part["columns"].items()}
        columns = {head: cells for head, cells in columns.items() if {*map(type, cells)} - {type(None)}}
        if columns:
            cells = [list(row) for row in zip(*columns.values(), strict=True)]
            numbers = {head: any(isinstance(cell, int | float) for cell in each) for head, each in columns.items()}
            yield part["title"].format(**document), numbers, cells


def document_of(found: Comparison) -> dict[str, Any]:
    """Return a comparison as its tables want it: with `flips` of all outputs."""
    flips = [
        {"name": name, "a": a, "b": b, "rows": count}
        for name, output in found.outputs.items()
        for a, said in (output.flips or {}).items()
        for b, count in said.items()
        if a != b
    ]
    return {**to_builtins(found), "flips": flips, "judged": found.judged or "the prediction"}


def rows(document: Mapping[str, Any], part: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the rows that a part of `tables.toml` names in a document."""
    found = document[part["rows"]] if "rows" in part else [document]
    named = [{"name": name, **row} for name, row in found.items()] if isinstance(found, dict) else found
    there = [row for row in named if "only" not in part or row[part["only"]]]
    return sorted(there, key=lambda row: -row[part["order"]]) if "order" in part else there


def at(found: Any, path: str) -> Any:
    """Return what a document has at a path such as `distances.3`; None if not even the beginning of it is there."""
    for step in path.split("."):
        found = found.get(step) if isinstance(found, dict) else found and found[int(step)]
    return found
