"""The sink over the real servers: what `bdlab consume` runs."""

import os
import threading
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import structlog

from bdlab import tracing
from bdlab.certificates import check_pair, ends_at
from bdlab.errors import BdlabError, IdentityRefused, SchemaOutdated, TopicMissing
from bdlab.kafka.admin import Admin
from bdlab.kafka.consumer import Consumer
from bdlab.ledger import LogPartition, log_partition
from bdlab.postgres.store import Store
from bdlab.retry import AWAY, wait_for
from bdlab.settings import Layers
from bdlab.sink import LagWatch, MetricsServer, Sink, SinkMetrics
from bdlab.vault.session import VaultSession
from bdlab_cli.wiring.session import daemon_session
from bdlab_cli.wiring.signals import stop_on_signal

log = structlog.get_logger()

_ALIVE_WITHIN_S = 120.0
_WAITED_FOR: tuple[type[BdlabError], ...] = (*AWAY, IdentityRefused, SchemaOutdated, TopicMissing)


def run_sink(layers: Layers, *, until_idle: bool, metrics_host: str) -> None:
    """Store the topic until a signal asks to stop, or until nothing is left. Raises BdlabError."""
    with stop_on_signal() as stop, closing(daemon_session(layers, "consume")) as session:
        try:
            session.open(layers.settings().startup_timeout_s, stop=stop)
            _run(session, stop, until_idle=until_idle, metrics_host=metrics_host)
        except _WAITED_FOR as error:
            # It was asked to stop while it waited for something, which is no failure.
            if not stop.is_set():
                raise
            log.info("stopped while it waited", problem=error.message)


def _run(session: VaultSession, stop: threading.Event, *, until_idle: bool, metrics_host: str) -> None:
    """Wire source, store and sink, and close them in reverse: leave the group before the database."""
    settings = session.settings()
    cert_file, key_file = settings.sink.tls_cert_file, settings.sink.tls_key_file
    check_pair(cert_file, key_file, options="--tls-cert and --tls-key")
    patience = settings.startup_timeout_s
    metrics = SinkMetrics()
    metrics.expiries(lambda: session.expiries() | ends_at(cert_file))
    with ExitStack() as opened:
        # A frozen consumer's locks are freed before the group gives its partitions to another.
        store = Store(session, idle_in_transaction_s=settings.kafka.session_timeout_s / 2)
        opened.callback(store.close)
        kafka, server = settings.kafka, settings.postgres
        database = {"db.namespace": server.dbname, "server.address": server.host, "server.port": server.port}
        spans = tracing.start("consume", os.environ, topic=kafka.topic, group=kafka.group, database=database)
        if spans:
            opened.callback(spans.close)
        sink = Sink(store, settings.sink, metrics=metrics, spans=spans)
        if settings.sink.metrics_port >= 0:
            place: dict[str, Any] = {"host": metrics_host, "port": settings.sink.metrics_port}
            place |= {"cert_file": cert_file, "key_file": key_file}
            opened.enter_context(MetricsServer(metrics.registry, lambda: sink.idle_s < _ALIVE_WITHIN_S, **place))
        admin = opened.enter_context(Admin(session, client_id="bdlab-consume-lag"))

        def ends() -> dict[LogPartition, int]:
            return {log_partition(found): found.end for found in admin.log_ranges()}

        wait = partial(wait_for, timeout_s=patience, stop=stop)
        wait("PostgreSQL with its schema", store.open, errors=(*AWAY, SchemaOutdated))
        wait("the topic", ends, errors=(*AWAY, TopicMissing))
        source = opened.enter_context(Consumer(session, positions=sink.positions, check_log=sink.check_log))
        opened.enter_context(LagWatch(sink, metrics, ends))
        total = sink.run(source, stop, until_idle=until_idle, patience_s=patience)
    log.info("consumer stopped", rows=total.rows, duplicates=total.duplicates, dead_letters=total.dead_letters)
