"""`bdlab model`: write a card for a model, and check one; add it to the registry, and promote it."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option, Typer

from bdlab.errors import InvalidInput, Unhealthy
from bdlab_cli.completion import cards, versions
from bdlab_cli.options import Delimiter, Registry, StartupTimeout
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings

Named = Annotated[str, Argument(metavar="NAME@VERSION", autocompletion=versions)]
app = Typer(add_completion=False, no_args_is_help=True)


@app.command()
def init(
    file: Annotated[Path, Argument(metavar="FILE", help="A fitted model: .joblib, .skops or .onnx.")],
    *,
    sample: Annotated[Path, Option()],
    name: Annotated[str, Option(show_default="that of the file")] = "",
    model_version: str = "1.0.0",
    output: Annotated[Path | None, Option(show_default="that of FILE")] = None,
    target: str = "",
    bounds: bool = False,
    trust: bool = False,
    force: bool = False,
    contract: Path | None = None,
    delimiter: Delimiter = ",",
    json: bool = False,
) -> None:
    """Write a card for a model, with a contract that is guessed from the model and a sample of rows.

    The model predicts the sample first. Loading a joblib file runs its code: name only files that you trust."""
    from bdlab.model.draft import draft_card
    from bdlab_cli.output.models import show_draft

    draft = draft_card(
        file,
        sample,
        name=name,
        version=model_version,
        output=output,
        target=target,
        bounds=bounds,
        trust=trust,
        force=force,
        contract=contract,
        delimiter=delimiter,
    )
    terminal.echo_json(draft) if json else show_draft(draft)


@app.command()
def check(
    card: Annotated[str, Argument(metavar="CARD", help="A model card, or its folder.", autocompletion=cards)],
    *,
    sample: Path | None = None,
    delimiter: Delimiter = ",",
    json: bool = False,
) -> None:
    """Load a model, predict a sample, and show the table's columns and a request.

    Exit code 10: something is wrong, and each finding says what to do."""
    from bdlab.model.draft import inspect
    from bdlab.postgres.contracts import column_type
    from bdlab_cli.output.models import report_of, show_report

    report = inspect(card, sample, delimiter=delimiter)
    fields = report.contract or ()
    columns = {each.column: column_type(each) + " NOT NULL" * (not each.nullable) for each in fields}
    shown = report_of(report, columns)
    terminal.echo_json(shown) if json else show_report(shown)
    if report.findings:
        raise Exit(Unhealthy.exit_code)


@app.command()
def add(
    card: Annotated[str, Argument(metavar="CARD", help="A model card, or its folder.", autocompletion=cards)],
    *,
    registry: Registry = None,
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Try a model, and copy its card and the file that scores into the registry.

    Takes term tables, ONNX and skops with known types: what is promoted must not run code where it is loaded. A version
    never changes."""
    from bdlab.model.registry import pack
    from bdlab.wiring.models import add_version
    from bdlab_cli.wiring.stored import open_models

    packed = pack(card)
    with open_models({"model": {"registry": registry}, "startup_timeout_s": startup_timeout}) as (tables, settings):
        change = add_version(tables, settings, packed)
    terminal.echo_change(packed.version.title, change, as_json=json)


@app.command("list")
def list_versions(*, json: bool = False, startup_timeout: StartupTimeout = None) -> None:
    """List the versions in the registry, and what share of the last minute's stored predictions each has made."""
    from bdlab_cli.output.models import show_versions
    from bdlab_cli.wiring.stored import open_models

    with open_models({"startup_timeout_s": startup_timeout}) as (tables, _):
        found = tables.ask("versions", "models")
    terminal.echo_json(found) if json else show_versions(found)


@app.command()
def show(model: Named, *, json: bool = False, startup_timeout: StartupTimeout = None) -> None:
    """Show a version: its card with the figures of its training, who added it, and when it was promoted."""
    from bdlab.wiring.models import version_row
    from bdlab_cli.output.models import show_version
    from bdlab_cli.wiring.stored import open_models

    with open_models({"startup_timeout_s": startup_timeout}) as (tables, _):
        found = version_row(tables.ask, model)
        history = [each for each in tables.ask("promotions", "models") if each["model"] == model]
    shown = {"model": model, **found, "promotions": history}
    terminal.echo_json(shown) if json else show_version(shown)


@app.command()
def promote(
    model: Named,
    *,
    why: str = "",
    if_better: bool = False,
    tolerance: Annotated[float, Option(min=0)] = 0.0,
    registry: Registry = None,
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Have every `serve` without a pinned model take this version within some seconds.

    Before that it is read from the registry, checked, and tried here. With --if-better it is compared with the version
    that serves: exit code 10 if it is worse, and 1 if feedback does not tell, as `bdlab compare` says."""
    from bdlab.wiring.models import promote_version
    from bdlab.wiring.quality import refuse_worse
    from bdlab_cli.wiring.stored import open_models, reading

    given = {"model": {"registry": registry}, "startup_timeout_s": startup_timeout}
    if if_better:
        with reading(load_settings(given, quiet=True), "model", service="model") as (reader, _):
            refuse_worse(reader, model, tolerance)
    elif tolerance:
        raise InvalidInput("--tolerance is that of --if-better, which is not given")
    with open_models(given) as (tables, settings):
        change = promote_version(tables, settings, model, why)
    terminal.echo_change(model, change, as_json=json)


@app.command()
def rollback(
    *, why: str = "", registry: Registry = None, json: bool = False, startup_timeout: StartupTimeout = None
) -> None:
    """Promote what served before the version that serves now; once more goes back further."""
    from bdlab.wiring.models import former, promote_version
    from bdlab_cli.wiring.stored import open_models

    with open_models({"model": {"registry": registry}, "startup_timeout_s": startup_timeout}) as (tables, settings):
        model = former([each["model"] for each in tables.ask("promotions", "models")])
        change = promote_version(tables, settings, model, why or "rollback")
    terminal.echo_change(model, change, as_json=json)
