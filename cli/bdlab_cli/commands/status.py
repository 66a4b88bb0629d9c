"""`bdlab status`: check everything that the pipeline stands on, by name."""

from typing import Annotated

from typer import Exit, Option

from bdlab_cli.completion import checks
from bdlab_cli.wiring.session import load_settings, tell_of_stack
from bdlab_cli.wiring.signals import stop_on_signal


def status(
    *,
    check: Annotated[list[str] | None, Option(show_default="all", autocompletion=checks)] = None,
    json: bool = False,
    watch: bool = False,
    interval: Annotated[float, Option(min=0.1)] = 2.0,
    wait_healthy: bool = False,
    timeout: Annotated[float, Option(min=0)] = 60.0,
    api_url: Annotated[str | None, Option(show_default="from the settings")] = None,
) -> None:
    """Check Vault, Kafka, PostgreSQL, the model, the API, and the consumers if their address is known.

    Exit code 0: all is healthy, or degraded and working; 10: something is unhealthy; 1: something could not
    be checked, and nothing else is unhealthy."""
    from bdlab.wiring.checks import Checker, chosen
    from bdlab_cli.output.health import EXIT_CODES, follow

    layers = load_settings(quiet=True)
    wanted = chosen(check or (), layers.settings().sink)
    if any(name.startswith("vault.") for name in wanted):
        tell_of_stack(layers.settings().vault)
    with stop_on_signal() as stop, Checker(layers, wanted, api_url=api_url) as checker:
        patience_s = timeout if wait_healthy else None
        report = follow(checker.report, stop, interval, patience_s, watch=watch, as_json=json)
    raise Exit(EXIT_CODES[report.state])
