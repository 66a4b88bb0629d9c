"""`bdlab fetch-kafka`: fetch Apache Kafka once into the user's cache."""

from bdlab_cli.output import terminal


def fetch_kafka(*, json: bool = False) -> None:
    """Fetch Apache Kafka into the user's cache, from where `bdlab up` runs it without a network.

    Each jar is compared with the SHA-256 that bdlab pins. They come from Maven Central, or from the mirror
    that ~/.config/jgo.conf names; HTTPS_PROXY and REQUESTS_CA_BUNDLE count."""
    from bdlab.stack.servers import java
    from bdlab_cli.output.stack_events import fetch_progress
    from bdlab_cli.wiring.local_stack import prepare_quick_starts

    assembly = java.pinned_kafka()
    done = "unchanged" if assembly.is_whole() else "fetched"
    with fetch_progress(assembly) as progress:
        java.fetch(assembly, progress)
    result = {"version": assembly.version, "folder": str(assembly.home), "outcome": done}
    text = f"{done}: Apache Kafka {assembly.version} is in {assembly.home}"
    terminal.echo_result(result, text, as_json=json)
    prepare_quick_starts()
