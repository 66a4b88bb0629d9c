"""`bdlab rescore`: score stored inputs with another version of the model."""

from typing import Annotated

from typer import Option

from bdlab.errors import BdlabError, InvalidInput
from bdlab_cli.completion import cards, versions
from bdlab_cli.options import Moment, StartupTimeout
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings


def rescore(
    *,
    model: Annotated[str | None, Option(autocompletion=versions)] = None,
    card: Annotated[str | None, Option(autocompletion=cards)] = None,
    since: Moment = None,
    until: Moment = None,
    follow: bool = False,
    results: Annotated[str | None, Option("--from")] = None,
    jobs: Annotated[int | None, Option(min=1, max=1000, show_default="one for each core")] = None,
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Score stored inputs with another version of the model, each once.

    May be killed and run again, and run on several machines at once. Exit code 0: all that was asked for is scored; 1:
    not all is."""
    from bdlab_cli.wiring.rescore import rescore_stored

    if (model is None) == (card is None):
        raise InvalidInput("give either --model or --card", hint="--model NAME@VERSION is of the registry.")
    if follow and until:
        raise InvalidInput("--follow goes on until a signal, so it takes no --until")
    layers = load_settings({"startup_timeout_s": startup_timeout}, quiet=True)
    if results is not None:
        from bdlab_cli.wiring.scored_files import bring_in

        if model is None or since or until or follow or jobs:
            raise InvalidInput("--from goes with --model alone", hint="It brings in what another program has scored.")
        done = bring_in(layers, model, results)
    else:
        done = rescore_stored(layers, model, card, since=since, until=until, follow=follow, jobs=jobs)
    known = f", {done.known:,} of which had a score already" if done.known else ""
    text = f"{done.predictions:,} predictions scored again by {done.model} in {done.seconds:,.1f} s "
    text += f"({done.predictions / (done.seconds or 1):,.0f}/s){known}"
    terminal.echo_result(done, text, as_json=json)
    if done.ranges_left:
        hint = "The same command goes on where this one ended."
        raise BdlabError(f"{done.ranges_left:,} ranges of offsets are left", hint=hint)
