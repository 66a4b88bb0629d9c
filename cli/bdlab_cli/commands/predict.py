"""`bdlab predict`: predict from one review, or from a file of them, in the terminal."""

from __future__ import annotations

from typing import Annotated, Literal

from typer import Argument, BadParameter, Option

from bdlab_cli.options import Delimiter, ModelPath, StartupTimeout
from bdlab_cli.wiring.session import load_settings


def predict(
    text: Annotated[
        str | None,
        Argument(
            help="The review; - is the one that standard input holds. Put -- before one that begins with a "
            "dash."
        ),
    ] = None,
    *,
    summary: Annotated[str, Option(help="Its headline.")] = "",
    file: Annotated[
        str | None,
        Option(
            metavar="FILE",
            help="CSV with the columns Text, Summary, HelpfulnessNumerator, HelpfulnessDenominator (only "
            "Text has to be there), JSON lines or Parquet; - is standard input; or an address such as s3://.",
        ),
    ] = None,
    kind: Annotated[
        Literal["csv", "jsonl", "parquet"] | None,
        Option(
            "--format",
            metavar="KIND",
            help="Of the file: csv, jsonl or parquet",
            show_default="by suffix or content",
        ),
    ] = None,
    delimiter: Delimiter = ",",
    publish: Annotated[
        bool, Option(help="Publish and wait for the acknowledgement, or score here and touch no server.")
    ] = True,
    json: Annotated[bool, Option("--json", help="One JSON object a review on standard output.")] = False,
    output: Annotated[
        str | None,
        Option(
            metavar="FILE",
            help="Write the results to this .csv, .jsonl or .parquet file, or to such an address, once all "
            "are there; until then, and after a failure, it stays what it was, and what is known is beside "
            "it in NAME.partial-*.",
        ),
    ] = None,
    raw_cells: Annotated[
        bool,
        Option(
            "--raw-cells",
            help="Write cells that a spreadsheet takes for a formula (= + - @) without an apostrophe before.",
        ),
    ] = False,
    source: Annotated[
        Literal["drill", "demo"] | None,
        Option(
            metavar="KIND",
            help="drill or demo: the reviews are no user's, and the lists of stored predictions leave their "
            "rows out.",
        ),
    ] = None,
    run_id: Annotated[
        str | None,
        Option(
            help="Name of the run. The same file under the same name has the same ids, so that running it "
            "again completes it without duplicates."
        ),
    ] = None,
    skip_invalid: Annotated[
        bool,
        Option(
            "--skip-invalid",
            help="Leave out rows that are no reviews; without it nothing is published if there is one.",
        ),
    ] = False,
    model: ModelPath = None,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Predict from one review, or from a file of them; publish, and wait until the broker has acknowledged.

    A file is checked as a whole before its first row is published. Exit code 1 if a review was not
    acknowledged; which ones is said by line. A standard output that cannot be written does not change that.
    """
    if (text is None) == (file is None):
        raise BadParameter("give either a review as the argument, or --file")
    if summary and file is not None:
        raise BadParameter("--summary belongs to a review that is given as the argument")

    from bdlab_cli.output.predictions import results
    from bdlab_cli.wiring.bulk_predict import Prediction, from_argument, from_file, read_review

    layers = load_settings({"startup_timeout_s": startup_timeout, "model": {"path": model}}, quiet=True)
    shown = results(as_json=json, output=output, published=publish, raw_cells=raw_cells)
    prediction = Prediction(
        layers, shown, publish=publish, output=output, run_id=run_id, source=source or "predict"
    )
    if file is not None:
        from_file(prediction, file, kind=kind, delimiter=delimiter, skip_invalid=skip_invalid)
    elif text is not None:
        review = read_review(prediction.max_row_bytes) if text == "-" else text
        from_argument(prediction, review, summary)
