"""`bdlab rotate`: other credentials for everything that runs, while it runs."""

from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Exit, Option

from bdlab.errors import BdlabError, InvalidInput, Unhealthy
from bdlab_cli.completion import services
from bdlab_cli.options import AdminServers, StartupTimeout
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings
from bdlab_cli.wiring.signals import stop_on_signal


def rotate(
    target: Annotated[
        Literal["database", "kafka", "approle", "all"], Argument(envvar="BDLAB_ROTATE_TARGET", help="What to rotate.")
    ] = "all",
    *,
    service: Annotated[list[str] | None, Option(show_default="all", autocompletion=services)] = None,
    leases: bool = False,
    admin_servers: AdminServers = "",
    grace: float = 60.0,
    force: bool = False,
    dry_run: bool = False,
    json: bool = False,
    drill: bool = False,
    url: Annotated[str | None, Option(show_default="from the settings")] = None,
    requests_per_second: float = 50.0,
    seconds: float = 10.0,
    api_key_file: Path | None = None,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Rotate the database, Kafka and AppRole credentials while everything runs, without a failed request.

    The former ones end once every running client has reported that it uses the new ones. If one has not within --grace,
    its former credential stays alive and the exit code is 1: run it again to finish. A run that was killed is finished
    in the same way. With --drill the exit code is 10 if a request failed, or an offset is not stored exactly once."""
    from bdlab.vault.rotation import Rotation
    from bdlab_cli.output.rotations import drill_table, rotation_table
    from bdlab_cli.wiring.rotation_steps import rotations
    from bdlab_cli.wiring.vault_admin import read_token

    if drill and dry_run:
        raise InvalidInput("--drill rotates, and --dry-run does not: give one of them")
    key = read_token(api_key_file, "BDLAB_API_KEY")
    layers = load_settings({"startup_timeout_s": startup_timeout}, quiet=True)
    found, drilled = list[Rotation](), None
    with stop_on_signal() as stop:
        how: dict[str, Any] = {"leases": leases, "grace_s": grace, "force": force, "dry_run": dry_run}
        steps = rotations(layers, stop, target, service or (), admin_servers=admin_servers, **how)
        try:
            if drill:
                from bdlab_cli.wiring.rotation_drill import run_drill

                drilled = run_drill(layers, stop, steps, url, requests_per_second, seconds, key)
            found.extend(drilled.rotations if drilled else steps)
        except BdlabError:
            if found and not json:
                terminal.stdout().print(rotation_table(found))
            raise
    if json:
        terminal.echo_json(drilled or found)
    else:
        terminal.stdout().print(rotation_table(found))
        if drilled:
            terminal.stdout().print(drill_table(drilled.load, verified=drilled.verified))
    if incomplete := any(one.outcome == "incomplete" for one in found):
        left = "Not all is rotated; the former credentials named above still work. Run it again to finish."
        terminal.echo(left, err=True)
    if drilled and (incomplete or drilled.load.failed or not drilled.verified):
        raise Exit(Unhealthy.exit_code)
    raise Exit(BdlabError.exit_code if incomplete else 0)
