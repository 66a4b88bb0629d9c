"""`bdlab fetch-kafka`: fetch Apache Kafka once into the user's cache."""

from typing import Annotated

from typer import Option

from bdlab_cli.output import terminal


def fetch_kafka(
    *,
    zookeeper: Annotated[
        bool,
        Option(
            "--zookeeper", help="Fetch Apache Kafka 3.9 with ZooKeeper, too; bdlab's own tests run on it."
        ),
    ] = False,
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
