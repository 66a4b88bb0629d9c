"""`bdlab train`: train a model from a CSV of reviews, and write it with its card."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bdlab_cli.options import Delimiter
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings


def train(
    csv: Annotated[Path, Argument(metavar="CSV", help="Reviews with the columns ProductId, Score, Summary and Text.")],
    *,
    output: Annotated[Path, Option()],
    delimiter: Delimiter = ",",
    folds: int = 5,
    name: str = "reviews",
    model_version: str = "1.1.0",
    json: bool = False,
) -> None:
    """Train the model from a CSV of reviews, and write it with its card.

    The figures come from cross-validation in which no product is on both sides; the model itself is then
    trained on all reviews."""
    from bdlab_cli.output.models import show_training, training_progress

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
        show_training(card, output)
