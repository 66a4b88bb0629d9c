"""`bdlab fetch-kafka`: Apache Kafka, fetched once into the user's cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from bdlab_cli.output import terminal

if TYPE_CHECKING:
    import threading

    from bdlab.stack.servers.jars import Assembly, Progress

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def fetch(
    zookeeper: bool = typer.Option(
        False,
        "--zookeeper",
        envvar="BDLAB_FETCH_ZOOKEEPER",
        help="Fetch Apache Kafka 3.9 with ZooKeeper, too; bdlab's own tests run on it.",
    ),
) -> None:
    """Fetch Apache Kafka into the user's cache, from where `bdlab up` runs it without a network.

    Each jar is compared with the SHA-256 that bdlab pins. They come from Maven Central, or from the mirror
    that ~/.config/jgo.conf names; HTTPS_PROXY and REQUESTS_CA_BUNDLE count.
    """
    from bdlab.stack.servers import jars

    for assembly in (jars.kafka(), jars.kafka_with_zookeeper())[: 1 + zookeeper]:
        done = "unchanged:" if assembly.is_whole() else "fetched:"
        with shown(assembly) as progress:
            jars.fetch(assembly, progress)
        terminal.echo(f"{done} Apache Kafka {assembly.version} is in {assembly.home}")
    prepare_quick_starts()


def prepare_quick_starts(stop: threading.Event | None = None) -> None:
    """Have the Apache Kafka that is here start quickly from now on; told of if it takes time, or fails.

    Raises StartInterrupted if `stop` was set.
    """
    from rich.markup import escape

    from bdlab.errors import StackError, StartInterrupted
    from bdlab.stack.servers import java, quick_start
    from bdlab_cli.wiring import session as wiring

    talk, kafka = wiring.talk(), java.kafka()
    if not quick_start.is_due(kafka):
        return
    talk.print("preparing Apache Kafka for quick starts, once; some 15 s", soft_wrap=True)
    try:
        quick_start.prepare(kafka, stop)
    except StartInterrupted:
        raise
    except StackError as error:
        what = f"not prepared, so that it starts more slowly: {error.message}"
        talk.print(f"[yellow]![/] {escape(what)}", markup=True, soft_wrap=True)


@contextlib.contextmanager
def shown(assembly: Assembly) -> Iterator[Progress]:
    """Show on standard error what is being fetched: a bar, or elsewhere than at a terminal a line.

    Nothing is shown if there is nothing to fetch.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from bdlab_cli.wiring import session as wiring

    what, talk = f"fetching Apache Kafka {assembly.version}", wiring.talk()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=talk, transient=True, disable=not talk.is_terminal) as bar:
        task = bar.add_task(what, total=assembly.size, visible=False)

        def show(done: int, total: int) -> None:
            if not (bar.tasks[0].visible or talk.is_terminal):
                talk.print(f"{what}: {total / 1e6:.1f} MB", soft_wrap=True)
            bar.update(task, completed=done, visible=True)

        yield show
