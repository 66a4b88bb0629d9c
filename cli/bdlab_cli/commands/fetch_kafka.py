"""`bdlab fetch-kafka`: Apache Kafka, fetched once into the user's cache."""

from __future__ import annotations

import typer

from bdlab_cli.output import terminal

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
    from bdlab_cli.output.stack_events import fetch_progress
    from bdlab_cli.wiring.local_stack import prepare_quick_starts

    for assembly in (jars.kafka(), jars.kafka_with_zookeeper())[: 1 + zookeeper]:
        done = "unchanged:" if assembly.is_whole() else "fetched:"
        with fetch_progress(assembly) as progress:
            jars.fetch(assembly, progress)
        terminal.echo(f"{done} Apache Kafka {assembly.version} is in {assembly.home}")
    prepare_quick_starts()
