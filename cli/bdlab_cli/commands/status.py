"""`bdlab status`: named checks of everything the pipeline stands on."""

from __future__ import annotations

import typer

from bdlab_cli.wiring.session import load_settings
from bdlab_cli.wiring.signals import stop_on_signal

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def status(
    check: list[str] = typer.Option(
        [],
        "--check",
        envvar="BDLAB_STATUS_CHECK",
        metavar="NAME",
        help="Only this check, or group (vault, kafka, postgres, log, model, api, consumer, certificates); "
        "repeatable. What is not asked for is not contacted.",
    ),
    as_json: bool = typer.Option(False, "--json", envvar="BDLAB_STATUS_JSON", help="JSON, a line a report."),
    watch: bool = typer.Option(
        False, "--watch", envvar="BDLAB_STATUS_WATCH", help="Go on until interrupted."
    ),
    interval: float = typer.Option(
        2.0, "--interval", envvar="BDLAB_STATUS_INTERVAL", min=0.1, help="Seconds between two looks."
    ),
    wait_healthy: bool = typer.Option(
        False, "--wait-healthy", envvar="BDLAB_STATUS_WAIT_HEALTHY", help="Go on until all is healthy."
    ),
    timeout: float = typer.Option(
        60.0, "--timeout", envvar="BDLAB_STATUS_TIMEOUT", min=0, help="Seconds that --wait-healthy waits."
    ),
    api_url: str | None = typer.Option(
        None, "--api-url", envvar="BDLAB_API_URL", help="Address of the API", show_default="from the settings"
    ),
) -> None:
    """Check Vault, Kafka, PostgreSQL, the model, the API, and the consumers where their address is known.

    Exit code 0: all is healthy, or degraded and working; 10: something is unhealthy; 1: something could not
    be checked, and nothing else is unhealthy.
    """
    from bdlab_cli.output.health import EXIT_CODES, follow
    from bdlab_cli.wiring.checks import Checker, chosen

    layers = load_settings(quiet=True)
    wanted = chosen(check, layers.settings().sink)
    with stop_on_signal() as stop, Checker(layers, wanted, api_url=api_url) as checker:
        report = follow(
            checker.report,
            stop,
            as_json=as_json,
            watch=watch,
            interval_s=interval,
            wait_healthy_s=timeout if wait_healthy else None,
        )
    raise typer.Exit(EXIT_CODES[report.state])
