"""The figures of versions and of a comparison, as tables, and as gauges for Prometheus."""

import time
from collections.abc import Sequence
from datetime import timedelta
from operator import itemgetter
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from rich.table import Column, Table

from bdlab.comparison import Comparison, Difference
from bdlab.errors import InvalidInput
from bdlab.quality import Report
from bdlab_cli.output import terminal

_MEASURES = ("mse", "mae", "bias", "error_rate", "log_loss")


def show(report: Report) -> None:
    """Print the figures of each version, and what is past a limit."""
    if not report.versions:
        terminal.echo("no predictions are stored in this time, from this source")
    for one in report.versions:
        delay = [timedelta(seconds=round(each)) for each in one.delay_s or ()]
        after = f", after {delay[0]} (median), {delay[1]} (95 %)" if delay else ""
        share = f"{one.labelled:,} ({one.labelled / one.rows:.1%})"
        terminal.echo(f"{one.model}: {one.rows:,} predictions; feedback for {share}{after}")
        errors = [
            (name, each.rows, measure, getattr(each, measure), each.card.get(measure))
            for name, each in one.errors.items()
            for measure in _MEASURES
            if getattr(each, measure) is not None
        ]
        _print("error by feedback", "output, known, measure, live, card", errors)
        tenths = [(f"up to {each.upto:.0%}", each.rows, each.confidence, each.right) for each in one.calibration]
        gap = f"calibration: confidence and the share that is right differ by {one.calibration_error or 0:.3f}"
        _print(gap, "confidence, rows, mean, right", tenths)
        fields = sorted(one.drift.items(), key=lambda item: -item[1].psi)
        drift = [(name, each.rows, each.psi, each.mean, "" if each.judged else "too few rows") for name, each in fields]
        _print("drift from the profile", "field, rows, PSI, mean,", drift)
        slices = [(each.field, each.bin, each.rows, each.labelled, each.error) for each in one.slices]
        _print(f"slices by the error of {one.judged}", "field, bin, rows, known, error", slices)
        for note in one.notes:
            terminal.echo(f"  {note}")
    for alarm in report.alarms:
        terminal.stdout().print(f"ALARM {alarm}", style="red", soft_wrap=True)


def show_comparison(found: Comparison) -> None:
    """Print how two versions differ, and the verdict."""
    rows = [
        (name, each.same, each.mean_difference, each.mean_distance, *(each.distances or (None,) * 4))
        for name, each in found.outputs.items()
    ]
    title = f"{found.rows:,} inputs with an output of both A, {found.a}, and B, {found.b}"
    _print(title, "output, same, mean B-A, mean |B-A|, 0.5, 0.9, 0.99, max", rows)
    for name, each in found.outputs.items():
        flips = [(a, b, count) for a, said in (each.flips or {}).items() for b, count in said.items() if a != b]
        _print(f"flips of {name}", "A, B, inputs", sorted(flips, key=itemgetter(2), reverse=True))
    errors = [(name, *_error(each.errors)) for name, each in found.outputs.items() if each.errors]
    _print("errors by feedback", f"output, {_ERROR}", errors)
    slices = [(each.field, each.bin, each.rows, each.same, *_error(each.errors)) for each in found.slices]
    _print(f"slices, by {found.judged or 'the prediction'}", f"field, bin, rows, same, {_ERROR}", slices)
    furthest = [(row["id"], *(_words(row[what]) for what in ("a", "b", "truth", "input"))) for row in found.furthest]
    _print("furthest apart", "id, A, B, truth, input", furthest)
    terminal.echo(f"B is {found.verdict}: {found.why}")


_ERROR = "known, error A, error B, B-A, 95 %"


def _error(errors: Difference | None) -> tuple[object, ...]:
    if errors is None:
        return 0, None, None, None, None
    between = None if errors.low is None else f"{errors.low:+.4g} … {errors.high:+.4g}"
    return errors.rows, errors.a, errors.b, errors.difference, between


def _print(title: str, columns: str, rows: Sequence[Sequence[object]]) -> None:
    """Print a table, unless it has no rows; numbers stand on the right."""
    if rows:
        right = {place for row in rows for place, cell in enumerate(row) if isinstance(cell, int | float)}
        heads = enumerate(columns.split(","))
        table = Table(*(Column(name.strip(), justify="right" if place in right else "left") for place, name in heads))
        table.title, table.title_justify = title, "left"
        for row in rows:
            table.add_row(*map(_cell, row))
        terminal.stdout().print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _words(fields: dict[str, object]) -> str:
    text = " ".join(_cell(value) for value in fields.values() if value is not None)
    return text if len(text) <= 80 else text[:79] + "…"


def write_gauges(report: Report, file: Path) -> None:
    """Replace a file for node_exporter's textfile collector by the figures of the report. Raises InvalidInput."""
    registry, gauges = CollectorRegistry(), dict[str, Gauge]()

    def put(name: str, value: float | None, **labels: str) -> None:
        if value is not None:
            if name not in gauges:
                gauges[name] = Gauge(
                    f"bdlab_quality_{name}", "docs/metrics.md says what it is", [*labels], registry=registry
                )
            (gauges[name].labels(**labels) if labels else gauges[name]).set(value)

    for one in report.versions:
        put("rows", one.rows, model=one.model, kind="predictions")
        put("rows", one.labelled, model=one.model, kind="feedback")
        for name, each in one.errors.items():
            for measure in _MEASURES:
                put("error", getattr(each, measure), model=one.model, output=name, measure=measure)
                put("card_error", each.card.get(measure), model=one.model, output=name, measure=measure)
        for name, drift in one.drift.items():
            put("psi", drift.psi if drift.judged else None, model=one.model, field=name)
        put("calibration_error", one.calibration_error, model=one.model)
        for quantile, seconds in zip(("0.5", "0.95"), one.delay_s or (), strict=False):
            put("feedback_delay_seconds", seconds, model=one.model, quantile=quantile)
    put("alarms", len(report.alarms))
    put("unknown", len(report.unknown))
    put("timestamp_seconds", time.time())
    try:
        write_to_textfile(str(file), registry)
    except OSError as error:
        raise InvalidInput(f"--textfile {file} cannot be written: {error.strerror}") from error
