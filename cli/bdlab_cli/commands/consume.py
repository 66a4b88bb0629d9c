"""`bdlab consume`: the daemon that stores the topic."""

from typing import Annotated

from bdlab_cli.options import StartupTimeout, setting
from bdlab_cli.wiring.session import load_settings


def consume(
    *,
    until_idle: bool = False,
    metrics_port: Annotated[int | None, setting("sink.metrics_port", "none")] = None,
    metrics_host: str = "127.0.0.1",
    tls_cert: Annotated[str | None, setting("sink.tls_cert_file")] = None,
    tls_key: Annotated[str | None, setting("sink.tls_key_file")] = None,
    startup_timeout: StartupTimeout = None,
    batch_size: Annotated[int | None, setting("sink.batch_size", "2000")] = None,
    batch_wait: Annotated[float | None, setting("sink.batch_wait_s", "0.25")] = None,
) -> None:
    """Store the topic's events in PostgreSQL, each exactly once.

    Runs until SIGTERM or Ctrl-C, and then finishes the batch in hand; a second one leaves at once."""
    from bdlab_cli.wiring.sink import run_sink

    sink: dict[str, object] = {"metrics_port": metrics_port, "batch_size": batch_size, "batch_wait_s": batch_wait}
    sink |= {"tls_cert_file": tls_cert, "tls_key_file": tls_key}
    layers = load_settings({"sink": sink, "startup_timeout_s": startup_timeout}, daemon=True)
    run_sink(layers, until_idle=until_idle, metrics_host=metrics_host)
