"""`bdlab model`: write a card for a model, and check one."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option, Typer

from bdlab.errors import Unhealthy
from bdlab_cli.completion import cards
from bdlab_cli.options import Delimiter
from bdlab_cli.output import terminal

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
