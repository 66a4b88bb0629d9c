"""`bdlab model`: write a card for a model, and check one."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option, Typer

from bdlab_cli.options import Delimiter
from bdlab_cli.output import terminal

app = Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

_UNHEALTHY = 10
_Json = Annotated[bool, Option("--json", help="Print the result as JSON.")]


@app.command()
def init(
    file: Annotated[Path, Argument(metavar="FILE", help="A fitted model: .joblib, .skops or .onnx.")],
    *,
    sample: Annotated[Path, Option(metavar="CSV", help="Rows as the model was fitted with.")],
    name: Annotated[str, Option(show_default="that of the file", help="The model's name.")] = "",
    model_version: Annotated[
        str, Option(help="The model's version. NAME@VERSION stands in every prediction.")
    ] = "1.0.0",
    output: Annotated[
        Path | None,
        Option(metavar="DIR", show_default="that of FILE", help="Folder for the card and a copy of FILE."),
    ] = None,
    target: Annotated[
        str, Option(metavar="COLUMN", help="The sample's column of the truth, which is no input.")
    ] = "",
    bounds: Annotated[bool, Option("--bounds", help="Bound numbers by those of the sample.")] = False,
    trust: Annotated[
        bool, Option("--trust", help="Trust the types in a skops file that skops does not know.")
    ] = False,
    force: Annotated[bool, Option("--force", help="Replace a card.")] = False,
    contract: Annotated[
        Path | None,
        Option(metavar="CARD", help="Take the contract of this card, as for a model that was trained again."),
    ] = None,
    delimiter: Delimiter = ",",
    json: _Json = False,
) -> None:
    """Write a card for a model, with a contract that is guessed from the model and a sample of rows.

    The model predicts the sample first. Loading a joblib file runs its code: name only files that you trust.
    """
    from bdlab.model.draft import draft_card
    from bdlab_cli.output.model_cards import show_draft

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
    if json:
        terminal.echo_json(draft)
    else:
        show_draft(draft)


@app.command()
def check(
    card: Annotated[str, Argument(metavar="CARD", help="A model card, or its folder.")],
    *,
    sample: Annotated[
        Path | None, Option(metavar="FILE", help="Rows to predict: CSV, JSON lines or Parquet.")
    ] = None,
    delimiter: Delimiter = ",",
    json: _Json = False,
) -> None:
    """Load a model, predict a sample, and show the table's columns and a request.

    Exit code 10: something is wrong, and each finding says what to do.
    """
    from bdlab.model.inspection import inspect
    from bdlab.postgres.contracts import column_type
    from bdlab_cli.output.model_cards import report_of, show_report

    report = inspect(card, sample, delimiter=delimiter)
    fields = report.contract or ()
    columns = {each.column: column_type(each) + " NOT NULL" * (not each.nullable) for each in fields}
    shown = report_of(report, columns)
    if json:
        terminal.echo_json(shown)
    else:
        show_report(shown)
    if report.findings:
        raise Exit(_UNHEALTHY)
