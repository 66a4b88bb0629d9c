"""The figures of versions and of a comparison, as tables, and as gauges for Prometheus. `tables.toml` says which."""

import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from msgspec import to_builtins
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from rich.table import Column, Table

from bdlab.errors import InvalidInput
from bdlab.quality import Comparison, Report
from bdlab.wiring.tables import PARTS, at, document_of, rows, tables
from bdlab_cli.output import terminal


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
    _print("comparison", document_of(found))
    terminal.echo(f"B is {found.verdict}: {found.why}")


def _print(kind: str, document: Mapping[str, Any]) -> None:
    """Print the tables of a document that have rows; numbers stand on the right."""
    for title, heads, lines in tables(kind, document):
        columns = [Column(head, justify="right" if number else "left") for head, number in heads.items()]
        table = Table(*columns, title=title, title_justify="left")
        for row in lines:
            table.add_row(*map(_cell, row))
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
        for part in PARTS["gauge"]:
            for row in rows(one, part):
                labels = {label: text.format(**row) for label, text in part["labels"].items()}
                if (value := at(row, part["value"])) is not None:
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
