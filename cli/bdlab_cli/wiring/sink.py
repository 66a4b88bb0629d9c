"""The sink over the real servers: what `bdlab consume` runs."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import structlog

from bdlab.certificates import check_pair
from bdlab.errors import SchemaOutdated, TopicMissing
from bdlab.kafka.admin import Admin
from bdlab.kafka.consumer import Consumer
from bdlab.ledger import LogPartition, log_partition
from bdlab.postgres.store import Store
from bdlab.retry import AWAY, wait_for
from bdlab.sink import LagWatch, MetricsServer, Sink, SinkMetrics
from bdlab.vault.session import VaultSession

_ALIVE_WITHIN_S = 120.0


def run_sink(session: VaultSession, stop: threading.Event, *, until_idle: bool, metrics_host: str) -> None:
    """Wire source, store and sink; closed in reverse: leave the group first, then let go of the database."""
    settings = session.settings()
    cert_file, key_file = settings.sink.tls_cert_file, settings.sink.tls_key_file
    check_pair(cert_file, key_file, options="--tls-cert and --tls-key")
    patience = settings.startup_timeout_s
    metrics = SinkMetrics()
    with ExitStack() as opened:
        # A frozen consumer's locks are freed before the group gives its partitions to another.
        store = Store(session, idle_in_transaction_s=settings.kafka.session_timeout_s / 2)
        opened.callback(store.close)
        sink = Sink(store, settings.sink, metrics=metrics)
        if settings.sink.metrics_port >= 0:
            opened.enter_context(
                MetricsServer(
                    metrics.registry,
                    lambda: sink.idle_s < _ALIVE_WITHIN_S,
                    host=metrics_host,
                    port=settings.sink.metrics_port,
                    cert_file=cert_file,
                    key_file=key_file,
                )
            )
        admin = opened.enter_context(Admin(session, client_id="bdlab-consume-lag"))

        def ends() -> dict[LogPartition, int]:
            return {log_partition(found): found.end for found in admin.log_ranges()}

        wait_for(
            "PostgreSQL with its schema",
            store.open,
            timeout_s=patience,
            errors=(*AWAY, SchemaOutdated),
            stop=stop,
        )
        wait_for("the topic", ends, timeout_s=patience, errors=(*AWAY, TopicMissing), stop=stop)
        source = opened.enter_context(Consumer(session, positions=sink.positions, check_log=sink.check_log))
        opened.enter_context(LagWatch(sink, metrics, ends))
        total = sink.run(source, stop, until_idle=until_idle, patience_s=patience)
    structlog.get_logger().info(
        "consumer stopped", rows=total.rows, duplicates=total.duplicates, dead_letters=total.dead_letters
    )
