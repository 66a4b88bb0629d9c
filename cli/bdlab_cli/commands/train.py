"""`bdlab train`: train a model from a CSV of reviews, and write it with its card."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bdlab_cli.options import Delimiter
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings


def train(
    csv: Annotated[
        Path, Argument(metavar="CSV", help="Reviews with the columns ProductId, Score, Summary and Text.")
    ],
    *,
    output: Annotated[
        Path, Option(metavar="DIR", help="Folder for the model and its card, new or existing.")
    ],
    delimiter: Delimiter = ",",
    folds: Annotated[int, Option(help="Folds of the cross-validation, grouped by product.")] = 5,
    name: Annotated[str, Option(help="The model's name; its files begin with it.")] = "reviews",
    model_version: Annotated[
        str, Option(help="The model's version. NAME@VERSION stands in every prediction.")
    ] = "1.1.0",
    json: Annotated[bool, Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Train the model from a CSV of reviews, and write it with its card.

    The figures come from cross-validation in which no product is on both sides; the model itself is then
    trained on all reviews.
    """
    from bdlab_cli.output.training import show, training_progress

    load_settings(quiet=True)
    with training_progress() as progress:
        from bdlab.model import training

        card = training.train(
            csv, output, progress=progress, folds=folds, delimiter=delimiter, name=name, version=model_version
        )
    if json:
        import msgspec

        terminal.echo_encoded(msgspec.json.format(msgspec.json.encode(card), indent=2))
    else:
        show(card, output)
