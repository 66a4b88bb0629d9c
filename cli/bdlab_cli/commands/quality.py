"""`bdlab quality`: how good the stored predictions are, and how far inputs have drifted."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

from typer import Exit, Option

from bdlab.errors import BdlabError, Unhealthy
from bdlab.selection import Source
from bdlab_cli.options import StartupTimeout, Until, moment
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings


def quality(
    *,
    since: Annotated[datetime | None, Option("--since", "--last", parser=moment, show_default="7d")] = None,
    until: Until = None,
    source: Source = "real",
    model: Annotated[str, Option(show_default="each that has served")] = "",
    rescored: bool = False,
    slice: Annotated[list[str] | None, Option(show_default="the worst of all")] = None,  # noqa: A002
    max_psi: Annotated[float | None, Option(min=0)] = None,
    max_error: Annotated[float | None, Option(min=0)] = None,
    min_rows: Annotated[int, Option(min=1)] = 200,
    textfile: Path | None = None,
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Show how good the stored predictions are: the error by feedback beside the card's, calibration, drift.

    Exit code 10: an error or a drift is past its limit; 1: nothing can be said of a limit that was given, as there are
    too few rows, no feedback, or no profile in the card. Neither is judged by fewer than --min-rows."""
    from bdlab.postgres.quality import asked
    from bdlab.quality import report_of
    from bdlab.wiring.quality import judge
    from bdlab_cli.output.quality import show, write_gauges
    from bdlab_cli.wiring.stored import reading

    layers = load_settings({"startup_timeout_s": startup_timeout}, quiet=True)
    what = asked(since or moment("7d"), until, source, model=model or None, rescored=rescored)
    with reading(layers, "quality") as (reader, settings):
        versions = judge(reader, settings, what, sliced=slice or (), min_rows=min_rows)
    report = report_of(versions, max_psi, max_error, min_rows)
    terminal.echo_json(report) if json else show(report)
    if textfile:
        write_gauges(report, textfile)
    if report.alarms:
        raise Exit(Unhealthy.exit_code)
    if report.unknown:
        raise BdlabError("; ".join(report.unknown), hint="Give a longer time (--last), or a lower --min-rows.")
