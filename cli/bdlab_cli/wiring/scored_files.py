"""Scores that another program has written as Parquet files, brought into the database."""

import time
from contextlib import closing

from uuid_utils.compat import uuid7

from bdlab.errors import InvalidInput, ModelError
from bdlab.inputs import remote
from bdlab.model.arrow import read_scores
from bdlab.model.registry import parse_title
from bdlab.postgres.reader import Reader
from bdlab.postgres.rescores import NOTHING, Ranges
from bdlab.rescoring import Rescored, Window
from bdlab.settings import Layers
from bdlab_cli.output.progress import counting
from bdlab_cli.wiring.session import open_session
from bdlab_cli.wiring.signals import stop_on_signal


def bring_in(layers: Layers, model: str, place: str) -> Rescored:
    """Store the scores in the Parquet files of a folder or an address, a transaction for each. Raises BdlabError."""
    parse_title(model)
    files = sorted(name for name in remote.names(place) if name.endswith(".parquet") and "/." not in f"/{name}")
    if not files:
        raise InvalidInput(f"{place} has no .parquet file")
    began, predictions, known, run, window = time.monotonic(), 0, 0, str(uuid7()), NOTHING
    with (
        stop_on_signal() as stop,
        open_session(layers, stop, service="rescore", database=True, kafka=False, renewed=True) as session,
        closing(Reader(session, application_name="bdlab rescore")) as reader,
        closing(Ranges(session, model, contract := reader.contract(), run)) as ranges,
        counting("files") as tell,
    ):
        for number, name in enumerate(files):
            if stop.is_set():
                raise InvalidInput("interrupted", hint="The same command goes on: what is stored stays, once.")
            with remote.opened(f"{place.rstrip('/')}/{name}") as file:
                try:
                    done, own = ranges.bring_in(read_scores(file, name, model, contract))
                except ModelError as error:
                    raise InvalidInput(f"{name}: {error.message}") from error
            ranges.finish(own)
            predictions, known = predictions + done.predictions, known + done.known
            window = Window(*map(list.__add__, window, own))
            tell(number + 1, len(files))
        ranges.finish(window)  # two files may share a range
        left, _ = ranges.left(window)
        count, _ = ranges.done()
    return Rescored(
        model=model,
        run=run,
        ranges=count,
        predictions=predictions,
        known=known,
        ranges_left=left,
        seconds=round(time.monotonic() - began, 3),
    )
