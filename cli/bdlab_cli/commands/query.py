"""`bdlab query`: stored predictions."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

from typer import BadParameter, Option

from bdlab.errors import BdlabError
from bdlab.selection import Parameters, Selection, Source
from bdlab_cli.options import Moment, StartupTimeout
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings, open_session
from bdlab_cli.wiring.signals import stop_on_signal


def query(
    *,
    since: Moment = None,
    until: Moment = None,
    model: str | None = None,
    source: Source = "real",
    where: list[str] | None = None,
    limit: Annotated[int, Option(min=0)] = 20,
    json: bool = False,
    csv: bool = False,
    output: str | None = None,
    raw_cells: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Show stored predictions, the newest first, as `GET /predictions` has them.

    It reads page by page, so that --limit 0 gives a table of any size in the memory of a page."""
    from bdlab.postgres.reader import Reader
    from bdlab.postgres.session import ConnectionLimits
    from bdlab_cli.output.predictions import RowFile, Stored, csv_writer

    if json + csv + (output is not None) > 1:
        raise BadParameter("give one of --json, --csv and --output")
    layers = load_settings({"startup_timeout_s": startup_timeout}, quiet=True)
    limits = ConnectionLimits(statement_s=600, silence_s=660)  # what no index finds takes long
    with (
        stop_on_signal() as stop,
        open_session(layers, stop, service="verify", database=True, kafka=False) as session,
        Reader(session, application_name="bdlab query", limits=limits) as reader,
        ExitStack() as kept,
    ):
        contract = reader.contract()
        shown, conditions = Stored(contract), Parameters(contract).where(where or [])
        wanted = Selection(since=since, until=until, model=model, source=source, where=conditions)
        file = kept.enter_context(RowFile(shown.types, output, raw_cells=raw_cells)) if output else None
        write = file.add if file else csv_writer(terminal, shown.types, raw_cells=raw_cells) if csv else None
        count, more = 0, False
        for rows, after in reader.pages(wanted, limit):
            if stop.is_set() or terminal.failed():
                raise BdlabError("interrupted; not all predictions are shown")
            for row in rows if write or json else ():
                write(shown.fields(row)) if write else terminal.echo_json(row)
            if rows and not write and not json:
                terminal.stdout().print(shown.table(rows))
            count, more = count + len(rows), after is not None
        if file:
            file.complete()
    if not json or more:
        told = f"; there are more: --limit {limit} was reached, and 0 is all" if more else ""
        terminal.echo(f"{count:,} stored {contract.noun if count == 1 else contract.plural}{told}", err=True)
