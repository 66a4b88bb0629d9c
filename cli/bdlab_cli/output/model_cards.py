"""Cards of models, as `bdlab model` shows what was guessed of them, and what is wrong with them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from bdlab.contract import example_of
from bdlab_cli.output import terminal

if TYPE_CHECKING:  # they import numpy and scikit-learn
    from bdlab.model.draft import Draft, Report

_CURL = 'curl -X POST "http://localhost:8000/predict" -H "Content-Type: application/json" -d '


def show_draft(draft: Draft) -> None:
    """Print the guesses, what the model said to the sample, and what to do next."""
    table = Table("input", "schema", "why", title=f"{draft.card.title}: what was guessed from the sample")
    for guess in draft.guesses:
        table.add_row(guess.field, json.dumps(guess.schema, ensure_ascii=False), guess.why)
    if draft.guesses:
        terminal.stdout().print(table)
    output = (draft.card.contract or {})["output"]["properties"]
    terminal.echo(f"output     {json.dumps(output, ensure_ascii=False)}")
    terminal.echo(f"predicted  {json.dumps(draft.predicted, ensure_ascii=False)}")
    for name, file in draft.card.files.items():
        if file.trusted:
            terminal.echo(f"trusted    {name}: {', '.join(file.trusted)}")
    terminal.echo(f"card       {draft.path}")
    quoted = shlex.quote(draft.path)
    terminal.echo(
        f"Read and correct it, then: bdlab model check {quoted} --sample ROWS, bdlab up --model {quoted}", err=True
    )


def report_of(report: Report, columns: Mapping[str, str]) -> dict[str, Any]:
    """Return a report as JSON, with the types of the table's `columns`."""
    contract = report.contract
    return {
        "model": report.model or None,
        "contract": contract and contract.number,
        "columns": columns,
        "request": contract and _CURL + shlex.quote(json.dumps(example_of(contract), ensure_ascii=False)),
        "rows": report.rows,
        "findings": report.findings,
    }


def show_report(report: Mapping[str, Any]) -> None:
    """Print a report of `report_of`."""
    if report["columns"]:
        table = Table("column", "type", title=f"predictions, contract {report['contract']}")
        for column in report["columns"].items():
            table.add_row(*column)
        terminal.stdout().print(table)
        terminal.echo(report["request"])
    for finding in report["findings"]:
        terminal.echo(f"wrong: {finding.what}\n  {finding.hint}".rstrip())
    if not report["findings"]:
        rows = f", and predicts {report['rows']} rows" if report["rows"] else ""
        terminal.echo(f"{report['model']} can be served{rows}")
