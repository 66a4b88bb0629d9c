"""The sink's Prometheus metrics."""

import time
from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bdlab import __version__
from bdlab.errors import BrokerUnavailable, DatabaseUnavailable, VaultUnavailable
from bdlab.ledger import DeadLetter, Stored
from bdlab.probes import EXPIRIES


class SinkMetrics:
    """The metrics of one sink, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        self._rows = counter("bdlab_sink_rows", "Predictions stored.")
        self._duplicates = counter("bdlab_sink_duplicates", "Positions recorded as duplicates.")
        self._dead_letters = counter(
            "bdlab_sink_dead_letters",
            "Dead letters: `undecodable`, or `sqlstate_<class>` if the database refused the row.",
            ["reason"],
        )
        self._dead_letters.labels("undecodable")  # so that it is shown as 0
        self._batch_seconds = Histogram(
            "bdlab_sink_batch_seconds",
            "Seconds from a batch's first try to its commit.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self.registry,
        )
        self._retries = counter("bdlab_sink_retries", "Tries that failed and were repeated.", ["error"])
        for error in (BrokerUnavailable, DatabaseUnavailable, VaultUnavailable):
            self._retries.labels(error.__name__)
        self._fences = counter("bdlab_sink_fences_lost", "Batches dropped at the fence.")
        self._stored_at = gauge(
            "bdlab_sink_last_stored_timestamp_seconds", "Unix time of the last batch that was committed."
        )
        self._lag = gauge(
            "bdlab_sink_lag_events", "Events of an assigned partition that are not recorded yet.", ["partition"]
        )
        gauge("bdlab_build_info", "Always 1; the label says which version runs.", ["version"]).labels(__version__).set(
            1
        )
        self._expiries = gauge(*EXPIRIES)
        self._stopped = gauge("bdlab_sink_stopped_partitions", "Assigned partitions that are stopped.")
        self._reasons = gauge("bdlab_sink_stopped", "1 for a partition that is stopped.", ["partition", "reason"])

    def stored(self, result: Stored, letters: list[DeadLetter], seconds: float) -> None:
        """Count a batch that was committed; `letters` are its dead letters."""
        self._rows.inc(result.rows)
        self._duplicates.inc(result.duplicates)
        for letter in letters:
            reason = f"sqlstate_{letter.sqlstate[:2]}" if letter.sqlstate else "undecodable"
            self._dead_letters.labels(reason).inc()
        self._batch_seconds.observe(seconds)
        self._stored_at.set(time.time())

    def retried(self, error: Exception) -> None:
        self._retries.labels(type(error).__name__).inc()

    def fence_lost(self) -> None:
        self._fences.inc()

    def stopped(self, reasons: Mapping[int, str]) -> None:
        """Set the assigned partitions that are stopped now, each with the reason."""
        self._stopped.set(len(reasons))
        self._reasons.clear()
        for partition, reason in reasons.items():
            self._reasons.labels(str(partition), reason).set(1)

    def expiries(self, ends_at: Callable[[], Mapping[str, float]]) -> None:
        """Show when each credential ends; `ends_at`, called at each scrape, has the moments in seconds since 1970."""
        for credential in ends_at():
            self._expiries.labels(credential).set_function(lambda name=credential: ends_at().get(name, 0.0))  # type: ignore[misc]

    def lag(self, by_partition: dict[int, int]) -> None:
        """Set the lag, in events, of the partitions that are assigned now."""
        self._lag.clear()
        for partition, events in by_partition.items():
            self._lag.labels(str(partition)).set(events)
