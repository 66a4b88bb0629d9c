"""The figures of versions and of a comparison, as tables, and as gauges for Prometheus. `quality.toml` says which."""

import time
import tomllib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from msgspec import to_builtins
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from rich.table import Column, Table

from bdlab.errors import InvalidInput
from bdlab.quality import Comparison, Report
from bdlab_cli.output import terminal

_PARTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


def show(report: Report) -> None:
    """Print the figures of each version, and what is past a limit."""
    if not report.versions:
        terminal.echo("no predictions are stored in this time, from this source")
    for one in report.versions:
        delay = [timedelta(seconds=round(each)) for each in one.delay_s or ()]
        after = f", after {delay[0]} (median), {delay[1]} (95 %)" if delay else ""
        share = f"{one.labelled:,} ({one.labelled / one.rows:.1%})"
        terminal.echo(f"{one.model}: {one.rows:,} predictions; feedback for {share}{after}")
        _print("version", to_builtins(one))
        for note in one.notes:
            terminal.echo(f"  {note}")
    for alarm in report.alarms:
        terminal.stdout().print(f"ALARM {alarm}", style="red", soft_wrap=True)


def show_comparison(found: Comparison) -> None:
    """Print how two versions differ, and the verdict."""
    flips = [
        {"name": name, "a": a, "b": b, "rows": rows}
        for name, output in found.outputs.items()
        for a, said in (output.flips or {}).items()
        for b, rows in said.items()
        if a != b
    ]
    _print("comparison", to_builtins(found) | {"flips": flips, "judged": found.judged or "the prediction"})
    terminal.echo(f"B is {found.verdict}: {found.why}")


def _rows(document: Mapping[str, Any], part: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found = document[part["rows"]] if "rows" in part else [document]
    rows = [{"name": name, **row} for name, row in found.items()] if isinstance(found, dict) else found
    rows = [row for row in rows if "only" not in part or row[part["only"]]]
    return sorted(rows, key=lambda row: -row[part["order"]]) if "order" in part else rows


def _at(found: Any, path: str) -> Any:
    """Return what a document has at a path such as `distances.3`; None if not even the beginning of it is there."""
    for step in path.split("."):
        found = found.get(step) if isinstance(found, dict) else found and found[int(step)]
    return found


def _print(parts: str, document: Mapping[str, Any]) -> None:
    """Print the tables of a document that have rows; numbers stand on the right."""
    for part in _PARTS[parts]:
        rows = _rows(document, part)
        columns = {head: [_at(row, path) for row in rows] for head, path in part["columns"].items()}
        columns = {head: cells for head, cells in columns.items() if {*map(type, cells)} - {type(None)}}
        if columns:
            right = {head: any(isinstance(cell, int | float) for cell in cells) for head, cells in columns.items()}
            heads = (Column(head, justify="right" if right[head] else "left") for head in columns)
            table = Table(*heads, title=part["title"].format(**document), title_justify="left")
            for cells in zip(*columns.values(), strict=True):
                table.add_row(*map(_cell, cells))
            terminal.stdout().print(table)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        text = " ".join(_cell(each) for each in value.values() if each is not None)
        return text if len(text) <= 80 else text[:79] + "…"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def write_gauges(report: Report, file: Path) -> None:
    """Replace a file for node_exporter's textfile collector by the figures of the report. Raises InvalidInput."""
    registry, gauges = CollectorRegistry(), dict[str, Gauge]()
    for one in map(to_builtins, report.versions):
        for part in _PARTS["gauge"]:
            for row in _rows(one, part):
                labels = {label: text.format(**row) for label, text in part["labels"].items()}
                if (value := _at(row, part["value"])) is not None:
                    if part["name"] not in gauges:
                        gauges[part["name"]] = _gauge(part["name"], registry, "model", *labels)
                    gauges[part["name"]].labels(model=one["model"], **labels).set(value)
    whole = {"alarms": len(report.alarms), "unknown": len(report.unknown), "timestamp_seconds": time.time()}
    for name, figure in whole.items():
        _gauge(name, registry).set(figure)
    try:
        write_to_textfile(str(file), registry)
    except OSError as error:
        raise InvalidInput(f"--textfile {file} cannot be written: {error.strerror}") from error


def _gauge(name: str, registry: CollectorRegistry, *labels: str) -> Gauge:
    return Gauge(f"bdlab_quality_{name}", "docs/metrics.md says what it is", labels, registry=registry)
