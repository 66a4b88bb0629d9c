"""`bdlab verify`: each offset is stored exactly once, in numbers."""

from __future__ import annotations

import typer

from bdlab_cli.options import StartupTimeout
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings
from bdlab_cli.wiring.signals import stop_on_signal

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_NOT_VERIFIED = 10


@app.command()
def verify(
    wait: float = typer.Option(
        0.0,
        "--wait",
        envvar="BDLAB_VERIFY_WAIT",
        metavar="SECONDS",
        min=0,
        help="How long a running consumer may take to catch up.",
    ),
    limit: int = typer.Option(
        20, "--limit", envvar="BDLAB_VERIFY_LIMIT", min=1, help="How many offsets of each problem are listed."
    ),
    as_json: bool = typer.Option(
        False, "--json", envvar="BDLAB_VERIFY_JSON", help="Print the report as JSON."
    ),
    startup_timeout: StartupTimeout = None,
) -> None:
    """Prove with numbers that each offset of the topic is stored exactly once.

    Exit code 0: verified; 10: not, and the problems are named; 1: it could not be checked.
    """

    layers = load_settings({"startup_timeout_s": startup_timeout}, quiet=True)

    from bdlab_cli.wiring.accounting import account

    with stop_on_signal() as stop:
        report = account(layers, stop, wait_s=wait, limit=limit)
    if as_json:
        terminal.echo_json(report)
    else:
        from bdlab_cli.output.accounting import show

        show(report, terminal.stdout())
    if not report.verified:
        raise typer.Exit(_NOT_VERIFIED)
