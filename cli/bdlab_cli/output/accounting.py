"""The accounting of the topics as `bdlab verify` prints it."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from bdlab.export import ExportReport
from bdlab.rescoring import RescoredReport
from bdlab.verification import ClosedPartition, PartitionReport, Report
from bdlab_cli.output import terminal


def show(report: Report, out: Console) -> None:
    """Print a row a partition, what is to be known of it, and the verdict."""
    pruned = any(one.pruned for one in report.partitions)
    columns = ["log", "recorded", "stored", "duplicates", "dead letters", *(["pruned"] if pruned else [])]
    right = [Column(name, justify="right") for name in ("partition", *columns)]
    table = Table(*right, "", title="Offsets of each topic, and where each of them ended")
    for one in report.partitions:
        recorded = "-" if one.next_offset is None else f"[{one.first_offset}, {one.next_offset})"
        counts = (one.stored, one.duplicates, one.dead_letters, *((one.pruned,) if pruned else ()))
        cells = (f"{one.topic}/{one.partition}", escape(f"[{one.log_start}, {one.end})"), escape(recorded))
        state = "[red]not verified[/]" if one.problems else "[green]ok[/]"
        table.add_row(*cells, *(f"{count:,}" for count in counts), state)
    out.print(table, markup=True)
    for line in (*_never_seen(report), *_closed_logs(report)):
        out.print(line, soft_wrap=True)
    if unknown := report.unknown_feedback:
        out.print(f"{unknown:,} feedback rows are about predictions that are not stored", soft_wrap=True)
    for problem in report.problems:
        out.print(problem, style="red", soft_wrap=True)
    offsets = sum((one.next_offset or 0) - (one.first_offset or 0) for one in report.partitions)
    verdict = "[green]verified[/]" if report.verified else "[red]NOT verified[/]"
    closed = f"; with the closed logs {_counts([*report.partitions, *report.closed])}" if report.closed else ""
    line = f"{verdict}: {_counts(report.partitions, ' + ')}, of {offsets:,} offsets{closed}"
    out.print(line, markup=True, soft_wrap=True)


def show_rescored(report: RescoredReport, out: Console) -> None:
    """Print a row a partition, what is missing or too much, and the verdict."""
    names = ("partition", "stored", "in done ranges", "scored again", "open ranges", "in open ranges", "in no range")
    table = Table(
        "topic", *(Column(name, justify="right") for name in names), title=f"Predictions scored again by {report.model}"
    )
    for one in report.partitions:
        counts = (one.stored, one.done, one.rescored, one.open_ranges, one.open, one.unplanned)
        table.add_row(escape(one.topic), str(one.partition), *(f"{count:,}" for count in counts))
    out.print(table)
    stored, done, scored, ranges, unplanned = (
        sum(getattr(one, name) for one in report.partitions)
        for name in ("stored", "done", "rescored", "open_ranges", "unplanned")
    )
    problems = {
        f"{done - scored:,} without a score in ranges that are done": ", ".join(map(" ".join, report.missing)),
        f"{report.orphan_count:,} scores without a prediction": ", ".join(report.orphans),
        f"{ranges:,} ranges are not done": "run `bdlab rescore` again" if ranges else "",
    }
    for problem, found in problems.items():
        if found:
            out.print(f"{problem}: {found}", style="red", soft_wrap=True)
    verdict = "[green]verified[/]" if report.verified else "[red]NOT verified[/]"
    line = f"{verdict}: {scored:,} of {stored:,} stored predictions scored again; {unplanned:,} are in no range"
    out.print(line, markup=True, soft_wrap=True)


def _never_seen(report: Report) -> Iterator[str]:
    """Yield a line for each partition whose start was deleted before a consumer read it."""
    for one in report.partitions:
        if one.first_offset and one.log_start >= one.first_offset:
            yield (
                f"{one.topic}/{one.partition}: offsets 0 to {one.first_offset - 1} had been deleted by the "
                "broker's retention before a consumer first read it; nothing is known of them"
            )


def _closed_logs(report: Report) -> Iterator[str]:
    """Yield a line for each log that the broker no longer has."""
    logs: dict[tuple[str, str, str], list[ClosedPartition]] = {}
    for one in report.closed:
        logs.setdefault((one.cluster_id, one.topic, one.topic_id), []).append(one)
    for (cluster_id, topic, topic_id), partitions in logs.items():
        name = f"{topic} (id {topic_id})" if topic_id else topic
        lost = sum(one.lost for one in partitions)
        losses = f", at least {lost:,} events lost" if lost else ""
        yield f"closed log {cluster_id}, topic {name}, {len(partitions)} partitions: {_counts(partitions)}{losses}"


def _counts(partitions: Sequence[PartitionReport | ClosedPartition], between: str = ", ") -> str:
    kinds = ("stored", "duplicates", "dead_letters")
    counts = {kind.replace("_", " "): sum(getattr(one, kind) for one in partitions) for kind in kinds}
    return between.join(f"{count:,} {kind}" for kind, count in counts.items())


def show_export(report: ExportReport) -> None:
    """Print what is wrong with the files of an export, and the verdict."""
    for problem in report.problems:
        terminal.echo(problem)
    if report.problem_count > len(report.problems):
        terminal.echo(f"... and {report.problem_count - len(report.problems):,} more problems: --limit")
    counts = " + ".join(f"{count:,} {table.replace('_', ' ')}" for table, count in report.counts.items())
    verdict = "verified" if report.verified else "NOT verified"
    terminal.echo(f"{verdict}: {counts}, of {report.positions:,} positions in {report.files:,} files")
