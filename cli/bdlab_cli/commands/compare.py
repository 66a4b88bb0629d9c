"""`bdlab compare`: what two versions of a model say to the same inputs."""

from typing import Annotated

from typer import Argument, Exit, Option

from bdlab.errors import Unhealthy
from bdlab.selection import Source
from bdlab_cli.options import Since, StartupTimeout, Until
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings


def compare(
    a: Annotated[str, Argument(metavar="A", help="A version, NAME@VERSION: that which serves.")],
    b: Annotated[str, Argument(metavar="B", help="Another one, which has predicted or re-scored the same inputs.")],
    *,
    since: Since = None,
    until: Until = None,
    source: Source = "real",
    slice: Annotated[list[str] | None, Option(show_default="none")] = None,  # noqa: A002
    tolerance: Annotated[float, Option(min=0)] = 0.0,
    worst: Annotated[int, Option(min=0, max=1000)] = 5,
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Compare what two versions say to the same inputs: agreement, distance, flips of classes, and errors.

    The errors (MSE of a number, error rate of classes) are of the inputs whose right answer is known. Exit code 10: B
    is worse. That is if the whole 95 % interval of B's error less A's is above --tolerance. B is not worse if none of
    it is; in between, and with fewer than 30 right answers, it is undecided, and the exit code is 0."""
    from bdlab.postgres.quality import asked
    from bdlab.wiring import quality
    from bdlab_cli.output.quality import show_comparison
    from bdlab_cli.wiring.stored import reading

    layers = load_settings({"startup_timeout_s": startup_timeout}, quiet=True)
    with reading(layers, "compare") as (reader, _):
        what = asked(since, until, source)
        found = quality.compare(reader, (a, b), what, sliced=slice or (), tolerance=tolerance, worst=worst)
    terminal.echo_json(found) if json else show_comparison(found)
    if found.verdict == "worse":
        raise Exit(Unhealthy.exit_code)
