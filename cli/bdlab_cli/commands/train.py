"""`bdlab train`: train a model from a CSV of reviews or from stored inputs with feedback; write it with its card."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

from bdlab.selection import Source
from bdlab_cli.completion import cards
from bdlab_cli.options import Delimiter, Since, StartupTimeout, Until
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings


def train(
    csv: Annotated[
        Path | None, Argument(metavar="CSV", help="Reviews with the columns ProductId, Score, Summary and Text.")
    ] = None,
    *,
    output: Annotated[Path, Option()],
    from_store: bool = False,
    since: Since = None,
    until: Until = None,
    source: Source = "real",
    like: Annotated[str | None, Option(autocompletion=cards)] = None,
    delimiter: Delimiter = ",",
    folds: int = 5,
    name: Annotated[str | None, Option(show_default="reviews")] = None,
    model_version: Annotated[str | None, Option(show_default="1.1.0; to be given with --from-store")] = None,
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Train a model from a CSV of reviews, from stored inputs and their newest feedback, or both.

    The figures come from cross-validation in which no product, or group of the contract, is on both sides; the model
    itself is then trained on all."""
    from bdlab_cli.output.models import show_training, training_progress

    if not (csv or from_store):
        raise BadParameter("give a CSV, --from-store, or both")
    if not from_store and (since or until or like or source != "real"):
        raise BadParameter("--since, --until, --source and --like are of --from-store, which is not given")
    if from_store and not model_version:
        raise BadParameter("--from-store makes a new version: give it one with --model-version")
    layers = load_settings({"startup_timeout_s": startup_timeout}, quiet=True)
    with training_progress() as tell, ExitStack() as stack:
        from bdlab.model import refitting, training

        stored = None
        if from_store:
            from bdlab.postgres.quality import asked
            from bdlab_cli.wiring.stored import labelled

            stored = stack.enter_context(labelled(layers, like, asked(since, until, source)))
        name, version = name or training.NAME, model_version or training.VERSION
        if stored and like and (estimator := refitting.estimator_of(like)):
            if csv:
                raise BadParameter("an estimator is fitted on stored inputs alone, so --like takes no CSV")
            card = refitting.refit(estimator, output, stored, folds=folds, name=name, version=version, progress=tell)
        else:
            card = training.train(
                csv, output, stored=stored, progress=tell, folds=folds, delimiter=delimiter, name=name, version=version
            )
    if json:
        import msgspec

        terminal.echo_encoded(msgspec.json.format(msgspec.json.encode(card), indent=2))
    else:
        show_training(card, output)
