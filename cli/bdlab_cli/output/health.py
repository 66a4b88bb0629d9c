"""Health reports as `bdlab status` shows them: once, until all is healthy, or until interrupted."""

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext

import msgspec
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bdlab.health import CheckResult, Report, State
from bdlab_cli.output import terminal
from bdlab_cli.output.progress import no_line

EXIT_CODES: dict[State, int] = {"healthy": 0, "degraded": 0, "unknown": 1, "unhealthy": 10}
#: Check -> the count in its detail of which `--watch` shows the change.
_COUNTS = {"postgres.rows": "rows", "postgres.dead_letters": "open", "kafka.lag": "lag_events"}
_STYLES: dict[State, str] = {"healthy": "green", "degraded": "yellow", "unknown": "magenta", "unhealthy": "bold red"}


def follow(
    look: Callable[[], Report],
    stop: threading.Event,
    interval_s: float,
    patience_s: float | None,
    *,
    watch: bool,
    as_json: bool,
) -> Report:
    """Make and show reports for as long as the options say, and return the last one."""
    out = terminal.stdout()
    live = watch and not as_json and out.is_terminal
    deadline = time.monotonic() + (patience_s or 0)
    report, at = look(), time.monotonic()
    with (
        no_line() if watch else nullcontext(),
        Live(_table(report), console=out, auto_refresh=False) if live else nullcontext() as shown,
    ):
        while not (stop.is_set() or terminal.failed()):
            left_s = deadline - time.monotonic()
            waiting = patience_s is not None and not report.healthy and left_s > 0
            if shown:
                shown.update(_table(report), refresh=True)
            elif watch:
                _show(report, as_json=as_json)
            elif not waiting:
                break
            if stop.wait(interval_s if watch else min(interval_s, left_s)):
                break
            report, at = _with_rates(look(), report, at)
    if not watch:
        _show(report, as_json=as_json)
    return report


def _with_rates(report: Report, before: Report, then: float) -> tuple[Report, float]:
    """Return the report with the change of each count per second since `before`, made `then`; and the moment."""
    now, earlier = time.monotonic(), {check.name: check.detail for check in before.checks}

    def with_rate(check: CheckResult) -> CheckResult:
        name = _COUNTS.get(check.name, "")
        if name not in check.detail or name not in earlier[check.name]:
            return check
        rate = round((check.detail[name] - earlier[check.name][name]) / (now - then), 1)
        detail = {**check.detail, f"{name}_per_s": rate}
        return msgspec.structs.replace(check, message=f"{check.message} ({rate:+,.1f}/s)", detail=detail)

    return Report(tuple(map(with_rate, report.checks))), now


def _show(report: Report, *, as_json: bool) -> None:
    if as_json:
        terminal.echo_json({"state": report.state, "checks": report.checks})
    else:
        terminal.stdout().print(_table(report))


def _table(report: Report) -> Group:
    table = Table("check", "state", "what was found")
    for check in report.checks:
        table.add_row(check.name, Text(check.state, style=_STYLES[check.state]), check.message)
    if not report.checks:
        return Group("Nothing to check: no server that was found speaks TLS.")
    ill = [check for check in report.checks if check.hint and check.state in ("unhealthy", "unknown")]
    return Group(table, *(Text(f"{check.name}: {check.hint}") for check in ill))
