"""The broker of a local stack, and the command line of its services."""

import sys
import threading
from pathlib import Path

from bdlab.errors import StackError, StartInterrupted
from bdlab.probes import MEMORY_ONLY
from bdlab.settings import SHIPPED_MODEL
from bdlab.stack import BrokerKind, DataFolder, Event, brokers
from bdlab.stack.servers import java
from bdlab.stack.servers.kafka import make_aot_cache
from bdlab_cli.options import BrokerName
from bdlab_cli.output import terminal
from bdlab_cli.output.stack_events import fetch_progress, show


def choose_broker(folder: DataFolder, name: BrokerName, stop: threading.Event) -> BrokerKind:
    """Return the broker that the stack of `folder` gets, and fetch it if need be; the person is told of both. Raises
    StackError, and StartInterrupted if `stop` is set."""
    with fetch_progress(java.pinned_kafka()) as progress:

        def fetching(done: int, total: int) -> None:
            if stop.is_set():
                raise StartInterrupted("asked to stop while Apache Kafka was being fetched")
            progress(done, total)

        former = folder.broker
        kind, missing = brokers.choose_broker(folder, name, fetching)
    if kind == "tansu":
        why = f" {missing.message}. {missing.hint}" if missing else ""
        what = f"{MEMORY_ONLY}.{why} `--broker kafka` runs Apache Kafka, which keeps its log on disk."
        show(Event("notice", "broker", what))
        return kind
    if former == "tansu":
        show(Event("notice", "broker", "Apache Kafka from now on, which the folder keeps"))
    prepare_quick_starts(stop)
    return kind


def prepare_quick_starts(stop: threading.Event | None = None) -> None:
    """Have the Apache Kafka that is here start quickly from now on, and tell the person. Raises StartInterrupted if
    `stop` is set. A failure is told only: Kafka then starts more slowly."""
    kafka = java.kafka()
    if kafka.aot_cache.exists():
        return
    terminal.echo("preparing Apache Kafka for quick starts, once; some 15 s", err=True)
    try:
        make_aot_cache(kafka, stop)
    except StartInterrupted:
        raise
    except StackError as error:
        show(Event("notice", f"not prepared, so that it starts more slowly: {error.message}"))


def model_file(model: str) -> str:
    """Return the path of a model for a stack, whose services run in another folder; "" is what is promoted, or else
    the shipped one."""
    return "" if model in ("", SHIPPED_MODEL) else str(Path(model).expanduser().absolute())


def bdlab_command() -> list[str]:
    """Return the command line of this installation of `bdlab`."""
    return [sys.executable, "-m", "bdlab_cli"]
