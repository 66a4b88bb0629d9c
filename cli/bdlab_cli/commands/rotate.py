"""`bdlab rotate`: other credentials for everything that runs, while it runs."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import typer

from bdlab_cli.options import AdminServers, StartupTimeout
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings
from bdlab_cli.wiring.signals import stop_on_signal

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from rich.table import Table

    from bdlab.settings import Layers
    from bdlab.vault.rotation.run import Rotation

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_COULD_NOT = 1
_NOT_PASSED = 10
_INCOMPLETE = "Not all is rotated; the former credentials named above still work. Run it again to finish."
_STYLES = {"unchanged": "dim", "incomplete": "red", "would rotate": "yellow", "would finish": "yellow"}


class Target(StrEnum):
    database = "database"
    kafka = "kafka"
    approle = "approle"
    all = "all"


@app.command()
def rotate(
    target: Target = typer.Argument(Target.all, envvar="BDLAB_ROTATE_TARGET", help="What to rotate."),
    service: list[str] = typer.Option(
        [],
        "--service",
        envvar="BDLAB_ROTATE_SERVICE",
        metavar="NAME",
        help="Only this service's Kafka users and secret id; repeatable.",
    ),
    leases: bool = typer.Option(
        False,
        "--leases",
        envvar="BDLAB_ROTATE_LEASES",
        help="With the database: end every database login too; the services take fresh ones at once.",
    ),
    admin_servers: AdminServers = "",
    grace: float = typer.Option(
        60.0,
        "--grace",
        envvar="BDLAB_ROTATE_GRACE",
        metavar="SECONDS",
        help="How long running clients may take to report that they switched.",
    ),
    force: bool = typer.Option(
        False,
        "--force",
        envvar="BDLAB_ROTATE_FORCE",
        help="End the former credentials after the grace also where a client has not reported.",
    ),
    dry_run: bool = typer.Option(
        False,
        "--dry-run",
        envvar="BDLAB_ROTATE_DRY_RUN",
        help="Say what would be done, and do nothing.",
    ),
    as_json: bool = typer.Option(
        False, "--json", envvar="BDLAB_ROTATE_JSON", help="Print a JSON array, an object a credential."
    ),
    drill: bool = typer.Option(
        False,
        "--drill",
        envvar="BDLAB_ROTATE_DRILL",
        help="Post reviews (their rows' source is `drill`) to the API meanwhile, say what its callers "
        "noticed, and verify.",
    ),
    url: str | None = typer.Option(
        None,
        "--url",
        envvar="BDLAB_API_URL",
        metavar="URL",
        show_default="from the settings",
        help="The API that --drill posts to.",
    ),
    requests_per_second: float = typer.Option(
        50.0,
        "--requests-per-second",
        envvar="BDLAB_REQUESTS_PER_SECOND",
        metavar="N",
        help="How many reviews --drill posts.",
    ),
    seconds: float = typer.Option(
        10.0,
        "--seconds",
        envvar="BDLAB_ROTATE_SECONDS",
        metavar="SECONDS",
        help="How long --drill posts at least; always until 2 s after the last rotation.",
    ),
    startup_timeout: StartupTimeout = None,
) -> None:
    """Rotate the database, Kafka and AppRole credentials while everything runs, without a failed request.

    The former ones end once every running client has reported that it uses the new ones. Where one has not
    within --grace, its former credential stays alive and the exit code is 1: run it again to finish. So is a
    run that was killed. With --drill the exit code is 10 where a request failed, or not all held.
    """
    from bdlab.errors import BdlabError, InvalidInput
    from bdlab_cli.wiring.rotation_steps import rotations

    if drill and dry_run:
        raise InvalidInput("--drill rotates, and --dry-run does not: give one of them")
    layers = load_settings({"startup_timeout_s": startup_timeout}, quiet=True)
    talk = terminal.stderr()

    def progress(line: str) -> None:
        talk.print(line, style="dim", soft_wrap=True)

    with stop_on_signal() as stop:
        steps = rotations(
            layers,
            stop,
            targets=[each for each in Target if target in (each, Target.all)],
            services=service,
            leases=leases,
            admin_servers=admin_servers,
            grace_s=grace,
            force=force,
            dry_run=dry_run,
            progress=progress,
        )
        if drill:
            _drill(layers, stop, steps, url, requests_per_second, seconds, progress, as_json=as_json)
            return
        found: list[Rotation] = []
        try:
            found.extend(steps)
        except BdlabError:
            if found and not as_json:
                from bdlab_cli.output.rotations import rotation_table

                terminal.stdout().print(rotation_table(found))
            raise
    if not _tell(found, found, as_json=as_json):
        raise typer.Exit(_COULD_NOT)


def _drill(
    layers: Layers,
    stop: threading.Event,
    steps: Iterator[Rotation],
    url: str | None,
    requests_per_second: float,
    seconds: float,
    progress: Callable[[str], None],
    *,
    as_json: bool,
) -> None:
    from bdlab_cli.output.rotations import drill_table
    from bdlab_cli.wiring.rotation_drill import drill

    found = drill(
        layers,
        stop,
        steps,
        url=url,
        requests_per_second=requests_per_second,
        seconds=seconds,
        progress=progress,
    )
    _tell(found, found.rotations, drill_table(found.load, verified=found.verified), as_json=as_json)
    if not found.passed:
        raise typer.Exit(_NOT_PASSED)


def _tell(result: object, rotations: list[Rotation], *more: Table, as_json: bool) -> bool:
    """Print `result` as JSON, or the rotations and `more` as tables; whether all is rotated."""

    if as_json:
        terminal.echo_json(result)
    else:
        from bdlab_cli.output.rotations import rotation_table

        terminal.stdout().print(rotation_table(rotations), *more)
    complete = all(one.outcome != "incomplete" for one in rotations)
    if not complete:
        terminal.stderr().print(_INCOMPLETE)
    return complete
