"""`bdlab feedback`: say what the right answers to predictions were."""

from typing import Annotated

from typer import Argument, BadParameter

from bdlab_cli.options import Delimiter, FileFormat, ModelPath, StartupTimeout
from bdlab_cli.wiring.session import load_settings


def feedback(
    given: Annotated[
        list[str] | None,
        Argument(
            metavar="PREDICTION_ID NAME=VALUE",
            help="The prediction's id, and of each output whose right answer is known NAME=VALUE; or one JSON object.",
        ),
    ] = None,
    *,
    file: str | None = None,
    kind: FileFormat = None,
    delimiter: Delimiter = ",",
    source: str = "feedback",
    run_id: str | None = None,
    skip_invalid: bool = False,
    json: bool = False,
    model: ModelPath = None,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Say what the right answer to a prediction was, or to those of a file; publish, and wait for the acknowledgement.

    All feedback is kept, and of a prediction the newest counts. Whether the prediction is known is not looked up."""
    from bdlab.model import load_contract
    from bdlab_cli.wiring.arguments import from_arguments
    from bdlab_cli.wiring.bulk_feedback import FeedbackRun
    from bdlab_cli.wiring.bulk_predict import predict_file, predict_one

    layers = load_settings({"startup_timeout_s": startup_timeout, "model": {"path": model}}, quiet=True)
    if bool(given) == (file is not None):
        raise BadParameter("give either a prediction's id and its right answer as arguments, or --file")
    contract = load_contract(layers.settings().model.path)
    run = FeedbackRun(layers, contract, source, run_id, as_json=json, each=file is None)
    if file is not None:
        predict_file(run, file, kind=kind, delimiter=delimiter, skip_invalid=skip_invalid)
        return
    first, *others = given or []
    named = first if "=" in first or first.lstrip().startswith("{") or first == "-" else f"prediction_id={first}"
    predict_one(run, from_arguments(run.validator, [named, *others], None, run.max_row_bytes))
