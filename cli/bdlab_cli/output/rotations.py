"""Rotations as `bdlab rotate` prints them, and what callers of the API noticed of a drill."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from bdlab_cli.output import terminal

if TYPE_CHECKING:  # they import clients
    from bdlab.load import LoadReport
    from bdlab.vault.rotation import Rotation

_STYLES = {"unchanged": "dim", "incomplete": "red", "would rotate": "yellow", "would finish": "yellow"}


def progress(line: str) -> None:
    """Print on standard error what has begun."""
    terminal.stderr().print(line, style="dim", soft_wrap=True)


def rotation_table(found: list[Rotation]) -> Group:
    """Return a row for each credential, and their details below."""
    table = Table("what", "service", "outcome", "old", "new", Column("seconds", justify="right"))
    for one in found:
        outcome = Text(one.outcome, style=_STYLES.get(one.outcome, "green"))
        table.add_row(one.what, one.service, outcome, one.before, one.after, f"{one.seconds:.1f}")
    details = [Text(f"{one.what} {one.service}".rstrip() + f": {one.detail}") for one in found if one.detail]
    return Group(table, *details)


def drill_table(load: LoadReport, *, verified: bool) -> Table:
    """Return what the callers of the API noticed, and whether every offset is stored once."""
    shown = Table("", Column(justify="right"), title="What the callers noticed", show_header=False)
    failed = Text(f"{load.failed:,}", style="red" if load.failed else "green")
    verdict = Text("verified", style="green") if verified else Text("NOT verified", style="red")
    shown.add_row("requests sent", f"{load.sent:,}")
    shown.add_row("requests failed", failed)
    for reason, count in load.failures.items():
        shown.add_row(f"  {reason}", f"{count:,}")
    shown.add_row("longest pause between two acknowledgements", f"{load.longest_pause_ms:,.0f} ms")
    shown.add_row("answered within, half of them", f"{load.p50_ms:,.1f} ms")
    shown.add_row("answered within, 99 of 100", f"{load.p99_ms:,.1f} ms")
    shown.add_row("under load for", f"{load.seconds:.1f} s")
    shown.add_row("every offset stored exactly once", verdict)
    return shown
