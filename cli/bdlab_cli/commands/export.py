"""`bdlab export`: stored predictions, feedback, duplicates and dead letters as Parquet."""

from typing import Annotated

from typer import Argument

from bdlab_cli.options import Moment, StartupTimeout
from bdlab_cli.output import terminal
from bdlab_cli.output.progress import counting
from bdlab_cli.wiring.session import load_settings, open_session
from bdlab_cli.wiring.signals import stop_on_signal


def export(
    out: Annotated[str, Argument(metavar="OUT", help="A folder, or an address such as s3://bucket/x.")],
    *,
    since: Moment = None,
    until: Moment = None,
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Write what is stored as Parquet files: predictions, feedback, duplicates and dead letters, cut by position.

    May be killed and run again: it goes on with what it had planned. `bdlab verify --export OUT` proves that the files
    hold each position once."""
    from bdlab import __version__
    from bdlab.export import Folder
    from bdlab.export import export as write
    from bdlab.postgres.exports import Exporter

    layers = load_settings({"startup_timeout_s": startup_timeout}, quiet=True)
    folder = Folder(out)
    with (
        stop_on_signal() as stop,
        open_session(layers, stop, service="verify", database=True, kafka=False, renewed=True) as session,
        Exporter(session) as source,
        counting("positions") as tell,
    ):
        done = write(folder, source, since, until, version=__version__, stop=stop, tell=tell)
    result = {"out": out, "counts": done.counts, "ranges": done.ranges, "files": len(done.files)}
    counts = ", ".join(f"{count:,} {table.replace('_', ' ')}" for table, count in done.counts.items())
    terminal.echo_result(result, f"{out}: {counts}, in {len(done.files):,} files", as_json=json)
