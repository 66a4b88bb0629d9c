"""`bdlab prune`: delete old rows."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from typer import Option

from bdlab_cli.options import StartupTimeout, age
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings, open_session


def prune(
    *,
    older_than: Annotated[timedelta, Option(parser=age)],
    dry_run: bool = False,
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Delete old rows, duplicates and dead letters, and keep the accounting right.

    Checkpoints keep how each deleted position had ended, so that `bdlab verify` still adds up. The identity of
    `migrate` is used, which owns the tables. An event whose id was deleted would be stored again."""
    import msgspec

    from bdlab.postgres.accounts import prune as delete_old

    before = datetime.now(UTC) - older_than
    layers = load_settings({"startup_timeout_s": startup_timeout}, quiet=True)
    with open_session(layers, service="migrate", database=True, kafka=False, renewed=True) as session:
        found = []
        for one in delete_old(session, before=before, dry_run=dry_run):
            found.append(one)
            if not json:
                verb = "would prune" if dry_run else "pruned"
                counts = f"{one.stored:,} rows, {one.duplicates:,} duplicates, {one.dead_letters:,} dead letters"
                where = f"{one.log.topic}/{one.log.partition} of {one.log.cluster_id}"
                terminal.echo(f"{where}: {verb} all below offset {one.pruned_to} ({counts})")
    if json:
        terminal.echo_json([{**msgspec.to_builtins(one), "log": one.log._asdict()} for one in found])
    elif not found:
        terminal.echo(f"unchanged: nothing was recorded before {before:%Y-%m-%d %H:%M:%S} UTC")
