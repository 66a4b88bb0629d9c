"""The command line and the broker of a local stack: for `bdlab up`, `demo` and `fetch-kafka`."""

from __future__ import annotations

import sys
import threading

from rich.console import Console
from rich.markup import escape

from bdlab.errors import StackError, StartInterrupted
from bdlab.probes import MEMORY_ONLY
from bdlab.stack import BrokerKind, DataFolder, Event, brokers
from bdlab.stack.servers import aot_cache, jars, java
from bdlab_cli.options import BrokerName
from bdlab_cli.output import terminal
from bdlab_cli.output.stack_events import fetch_progress, show


def choose_broker(
    console: Console, folder: DataFolder, name: BrokerName, stop: threading.Event
) -> BrokerKind:
    """Choose the broker of the stack in `folder`, and fetch it if need be; the person is told of both."""
    with fetch_progress(jars.kafka()) as progress:

        def fetching(done: int, total: int) -> None:
            if stop.is_set():
                raise StartInterrupted("asked to stop while Apache Kafka was being fetched")
            progress(done, total)

        former = folder.broker
        kind, missing = brokers.choose_broker(folder, name, fetching)
    if kind == "tansu":
        why = f" {missing.message}. {missing.hint}" if missing else ""
        what = f"{MEMORY_ONLY}.{why} `--broker kafka` runs Apache Kafka, which keeps its log on disk."
        show(console, Event("notice", "broker", what))
        return kind
    if former == "tansu":
        show(console, Event("notice", "broker", "Apache Kafka from now on, which the folder keeps"))
    prepare_quick_starts(stop)
    return kind


def bdlab_command() -> list[str]:
    """The command line of this very installation of `bdlab`."""
    return [sys.executable, "-m", "bdlab_cli"]


def prepare_quick_starts(stop: threading.Event | None = None) -> None:
    """Have the Apache Kafka that is here start quickly from now on; told of if it takes time, or fails.

    Raises StartInterrupted if `stop` was set.
    """
    talk, kafka = terminal.stderr(), java.kafka()
    if kafka.aot_cache.exists():
        return
    talk.print("preparing Apache Kafka for quick starts, once; some 15 s", soft_wrap=True)
    try:
        aot_cache.prepare(kafka, stop)
    except StartInterrupted:
        raise
    except StackError as error:
        what = f"not prepared, so that it starts more slowly: {error.message}"
        talk.print(f"[yellow]![/] {escape(what)}", markup=True, soft_wrap=True)
