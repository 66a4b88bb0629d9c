"""`bdlab predict`: predict from one input, or from a file of them, in the terminal."""

from typing import Annotated, Literal

from typer import Argument, BadParameter

from bdlab_cli.options import Delimiter, FileFormat, ModelPath, StartupTimeout
from bdlab_cli.wiring.session import load_settings


def predict(
    given: Annotated[
        list[str] | None,
        Argument(
            metavar="INPUT",
            help="The text of a model that needs just one, such as a review; or the model's fields, a "
            "NAME=VALUE each, null for none; or one JSON object. - is what standard input holds. An argument "
            "is NAME=VALUE only if it begins with a field's name: write text=... before a text that does. "
            "Put -- before one that begins with a dash.",
        ),
    ] = None,
    *,
    summary: str | None = None,
    file: str | None = None,
    kind: FileFormat = None,
    delimiter: Delimiter = ",",
    publish: bool = True,
    json: bool = False,
    output: str | None = None,
    raw_cells: bool = False,
    source: Literal["drill", "demo"] | None = None,
    run_id: str | None = None,
    skip_invalid: bool = False,
    model: ModelPath = None,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Predict from one input, or from a file of them; publish, and wait until the broker has acknowledged.

    A file is checked as a whole before its first row is published. Exit code 1 if one was not acknowledged; which ones
    is said by line. A standard output that cannot be written does not change that."""
    from bdlab.inputs.body import Validator
    from bdlab.model import load_contract
    from bdlab.model.registry import path_of
    from bdlab_cli.output.predictions import results
    from bdlab_cli.wiring.arguments import from_arguments
    from bdlab_cli.wiring.bulk_predict import Prediction, predict_file, predict_one

    layers = load_settings({"startup_timeout_s": startup_timeout, "model": {"path": model}}, quiet=True)
    path = path_of(layers.settings())
    contract = load_contract(path)
    if bool(given) == (file is not None):
        raise BadParameter(f"give either {contract.one} as the argument, or --file")
    if summary and file is not None:
        raise BadParameter(f"--summary belongs to {contract.one} that is given as the argument")
    shown = results(contract, as_json=json, output=output, published=publish, raw_cells=raw_cells)
    prediction = Prediction(layers, path, Validator(contract), shown, publish, output, run_id, source or "predict")
    if file is not None:
        predict_file(prediction, file, kind=kind, delimiter=delimiter, skip_invalid=skip_invalid)
    else:
        found = from_arguments(prediction.validator, given or [], summary, prediction.max_row_bytes)
        predict_one(prediction, found)
