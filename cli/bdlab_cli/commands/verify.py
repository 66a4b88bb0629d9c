"""`bdlab verify`: prove with numbers that each offset is stored exactly once."""

from typing import Annotated

from typer import Exit, Option

from bdlab.errors import Unhealthy
from bdlab_cli.options import StartupTimeout
from bdlab_cli.output import terminal
from bdlab_cli.output.progress import counting
from bdlab_cli.wiring.session import load_settings, open_session
from bdlab_cli.wiring.signals import stop_on_signal


def verify(
    *,
    wait: Annotated[float, Option(min=0)] = 0.0,
    limit: Annotated[int, Option(min=1)] = 20,
    rescored: str | None = None,
    export: str | None = None,
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Prove with numbers that each offset of the topic is stored exactly once.

    Exit code 0: verified; 10: not verified, and the problems are named; 1: it could not be checked."""
    from bdlab.wiring.accounting import account
    from bdlab_cli.output.accounting import show, show_export, show_rescored

    if export is not None:
        from bdlab.export import Folder
        from bdlab.export import verify as check

        with counting("positions") as tell:
            files = check(Folder(export), limit=limit, tell=tell)
        terminal.echo_json(files) if json else show_export(files)
        raise Exit(0 if files.verified else Unhealthy.exit_code)
    layers = load_settings({"startup_timeout_s": startup_timeout}, quiet=True)
    if rescored is not None:
        from bdlab.postgres import rescores

        with open_session(layers, service="verify", database=True, kafka=False) as session:
            scored = rescores.account(session, rescored, limit=limit)
        terminal.echo_json(scored) if json else show_rescored(scored, terminal.stdout())
        raise Exit(0 if scored.verified else Unhealthy.exit_code)
    with stop_on_signal() as stop, open_session(layers, stop, service="verify", database=True) as session:
        report = account(session, stop, wait_s=wait, limit=limit)
    terminal.echo_json(report) if json else show(report, terminal.stdout())
    if not report.verified:
        raise Exit(Unhealthy.exit_code)
