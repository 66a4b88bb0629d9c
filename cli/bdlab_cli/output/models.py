"""Models as commands show them: how one was trained, what was guessed of a card, and what is wrong with one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.progress import TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from bdlab.contract import example_of
from bdlab.model.scorer import SUFFIX, Card, contract_of
from bdlab_cli.output import terminal
from bdlab_cli.output.progress import no_line, progress_bar

if TYPE_CHECKING:  # they import numpy and scikit-learn
    from bdlab.model.draft import Draft, Report

_CURL = 'curl -X POST "http://localhost:8000/predict" -H "Content-Type: application/json" -d '
#: figure -> how it is shown
_SHOWN = {"star_mse": "stars: MSE", "star_mae": "stars: MAE", "sentiment_auc": "sentiment: AUC"}
_SHOWN |= {"sentiment_accuracy": "sentiment: accuracy", "negative_f1": "negative: F1"}
_SHOWN |= {"negative_precision": "negative: precision", "negative_recall": "negative: recall"}


@contextmanager
def training_progress() -> Iterator[Callable[[str, float], None]]:
    """Show a bar at a terminal, with the time left; it gets what is being done, and the share done."""
    columns = (TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
    with no_line(), progress_bar(*columns) as bar:
        task = bar.add_task("loading scikit-learn", total=None, left="")
        begin = monotonic()

        def report(what: str, share: float) -> None:
            spent = monotonic() - begin
            # From all that was done: the speed of the last seconds differs between the steps.
            left_s = spent / share - spent if 0.02 < share < 1 and spent > 2 else 0
            time = f"{left_s / 60:.0f} min" if left_s > 100 else f"{left_s:.0f} s"
            left = f"about {time} left" if left_s else ""
            bar.update(task, description=what, completed=share, total=1, left=left)

        yield report


def show_training(card: Card, output: Path) -> None:
    """Print the figures and the files of a model that was trained into `output`."""
    out = terminal.stdout()
    data, validation = card.data or {}, card.validation or {}
    if store := data.get("store"):
        sources = ", ".join(f"{count:,} from {source}" for source, count in store["feedback_sources"].items())
        when = f"{store['stored_from']} to {store['stored_to']}"
        out.print(f"from the store: {store['rows']:,} rows, {when}; feedback: {sources}", soft_wrap=True)
    if "products" in data:
        figures = (Column(name, justify="right") for name in ("model", "worst fold … best fold", "constant guess"))
        title = f"{card.title}: {data['rows']} reviews, {data['products']} products"
        table = Table("figure", *figures, title=f"{title}, {validation['folds']} folds grouped by product")
        for field, label in _SHOWN.items():
            model, constant = validation["metrics"][field], validation["constant"][field]
            table.add_row(label, _number(model), _range(validation["per_fold"], field), _number(constant))
        out.print(table)
    else:
        found = ", ".join(f"{name} {value:.4g}" for name, value in validation["metrics"].items())
        out.print(f"{card.title}: {found}, by {validation['folds']} folds; {validation['method']}", soft_wrap=True)
    for file, entry in card.files.items():
        out.print(f"{output / file}  {entry.bytes / 1000:.0f} kB  sha256 {entry.sha256[:12]}...", soft_wrap=True)
    path = output / (card.name + SUFFIX)
    out.print(f"{path}  the card", soft_wrap=True)
    example = shlex.quote(json.dumps(example_of(contract_of(card, path))))
    terminal.echo(
        f"Try it: bdlab predict --no-publish --model {path} {example}\n"
        f"Add it to the registry of models: bdlab model add {path}\n"
        f"Switch a local stack to it: Ctrl-C, then bdlab up --model {path}\n"
        f"Elsewhere: BDLAB_MODEL_PATH={path.resolve()} for `serve` and `predict`, and restart `serve`. "
        "`bdlab status` tells where the two differ.",
        err=True,
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _range(folds: Sequence[Mapping[str, Any]], field: str) -> str:
    values = sorted(fold[field] for fold in folds if fold[field] is not None)
    if not values:
        return "-"
    worst, best = (values[-1], values[0]) if field.startswith("star_") else (values[0], values[-1])
    return f"{worst:.4f} … {best:.4f}"


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
    path = shlex.quote(draft.path)
    todo = f"Read and correct it, then: bdlab model check {path} --sample ROWS, bdlab up --model {path}"
    terminal.echo(todo, err=True)


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


def show_versions(found: Sequence[Mapping[str, Any]]) -> None:
    """Print the versions of the registry, and other models that served in the last minute."""
    table = Table("model", "format", "added", "by", "promoted", Column("last minute", justify="right"))
    for each in found:
        added = each["added_at"].isoformat(" ", "seconds") if each["added_at"] else "not in the registry"
        promoted = "yes" if each["promoted"] else ""
        table.add_row(each["model"], each["format"], added, each["added_by"], promoted, f"{each['share']:.0%}")
    if found:
        terminal.stdout().print(table)
    else:
        terminal.echo("nothing was added, and nothing was predicted in the last minute")


def show_version(found: Mapping[str, Any]) -> None:
    """Print a version: its card, and when it was promoted."""
    terminal.echo(f"{found['model']}  sha256 {found['sha256']}")
    terminal.echo(f"added {found['added_at'].isoformat(' ', 'seconds')} by {found['added_by']}")
    for each in found["promotions"]:
        why = f": {each['why']}" if each["why"] else ""
        terminal.echo(f"promoted {each['promoted_at'].isoformat(' ', 'seconds')} by {each['promoted_by']}{why}")
    terminal.echo(json.dumps(found["card"], indent=2, ensure_ascii=False))
