"""The sink's Prometheus metrics."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bdlab import __version__
from bdlab.errors import BrokerUnavailable, DatabaseUnavailable, VaultUnavailable
from bdlab.ledger import DeadLetter, Stored


class SinkMetrics:
    """The metrics of one sink, in their own registry; or those of the sink for feedback, in the registry of `beside`.
    Their names begin with `bdlab_feedback_sink` then: a label would change what is asked of the others."""

    def __init__(self, beside: SinkMetrics | None = None) -> None:
        self.registry: CollectorRegistry = beside.registry if beside else CollectorRegistry()
        kinds: dict[str, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
        table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
        self._of: dict[str, Any] = {}
        for key, one in table.items():
            if beside:
                one["name"] = one["name"].replace("bdlab_sink", "bdlab_feedback_sink")
            if not beside or "_sink_" in one["name"]:  # the others are of the process
                self._of[key] = kinds[one.pop("kind")](**one, registry=self.registry)
        self._of["dead_letters"].labels("undecodable")  # so that it is shown as 0
        for error in (BrokerUnavailable, DatabaseUnavailable, VaultUnavailable):
            self._of["retries"].labels(error.__name__)
        if not beside:
            self._of["info"].labels(__version__).set(1)

    def stored(self, result: Stored, letters: list[DeadLetter], seconds: float) -> None:
        """Count a batch that was committed; `letters` are its dead letters."""
        self._of["rows"].inc(result.rows)
        self._of["duplicates"].inc(result.duplicates)
        for letter in letters:
            reason = f"sqlstate_{letter.sqlstate[:2]}" if letter.sqlstate else "undecodable"
            self._of["dead_letters"].labels(reason).inc()
        self._of["batch_seconds"].observe(seconds)
        self._of["stored_at"].set(time.time())

    def retried(self, error: Exception) -> None:
        self._of["retries"].labels(type(error).__name__).inc()

    def fence_lost(self) -> None:
        self._of["fences_lost"].inc()

    def stopped(self, reasons: Mapping[int, str]) -> None:
        """Set the assigned partitions that are stopped now, each with the reason."""
        self._of["stopped"].set(len(reasons))
        self._of["reasons"].clear()
        for partition, reason in reasons.items():
            self._of["reasons"].labels(str(partition), reason).set(1)

    def expiries(self, ends_at: Callable[[], Mapping[str, float]]) -> None:
        """Show when each credential ends; `ends_at`, called at each scrape, has the moments in seconds since 1970."""
        for credential in ends_at():
            self._of["expiries"].labels(credential).set_function(lambda name=credential: ends_at().get(name, 0.0))

    def lag(self, by_partition: dict[int, int]) -> None:
        """Set the lag, in events, of the partitions that are assigned now."""
        self._of["lag"].clear()
        for partition, events in by_partition.items():
            self._of["lag"].labels(str(partition)).set(events)
