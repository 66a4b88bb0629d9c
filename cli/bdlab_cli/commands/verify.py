"""`bdlab verify`: each offset is stored exactly once, in numbers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from bdlab_cli.options import StartupTimeout
from bdlab_cli.output import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from bdlab.settings import Layers
    from bdlab.verification import ClosedPartition, PartitionReport, Report

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
    from bdlab_cli.wiring import session as wiring

    layers = wiring.layers({"startup_timeout_s": startup_timeout}, quiet=True)

    with wiring.stop_on_signal() as stop:
        report = account(layers, stop, wait_s=wait, limit=limit)
    if as_json:
        terminal.echo_json(report)
    else:
        _show(report, wiring.out())
    if not report.verified:
        raise typer.Exit(_NOT_VERIFIED)


def account(layers: Layers, stop: threading.Event, *, wait_s: float, limit: int = 20) -> Report:
    """The accounting of the topic, with the identity `verify`. Raises BdlabError."""
    from bdlab import verification
    from bdlab.kafka.admin import Admin
    from bdlab.postgres.connection import ConnectionLimits
    from bdlab.postgres.reader import Reader
    from bdlab_cli.wiring import session as wiring

    # Counting a large table takes its time.
    limits = ConnectionLimits(statement_s=1800, silence_s=3600)
    with (
        wiring.vault_session(layers, stop, service="verify", database_role="bdlab-reader") as session,
        Admin(session, client_id="bdlab-verify") as admin,
        Reader(session, application_name="bdlab verify", limits=limits) as reader,
    ):
        return verification.verify(
            admin.log_ranges,
            reader,
            wait_s=wait_s,
            limit=limit,
            identify=admin.keys_at,
            look=admin.look,
            stop=stop,
        )


def _show(report: Report, out: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    topic = report.partitions[0].topic if report.partitions else ""
    pruned = any(one.pruned for one in report.partitions)
    columns = ["log", "recorded", "stored", "duplicates", "dead letters", *(["pruned"] if pruned else [])]
    table = Table(title=f"Offsets of topic {topic}, and where each of them ended")
    table.add_column("partition", justify="right")
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("")
    for one in report.partitions:
        recorded = "-" if one.next_offset is None else f"[{one.first_offset}, {one.next_offset})"
        counts = (one.stored, one.duplicates, one.dead_letters, *((one.pruned,) if pruned else ()))
        table.add_row(
            str(one.partition),
            escape(f"[{one.log_start}, {one.end})"),
            escape(recorded),
            *(f"{count:,}" for count in counts),
            "[red]not verified[/]" if one.problems else "[green]ok[/]",
        )
    out.print(table, markup=True)
    for line in (*_never_seen(report), *_closed_logs(report)):
        out.print(line, soft_wrap=True)
    for problem in report.problems:
        out.print(problem, style="red", soft_wrap=True)
    offsets = sum((one.next_offset or 0) - (one.first_offset or 0) for one in report.partitions)
    verdict = "[green]verified[/]" if report.verified else "[red]NOT verified[/]"
    out.print(
        f"{verdict}: {_counts(report.partitions, ' + ')}, of {offsets:,} offsets"
        + (
            f"; with the closed logs {_counts([*report.partitions, *report.closed])}" if report.closed else ""
        ),
        markup=True,
        soft_wrap=True,
    )


def _never_seen(report: Report) -> Iterator[str]:
    """A line for each partition that had been cut off at its start before a consumer read it."""
    for one in report.partitions:
        if one.first_offset and one.log_start >= one.first_offset:
            yield (
                f"partition {one.partition}: offsets 0 to {one.first_offset - 1} had been deleted by the "
                "broker's retention before a consumer first read it; nothing is known of them"
            )


def _closed_logs(report: Report) -> Iterator[str]:
    """A line for each log that the broker has no more."""
    logs: dict[tuple[str, str, str], list[ClosedPartition]] = {}
    for one in report.closed:
        logs.setdefault((one.cluster_id, one.topic, one.topic_id), []).append(one)
    for (cluster_id, topic, topic_id), partitions in logs.items():
        name = f"{topic} (id {topic_id})" if topic_id else topic
        lost = sum(one.lost for one in partitions)
        yield (
            f"closed log {cluster_id}, topic {name}, {len(partitions)} partitions: {_counts(partitions)}"
            + (f", at least {lost:,} events lost" if lost else "")
        )


def _counts(partitions: Sequence[PartitionReport | ClosedPartition], between: str = ", ") -> str:
    stored = sum(one.stored for one in partitions)
    duplicates = sum(one.duplicates for one in partitions)
    letters = sum(one.dead_letters for one in partitions)
    return between.join((f"{stored:,} stored", f"{duplicates:,} duplicates", f"{letters:,} dead letters"))
