"""`bdlab train`: a model and its card from a CSV of reviews."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdlab_cli import options
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings

if TYPE_CHECKING:
    from bdlab.model.card import Card, Metrics
    from bdlab.model.training import Progress

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

#: field of Metrics -> how it is shown
_SHOWN = {
    "star_mse": "stars: MSE",
    "star_mae": "stars: MAE",
    "sentiment_auc": "sentiment: AUC",
    "sentiment_accuracy": "sentiment: accuracy",
    "negative_f1": "negative: F1",
    "negative_precision": "negative: precision",
    "negative_recall": "negative: recall",
}


@app.command()
def train(
    csv: Path = typer.Argument(
        ..., metavar="CSV", help="Reviews with the columns ProductId, Score, Summary and Text."
    ),
    output: Path = typer.Option(
        ...,
        "--output",
        envvar="BDLAB_TRAIN_OUTPUT",
        metavar="DIR",
        help="Folder for the model and its card, new or existing.",
    ),
    delimiter: Annotated[str, options.delimiter("BDLAB_TRAIN_DELIMITER")] = ",",
    folds: int = typer.Option(
        5, "--folds", envvar="BDLAB_TRAIN_FOLDS", help="Folds of the cross-validation, grouped by product."
    ),
    name: str = typer.Option(
        "reviews", "--name", envvar="BDLAB_TRAIN_NAME", help="The model's name; its files begin with it."
    ),
    model_version: str = typer.Option(
        "1.1.0",
        "--model-version",
        envvar="BDLAB_TRAIN_MODEL_VERSION",
        help="The model's version. NAME@VERSION stands in every prediction.",
    ),
    as_json: bool = typer.Option(False, "--json", envvar="BDLAB_TRAIN_JSON", help="Print the card as JSON."),
) -> None:
    """Train the model from a CSV of reviews, and write it with its card.

    The figures come from cross-validation in which no product is on both sides; the model itself is then
    trained on all reviews.
    """

    load_settings(quiet=True)
    with _progress() as progress:
        from bdlab.model.training import train as run

        card = run(
            csv,
            output,
            progress=progress,
            folds=folds,
            delimiter=delimiter,
            name=name,
            version=model_version,
        )
    if as_json:
        import msgspec

        terminal.echo_encoded(msgspec.json.format(msgspec.json.encode(card), indent=2))
    else:
        _show(card, output)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal; elsewhere nothing."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = terminal.stderr()
    columns = (
        TextColumn("{task.description:<26}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("loading scikit-learn", total=None)

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield report


def _show(card: Card, output: Path) -> None:
    from rich.table import Table

    from bdlab.model.card import SUFFIX

    out = terminal.stdout()
    assert card.data is not None, "training writes it"  # noqa: S101
    assert card.validation is not None, "training writes it"  # noqa: S101
    validation = card.validation
    table = Table(
        title=f"{card.title}: {card.data.rows} reviews, {card.data.products} products, "
        f"{validation.folds} folds grouped by product"
    )
    table.add_column("figure")
    table.add_column("model", justify="right")
    table.add_column("worst fold … best fold", justify="right")
    table.add_column("constant guess", justify="right")
    for field, label in _SHOWN.items():
        table.add_row(
            label,
            _number(validation.metrics, field),
            _range(validation.per_fold, field),
            _number(validation.constant, field),
        )
    out.print(table)
    for file, entry in card.files.items():
        out.print(
            f"{output / file}  {entry.bytes / 1000:.0f} kB  sha256 {entry.sha256[:12]}...", soft_wrap=True
        )
    path = output / (card.name + SUFFIX)
    out.print(f"{path}  the card", soft_wrap=True)
    terminal.stderr().print(
        f"Try it: bdlab predict --no-publish --model {path} 'Great taste.'\n"
        f"Switch a local stack to it: Ctrl-C, then bdlab up --model {path}\n"
        f"Elsewhere: BDLAB_MODEL_PATH={path.resolve()} for `serve` and `predict`, and restart `serve`. "
        "`bdlab status` tells where the two differ.",
        soft_wrap=True,
    )


def _number(metrics: Metrics, field: str) -> str:
    value = getattr(metrics, field)
    return "-" if value is None else f"{value:.4f}"


def _range(folds: tuple[Metrics, ...], field: str) -> str:
    values = sorted(value for fold in folds if (value := getattr(fold, field)) is not None)
    if not values:
        return "-"
    worst, best = (values[-1], values[0]) if field.startswith("star_") else (values[0], values[-1])
    return f"{worst:.4f} … {best:.4f}"
