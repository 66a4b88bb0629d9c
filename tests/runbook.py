"""Reads a runbook: the shell blocks of a Markdown file, and how each is meant to be tried.

A comment before a block says it, and a ```text block after it shows lines of the output, `…` being anything:

    <!-- run: local -->     in another terminal of a running local stack
    <!-- run: up -->        in the first terminal, where it stays until...
    <!-- run: ctrl-c -->    ...this, which has no block
    <!-- run: shamir -->    against a Vault that is opened by three of five key shares
    <!-- run: compose -->   in `infra/` beside running containers
    <!-- read: compose -->  its syntax is checked
    <!-- read: own -->      needs servers of somebody's own: its syntax is checked
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_COMMENT = re.compile(r"<!-- (run|read): (\w[\w-]*) -->")
_FENCE = re.compile(r"^\s*```(\w*)$")


@dataclass(frozen=True)
class Block:
    """`how` is `run` or `read`, empty where no comment says so; `shown` are the lines that it is to print."""

    section: str
    line: int
    how: str
    where: str
    script: str
    shown: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.section}, line {self.line}"


def read(file: Path) -> list[Block]:
    """The blocks in their order. Raises ValueError for a fence that is not closed."""
    blocks: list[Block] = []
    section, marker, lines = "", ("", ""), iter(enumerate(file.read_text("utf-8").splitlines(), 1))
    for number, line in lines:
        if line.startswith("## "):
            section = line[3:]
        elif found := _COMMENT.search(line):
            marker = (found[1], found[2])
            if found[2] == "ctrl-c":
                blocks.append(Block(section, number, *marker, ""))
                marker = ("", "")
        elif fence := _FENCE.match(line):
            body = _body(lines, number)
            if fence[1] == "bash":
                blocks.append(Block(section, number, *marker, "\n".join(body)))
                marker = ("", "")
            elif fence[1] == "text" and blocks:
                last = blocks.pop()
                blocks.append(Block(last.section, last.line, last.how, last.where, last.script, tuple(body)))
    return blocks


def _body(lines: object, began: int) -> list[str]:
    body: list[str] = []
    for _, line in lines:  # type: ignore[attr-defined]
        if _FENCE.match(line):
            return body
        body.append(line)
    raise ValueError(f"the block of line {began} has no end")


def not_shown(output: str, shown: Sequence[str]) -> str:
    """The first line of `shown` that does not come in `output` after those before it; empty if all do."""
    place = 0
    for line in shown:
        parts = (r"\s+".join(re.escape(word) for word in part.split()) for part in line.split("…"))
        wanted = ".*".join(parts)
        found = re.compile(wanted).search(output, place)
        if found is None:
            return line
        place = found.end()
    return ""
