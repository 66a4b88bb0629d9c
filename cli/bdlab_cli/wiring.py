"""What the commands share: settings, logs, consoles, the Vault session and signals."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from bdlab.settings import Layers

_HARD_EXIT = 130


def layers(command_line: Mapping[str, Mapping[str, Any] | Any] | None = None) -> Layers:
    """The settings' layers, and logs set up as they say.

    `command_line` maps sections to fields; a None is an option that was not given.
    """
    from bdlab import settings
    from bdlab_cli import logs

    given: dict[str, Any] = {}
    for section, values in (command_line or {}).items():
        if not isinstance(values, Mapping):
            given |= {section: values} if values is not None else {}
            continue
        given[section] = {field: value for field, value in values.items() if value is not None}
    loaded = settings.load(command_line=given)
    logs.configure(loaded.settings().log)
    return loaded


def out() -> Console:
    """The console for results."""
    from rich.console import Console

    return Console(highlight=False)


def talk() -> Console:
    """The console for everything that is no result: progress, advice, what is being waited for."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets; a second one leaves at once with code 130.

    The handlers that stood before are put back at the end.
    """
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            import os

            os._exit(_HARD_EXIT)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
