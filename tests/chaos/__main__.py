"""`python -m tests.chaos`: a storm of any length, its faults told as they hit, its report at the end."""

from __future__ import annotations

import secrets
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.chaos import storm
from tests.chaos.advertised import KINDS
from tests.chaos.storm import Report
from tests.chaos.system import System


def main(  # noqa: PLR0917 - one parameter an option
    predictions: Annotated[int, typer.Option(help="Acknowledged predictions to reach.")] = 1_000_000,
    faults: Annotated[int, typer.Option(help="Faults to inject at least.")] = 200,
    broker: Annotated[
        str, typer.Option(help="tansu; kafka, which is killed, too; cluster, three of them; or zookeeper.")
    ] = "kafka",
    clients: Annotated[int, typer.Option(help="Clients that post at the same time.")] = 24,
    consumers: Annotated[int, typer.Option(help="Consumers that share the topic.")] = 2,
    seed: Annotated[int | None, typer.Option(help="Repeats the choice of faults; random by default.")] = None,
    limit: Annotated[float, typer.Option(help="Seconds after which to stop all the same.")] = 7200,
    report: Annotated[Path | None, typer.Option(help="Write the report there as JSON, too.")] = None,
) -> None:
    """Run a storm of faults over the whole pipeline and prove that nothing was lost or stored twice."""
    console = Console(highlight=False)
    chosen: int = secrets.randbelow(1_000_000) if seed is None else seed
    if broker not in KINDS:
        raise typer.BadParameter(f"{broker!r} is none of {', '.join(KINDS)}", param_hint="--broker")
    console.print(f"storm: seed {chosen}, broker {broker}, {predictions:,} predictions, {faults} faults")
    with (
        tempfile.TemporaryDirectory(prefix="bdlab-storm-") as folder,
        System(Path(folder), broker=broker, consumers=consumers) as system,
    ):
        found = storm.run(
            system,
            seed=chosen,
            predictions=predictions,
            faults=faults,
            clients=clients,
            limit_s=limit,
            tell=console.print,
        )
    if report:
        report.write_text(found.as_json() + "\n", "utf-8")
    _show(found, console)
    reached = found.acknowledged >= predictions and sum(found.faults.values()) >= faults
    if not reached:
        console.print(f"stopped after {limit:g} s, before the numbers asked for were reached")
    sys.exit(0 if found.held and reached else 1)


def _show(report: Report, console: Console) -> None:
    table = Table("fault", "times", title=f"{sum(report.faults.values())} faults in {report.seconds} s")
    for kind, times in report.faults.items():
        table.add_row(kind, str(times))
    console.print(table)
    duplicates, models = report.duplicates, ", ".join(f"{name} {count:,}" for name, count in report.models.items())
    console.print(
        f"predictions: sent {report.sent:,} · acknowledged {report.acknowledged:,} · stored {report.stored:,} · "
        f"duplicates recorded {duplicates.get('prediction', 0):,}\n"
        f"feedback: sent {report.feedback_sent:,} · acknowledged {report.feedback_acknowledged:,} · "
        f"stored {report.feedback_stored:,}, {report.feedback_of_nobody:,} of it of unknown predictions · "
        f"duplicates recorded {duplicates.get('feedback', 0):,}\n"
        f"promotions: {report.promotions_reported:,} reported, {report.promotions:,} in the table · "
        f"{report.promotions_tried_again:,} commands killed or failed, and run again · predictions by {models}\n"
        f"scored again: {report.rescored:,}, {report.rescored_at_the_end:,} of them after the storm\n"
        f"dead letters: {report.dead_letters:,} · failed requests, all retried: {report.failed_requests}\n"
        f"longest time without an acknowledgement: {report.longest_gap_s} s\n"
        f"acknowledged and not stored: {len(report.lost)} · stored and never sent: {len(report.unknown)} · "
        f"wrong answers: {len(report.wrong_answers)} · tables that do not agree: {len(report.broken)} · "
        f"verify exit code: {report.verify_exit_code}"
    )
    for line in (*report.lost, *report.unknown, *report.wrong_answers, *report.broken):
        console.print(f"  {line}")
    if report.verify_exit_code:
        console.print(report.verify_output)
    console.print("the promise held" if report.held else "THE PROMISE DID NOT HOLD")


typer.run(main)
