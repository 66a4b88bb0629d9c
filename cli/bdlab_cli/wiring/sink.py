"""The sinks over the real servers, one for predictions and one for feedback: what `bdlab consume` runs."""

import os
import threading
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

import structlog
from structlog.contextvars import bound_contextvars

from bdlab import tracing
from bdlab.certificates import check_pair, ends_at
from bdlab.credentials import FeedbackTopic, KafkaCredentials
from bdlab.errors import BdlabError, IdentityRefused, SchemaOutdated, TopicMissing
from bdlab.feedback import FeedbackCodec
from bdlab.kafka.admin import Admin
from bdlab.kafka.consumer import Consumer
from bdlab.ledger import LogPartition, log_partition
from bdlab.postgres.store import Store
from bdlab.retry import AWAY, wait_for
from bdlab.settings import Layers
from bdlab.sink import LagWatch, MetricsServer, Sink, SinkMetrics
from bdlab.tasks import TaskGroup
from bdlab.vault.session import VaultSession
from bdlab_cli.wiring.session import daemon_session
from bdlab_cli.wiring.signals import stop_on_signal

log = structlog.get_logger()
_ALIVE_WITHIN_S = 120.0
_WAITED_FOR: tuple[type[BdlabError], ...] = (*AWAY, IdentityRefused, SchemaOutdated, TopicMissing)


def run_sink(layers: Layers, *, until_idle: bool, metrics_host: str) -> None:
    """Store both topics until a signal asks to stop, or until nothing is left. Raises BdlabError."""
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
    """Run a sink for each topic, in a thread each, until both end; an error of one ends the other."""
    settings = session.settings()
    cert_file, key_file = settings.sink.tls_cert_file, settings.sink.tls_key_file
    check_pair(cert_file, key_file, options="--tls-cert and --tls-key")
    metrics = SinkMetrics()
    metrics.expiries(lambda: session.expiries() | ends_at(cert_file))
    # A frozen consumer's locks are freed before the group gives its partitions to another.
    make_store = partial(Store, session, idle_in_transaction_s=settings.kafka.session_timeout_s / 2)
    kafka, server = settings.kafka, settings.postgres
    database = {"db.namespace": server.dbname, "server.address": server.host, "server.port": server.port}
    with ExitStack() as opened:
        spans = tracing.start("consume", os.environ, topic=kafka.topic, group=kafka.group, database=database)
        if spans:
            opened.callback(spans.close)
        other = spans and spans.of(kafka.feedback_topic, kafka.feedback_group, table="feedback")
        store, of_feedback = make_store(), make_store(make_codec=FeedbackCodec)
        beside = SinkMetrics(metrics)
        feedback_sink = Sink(of_feedback, settings.sink, beside, other)
        topics = (
            _Topic(session, store, Sink(store, settings.sink, metrics, spans), metrics),
            _Topic(FeedbackTopic(session), of_feedback, feedback_sink, beside, "-feedback"),
        )
        if settings.sink.metrics_port >= 0:
            port = settings.sink.metrics_port

            def alive() -> bool:
                return max(topic.sink.idle_s for topic in topics) < _ALIVE_WITHIN_S

            opened.enter_context(MetricsServer(metrics.registry, alive, metrics_host, port, cert_file, key_file))
        with TaskGroup(stop) as group:
            for topic in topics:
                group.create_task(partial(topic.run, until_idle=until_idle, patience_s=settings.startup_timeout_s))


@dataclass
class _Topic:
    """A topic, and where its events go; `mark` ends the names of its Kafka clients."""

    credentials: KafkaCredentials
    store: Store
    sink: Sink
    metrics: SinkMetrics
    mark: str = ""

    def run(self, stop: threading.Event, *, until_idle: bool, patience_s: float) -> None:
        """Wire the source too, and close all in reverse: leave the group before the database."""
        name, sink = f"bdlab-consume{self.mark}", self.sink
        with ExitStack() as opened, bound_contextvars(topic=self.credentials.kafka().server.topic):
            opened.callback(self.store.close)
            admin = opened.enter_context(Admin(self.credentials, client_id=f"{name}-lag"))

            def ends() -> dict[LogPartition, int]:
                return {log_partition(found): found.end for found in admin.log_ranges()}

            wait = partial(wait_for, timeout_s=patience_s, stop=stop)
            wait("PostgreSQL with its schema", self.store.open, errors=(*AWAY, SchemaOutdated))
            try:
                wait("the topic", ends, errors=AWAY if self.mark else (*AWAY, TopicMissing))
            except TopicMissing as error:
                if not self.mark:
                    raise
                if until_idle:
                    log.warning("no feedback is stored", problem=error.message, hint=error.hint)
                    return
            # It waits for a topic that is missing: predictions do not depend on that of the feedback.
            check_log = sink.check_log
            source = Consumer(self.credentials, positions=sink.positions, check_log=check_log, client_id=name)
            opened.enter_context(source)
            opened.enter_context(LagWatch(sink, self.metrics, ends))
            total = sink.run(source, stop, until_idle=until_idle, patience_s=patience_s)
            log.info("consumer stopped", rows=total.rows, duplicates=total.duplicates, dead_letters=total.dead_letters)
