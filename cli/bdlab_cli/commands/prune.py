"""`bdlab prune`: row retention."""

from __future__ import annotations

import typer

from bdlab_cli import options
from bdlab_cli.options import StartupTimeout
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings, open_session

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def prune(
    older_than: str = typer.Option(
        ...,
        "--older-than",
        envvar="BDLAB_PRUNE_OLDER_THAN",
        metavar="AGE",
        help="Delete what was recorded longer ago than this: a number and s, m, h, d or w, such as 30d.",
    ),
    dry_run: bool = typer.Option(
        False, "--dry-run", envvar="BDLAB_PRUNE_DRY_RUN", help="Only say what would be deleted."
    ),
    as_json: bool = typer.Option(
        False, "--json", envvar="BDLAB_PRUNE_JSON", help="Print a JSON array, an object a partition."
    ),
    startup_timeout: StartupTimeout = None,
) -> None:
    """Delete old rows, duplicates and dead letters, and keep the accounting right.

    Checkpoints keep how each deleted position had ended, so that `bdlab verify` still adds up. Uses the
    identity of `migrate`, which owns the tables. An event whose id was deleted would be stored again.
    """
    from datetime import UTC, datetime

    before = datetime.now(UTC) - options.age(older_than)
    layers = load_settings({"startup_timeout_s": startup_timeout}, quiet=True)
    import msgspec

    from bdlab.postgres import retention

    with open_session(layers, service="migrate", database=True, kafka=False, renewed=True) as session:
        found = []
        for one in retention.prune(session, before=before, dry_run=dry_run):
            found.append(one)
            if not as_json:
                verb = "would prune" if dry_run else "pruned"
                terminal.echo(
                    f"{one.log.topic}/{one.log.partition} of {one.log.cluster_id}: {verb} all below offset "
                    f"{one.pruned_to} ({one.stored:,} rows, {one.duplicates:,} duplicates, "
                    f"{one.dead_letters:,} dead letters)"
                )
    if as_json:
        terminal.echo_json([{**msgspec.to_builtins(one), "log": one.log._asdict()} for one in found])
    elif not found:
        terminal.echo(f"unchanged: nothing was recorded before {before:%Y-%m-%d %H:%M:%S} UTC")
