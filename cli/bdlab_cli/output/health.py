"""Health reports as `bdlab status` shows them: once, until all is healthy, or until interrupted."""

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext

from rich.console import Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from bdlab.health import Report, State
from bdlab_cli.output import terminal

EXIT_CODES: dict[State, int] = {"healthy": 0, "degraded": 0, "unknown": 1, "unhealthy": 10}

_STYLES: dict[State, str] = {"healthy": "green", "degraded": "yellow", "unknown": "magenta", "unhealthy": "bold red"}


def follow(
    look: Callable[[], Report],
    stop: threading.Event,
    *,
    as_json: bool,
    watch: bool,
    interval_s: float,
    wait_healthy_s: float | None,
) -> Report:
    """Make and show reports for as long as the options say, and return the last one."""
    out = terminal.stdout()
    live = watch and not as_json and out.is_terminal
    deadline = time.monotonic() + (wait_healthy_s or 0)
    report = look()
    with Live(_table(report), console=out, auto_refresh=False) if live else nullcontext() as shown:
        while not (stop.is_set() or terminal.failed()):
            left_s = deadline - time.monotonic()
            waiting = wait_healthy_s is not None and not report.healthy and left_s > 0
            if shown:
                shown.update(_table(report), refresh=True)
            elif watch:
                _show(report, as_json=as_json)
            elif not waiting:
                break
            if stop.wait(interval_s if watch else min(interval_s, left_s)):
                break
            report = look()
    if not watch:
        _show(report, as_json=as_json)
    return report


def _show(report: Report, *, as_json: bool) -> None:
    if as_json:
        terminal.echo_json({"state": report.state, "checks": report.checks})
    else:
        terminal.stdout().print(_table(report))


def _table(report: Report) -> Group:
    table = Table(*(Column(title, overflow="fold") for title in ("check", "state", "what was found")))
    for check in report.checks:
        table.add_row(Text(check.name), Text(check.state, style=_STYLES[check.state]), Text(check.message))
    hints = [
        Text(f"{check.name}: {check.hint}")
        for check in report.checks
        if check.hint and check.state in ("unhealthy", "unknown")
    ]
    if not report.checks:
        return Group("Nothing to check: no server that was found speaks TLS.")
    return Group(table, *hints)
