"""`bdlab predict`: one review, or a file of them, from the terminal."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bdlab_cli import options
from bdlab_cli.options import StartupTimeout
from bdlab_cli.wiring.session import load_settings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Kind(StrEnum):
    csv = "csv"
    jsonl = "jsonl"


class Source(StrEnum):
    drill = "drill"
    demo = "demo"


@app.command()
def predict(
    text: str | None = typer.Argument(
        None,
        help="The review; - is the one that standard input holds. Put -- before one that begins with a dash.",
    ),
    summary: str = typer.Option("", "--summary", envvar="BDLAB_PREDICT_SUMMARY", help="Its headline."),
    file: str | None = typer.Option(
        None,
        "--file",
        envvar="BDLAB_PREDICT_FILE",
        metavar="FILE",
        help="CSV with the columns Text, Summary, HelpfulnessNumerator, HelpfulnessDenominator (only Text "
        "has to be there), or JSON lines; - is standard input.",
    ),
    kind: Kind | None = typer.Option(
        None,
        "--format",
        envvar="BDLAB_PREDICT_FORMAT",
        metavar="KIND",
        help="Of the file: csv or jsonl",
        show_default="by suffix or content",
    ),
    delimiter: Annotated[str, options.delimiter("BDLAB_PREDICT_DELIMITER")] = ",",
    publish: bool = typer.Option(
        True,
        "--publish/--no-publish",
        envvar="BDLAB_PREDICT_PUBLISH",
        help="Publish and wait for the acknowledgement, or score here and touch no server.",
    ),
    as_json: bool = typer.Option(
        False, "--json", envvar="BDLAB_PREDICT_JSON", help="One JSON object a review on standard output."
    ),
    output: Path | None = typer.Option(
        None,
        "--output",
        envvar="BDLAB_PREDICT_OUTPUT",
        metavar="FILE",
        help="Write the results to this .csv or .jsonl file once all are there; until then, and after a "
        "failure, it stays what it was, and what is known is beside it in NAME.partial-*.",
    ),
    raw_cells: bool = typer.Option(
        False,
        "--raw-cells",
        envvar="BDLAB_PREDICT_RAW_CELLS",
        help="Write cells that a spreadsheet takes for a formula (= + - @) without an apostrophe in front.",
    ),
    source: Source | None = typer.Option(
        None,
        "--source",
        envvar="BDLAB_PREDICT_SOURCE",
        metavar="KIND",
        help="drill or demo: the reviews are no user's, and the lists of stored predictions leave their "
        "rows out.",
    ),
    run_id: str | None = typer.Option(
        None,
        "--run-id",
        envvar="BDLAB_PREDICT_RUN_ID",
        help="Name of the run. The same file under the same name has the same ids, so that running it again "
        "completes it without duplicates.",
    ),
    skip_invalid: bool = typer.Option(
        False,
        "--skip-invalid",
        envvar="BDLAB_PREDICT_SKIP_INVALID",
        help="Leave out rows that are no reviews; without it nothing is published if there is one.",
    ),
    model: str | None = typer.Option(
        None,
        "--model",
        envvar="BDLAB_MODEL_PATH",
        help="Model card or joblib file; `shipped` is bdlab's own",
        show_default="the shipped one",
    ),
    startup_timeout: StartupTimeout = None,
) -> None:
    """Predict from one review, or from a file of them; publish, and wait until the broker has acknowledged.

    A file is checked as a whole before its first row is published. Exit code 1 if a review was not
    acknowledged; which ones is said by line. A standard output that cannot be written does not change that.
    """
    if (text is None) == (file is None):
        raise typer.BadParameter("give either a review as the argument, or --file")
    if summary and file is not None:
        raise typer.BadParameter("--summary belongs to a review that is given as the argument")

    from bdlab_cli.output.predictions import results
    from bdlab_cli.wiring.bulk_predict import Prediction, from_argument, from_file, read_review

    layers = load_settings({"startup_timeout_s": startup_timeout, "model": {"path": model}}, quiet=True)
    shown = results(as_json=as_json, output=output, published=publish, raw_cells=raw_cells)
    prediction = Prediction(
        layers, shown, publish=publish, output=output, run_id=run_id, source=source or "predict"
    )
    if file is not None:
        from_file(
            prediction,
            file,
            kind=kind.value if kind else None,
            delimiter=delimiter,
            skip_invalid=skip_invalid,
        )
    elif text is not None:
        review = read_review(prediction.max_row_bytes) if text == "-" else text
        from_argument(prediction, review, summary)
