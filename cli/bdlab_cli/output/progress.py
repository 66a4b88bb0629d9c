"""What a person at a terminal sees on standard error of work that takes its time."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from bdlab_cli.output import terminal

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

_lines: list[Callable[[], str]] = []  # the last one is shown
_lock = threading.RLock()


def progress_bar(*columns: ProgressColumn) -> Progress:
    """Return a bar with each task's name and `columns`, gone at its end, and at a terminal only; it needs `no_line`."""
    from rich.progress import BarColumn, Progress, TextColumn

    console = terminal.stderr()
    shown = (TextColumn("{task.description}"), BarColumn(), *columns)
    return Progress(*shown, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar for the time of a block, which calls what this yields with how much is done, of how much."""
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    with no_line(), progress_bar(MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def tell_of_wait(what: str) -> None:
    """From 2 s on tell, each second until the process ends, what is done and for how long, at a terminal's end."""
    began = time.monotonic()
    _lines.append(lambda: f"{what} ... {time.monotonic() - began:.0f} s")

    def renew() -> None:
        time.sleep(2)
        while True:
            with _lock:
                terminal.line(_lines[-1]())
            time.sleep(1)

    if sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown"):
        threading.Thread(target=renew, name="line", daemon=True).start()


@contextmanager
def line(text: Callable[[], str]) -> Iterator[None]:
    """For the time of a block, have what `text` returns in the place of what `tell_of_wait` tells."""
    with _lock:
        _lines.append(text)
        terminal.line("")
    try:
        yield
    finally:
        with _lock:
            _lines.pop()
            terminal.line("")


#: Leaves the terminal's last line to a prompt, a bar or another program for the time of a block.
no_line = partial(line, str)
