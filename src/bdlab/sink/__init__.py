"""The consume loop: poll, decode, store, acknowledge. Knows its source and its store by Protocol."""

from bdlab.sink.lag import LagWatch
from bdlab.sink.loop import Sink
from bdlab.sink.metrics import SinkMetrics
from bdlab.sink.metrics_server import MetricsServer
from bdlab.sink.protocols import BatchStore, EventSource

__all__ = ["BatchStore", "EventSource", "LagWatch", "MetricsServer", "Sink", "SinkMetrics"]
