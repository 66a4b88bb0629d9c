"""`bdlab consume`: the daemon that stores the topic."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import typer

from bdlab_cli.options import StartupTimeout

if TYPE_CHECKING:
    from bdlab.vault.session import VaultSession

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
    from bdlab_cli.wiring import session as wiring

    layers = wiring.layers(
        {
            "sink": {"metrics_port": metrics_port, "batch_size": batch_size, "batch_wait_s": batch_wait},
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

    with wiring.stop_on_signal() as stop:
        session = VaultSession(layers, service="consume", database_role="bdlab-writer", daemon=True)
        try:
            session.open(layers.settings().startup_timeout_s, stop=stop)
            _run(session, stop, until_idle=until_idle, metrics_host=metrics_host)
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


def _run(session: VaultSession, stop: threading.Event, *, until_idle: bool, metrics_host: str) -> None:
    """Wire source, store and sink; closed in reverse: leave the group first, then let go of the database."""
    from contextlib import ExitStack

    import structlog

    from bdlab.errors import SchemaOutdated, TopicMissing
    from bdlab.kafka.admin import Admin
    from bdlab.kafka.consumer import Consumer
    from bdlab.ledger import Log, log_of
    from bdlab.postgres.store import Store
    from bdlab.sink import LagWatch, Monitor, Sink, SinkMetrics
    from bdlab_cli.wiring import session as wiring

    settings = session.settings()
    patience = settings.startup_timeout_s
    metrics = SinkMetrics()
    with ExitStack() as opened:
        # A frozen consumer's locks are freed before the group gives its partitions to another.
        store = Store(session, idle_in_transaction_s=settings.kafka.session_timeout_s / 2)
        opened.callback(store.close)
        sink = Sink(store, settings.sink, metrics=metrics)
        if settings.sink.metrics_port >= 0:
            opened.enter_context(
                Monitor(
                    metrics.registry,
                    lambda: sink.idle_s < _ALIVE_WITHIN_S,
                    host=metrics_host,
                    port=settings.sink.metrics_port,
                )
            )
        admin = opened.enter_context(Admin(session, client_id="bdlab-consume-lag"))

        def ends() -> dict[Log, int]:
            return {log_of(found): found.end for found in admin.log_ranges()}

        wiring.wait_for(
            "PostgreSQL and its schema", store.open, timeout_s=patience, stop=stop, also=(SchemaOutdated,)
        )
        wiring.wait_for("the topic", ends, timeout_s=patience, stop=stop, also=(TopicMissing,))
        source = opened.enter_context(Consumer(session, positions=sink.positions, prove=sink.prove))
        opened.enter_context(LagWatch(sink, metrics, ends))
        total = sink.run(source, stop, until_idle=until_idle, patience_s=patience)
    structlog.get_logger().info(
        "consumer stopped", rows=total.rows, duplicates=total.duplicates, dead_letters=total.dead_letters
    )
