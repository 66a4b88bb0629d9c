"""`bdlab consume`: the daemon that stores the topic."""

from __future__ import annotations

from pathlib import Path

import typer

from bdlab import services
from bdlab_cli.options import StartupTimeout
from bdlab_cli.wiring.session import load_settings
from bdlab_cli.wiring.signals import stop_on_signal

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_ALIVE_WITHIN_S = 120.0


@app.command()
def consume(
    until_idle: bool = typer.Option(
        False,
        "--until-idle",
        envvar="BDLAB_UNTIL_IDLE",
        help="Store what the topic holds now, then exit.",
    ),
    metrics_port: int | None = typer.Option(
        None,
        "--metrics-port",
        envvar="BDLAB_SINK_METRICS_PORT",
        min=-1,
        max=65535,
        show_default="none",
        help="Serve /metrics and /health/live on this port; 0 is any free one.",
    ),
    metrics_host: str = typer.Option(
        "127.0.0.1", "--metrics-host", envvar="BDLAB_METRICS_HOST", help="The address for --metrics-port."
    ),
    tls_cert: Path | None = typer.Option(
        None,
        "--tls-cert",
        envvar="BDLAB_SINK_TLS_CERT_FILE",
        help="PEM file: certificate chain; serves HTTPS. A new one in its place is served without a restart",
    ),
    tls_key: Path | None = typer.Option(
        None,
        "--tls-key",
        envvar="BDLAB_SINK_TLS_KEY_FILE",
        help="PEM file: the certificate's private key",
    ),
    startup_timeout: StartupTimeout = None,
    batch_size: int | None = typer.Option(
        None,
        "--batch-size",
        envvar="BDLAB_SINK_BATCH_SIZE",
        min=1,
        max=100_000,
        show_default="2000",
        help="Events in one transaction, at most.",
    ),
    batch_wait: float | None = typer.Option(
        None,
        "--batch-wait",
        envvar="BDLAB_SINK_BATCH_WAIT_S",
        show_default="0.25",
        help="Seconds that a batch waits for more events.",
    ),
) -> None:
    """Store the topic's events in PostgreSQL, each exactly once.

    Runs until SIGTERM or Ctrl-C, and then finishes the batch in hand; a second one leaves at once.
    """

    layers = load_settings(
        {
            "sink": {
                "metrics_port": metrics_port,
                "tls_cert_file": str(tls_cert) if tls_cert else None,
                "tls_key_file": str(tls_key) if tls_key else None,
                "batch_size": batch_size,
                "batch_wait_s": batch_wait,
            },
            "startup_timeout_s": startup_timeout,
        },
        daemon=True,
    )
    import structlog

    from bdlab.errors import (
        BrokerUnavailable,
        DatabaseUnavailable,
        IdentityRefused,
        SchemaOutdated,
        TopicMissing,
        VaultUnavailable,
    )
    from bdlab.vault.session import VaultSession
    from bdlab_cli.wiring.sink import run_sink

    with stop_on_signal() as stop:
        role = services.database_role("consume")
        session = VaultSession(layers, service="consume", database_role=role, daemon=True)
        try:
            session.open(layers.settings().startup_timeout_s, stop=stop)
            run_sink(session, stop, until_idle=until_idle, metrics_host=metrics_host)
        except (
            VaultUnavailable,
            BrokerUnavailable,
            DatabaseUnavailable,
            IdentityRefused,
            SchemaOutdated,
            TopicMissing,
        ) as error:
            # Asked to stop while it waited for something: that is no failure.
            if not stop.is_set():
                raise
            structlog.get_logger().info("stopped while it waited", problem=error.message)
        finally:
            session.close()
