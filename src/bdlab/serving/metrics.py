"""Prometheus metrics of the API, of one process or of several workers together."""

import os
import tomllib
from bisect import bisect_left
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from bdlab import __version__
from bdlab.serving.problems import REFUSALS

CONTENT_TYPE = CONTENT_TYPE_LATEST.removesuffix("; charset=utf-8")  # which Litestar adds to every text
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class _Observations:
    """Durations in seconds, counted by bucket."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.counts = [0] * (len(_SECONDS) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_SECONDS, seconds)] += 1
        self.total_s += seconds


class _BatchHistogram(Histogram):
    """A histogram that takes many observations at once."""

    def add(self, observations: _Observations) -> None:
        """Add the observations, and empty them."""
        for bucket, count in zip(self._buckets, observations.counts, strict=True):
            if count:
                bucket.inc(count)
        self._sum.inc(observations.total_s)
        observations.clear()


class Metrics:
    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()
        self._folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")  # that the workers share
        kinds: dict[str, Any] = {
            "counter": Counter,
            "gauge": Gauge,
            "histogram": partial(_BatchHistogram, buckets=_SECONDS),
        }
        table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
        self.of: dict[str, Any] = {
            key: kinds[one.pop("kind")](**one, registry=self._registry) for key, one in table.items()
        }
        """The metrics, by their names in metrics.toml."""
        for reason in REFUSALS:
            self.of["refusals"].labels(reason)  # so that it is shown as 0
        self._model = ""
        self.serves(model)
        self._answered: dict[tuple[str, str, int], int] = {}
        self._request_seconds: dict[str, _Observations] = {}
        outcomes = product(("predictions", "feedback"), ("acknowledged", "not_acknowledged", "busy"))
        self._outcomes: dict[tuple[str, str], int] = dict.fromkeys(outcomes, 0)
        for kind, outcome in self._outcomes:
            self.of[kind].labels(outcome)  # so that it is shown as 0
        self._acknowledged_seconds = _Observations()
        self._shown_waiting = 0
        self.waiting = 0
        """Predictions and feedback that wait for the broker now."""
        self._child = cache(lambda metric, labels: metric.labels(*labels))  # which is slow to find them

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request, also one that matches no route."""
        key = method, route, status
        self._answered[key] = self._answered.get(key, 0) + 1
        observations = self._request_seconds.get(route)
        if observations is None:
            observations = self._request_seconds[route] = _Observations()
        observations.add(seconds)

    def acknowledged(self, kind: str, seconds: float) -> None:
        """Count one of the `predictions`, or of the `feedback`, so many `seconds` after it was published."""
        self._outcomes[kind, "acknowledged"] += 1
        self._acknowledged_seconds.add(seconds)

    def missed(self, kind: str, outcome: str, count: int = 1) -> None:
        """Count those of a kind that were `not_acknowledged`, or refused as `busy` because too many wait."""
        self._outcomes[kind, outcome] += count

    def refused(self, reason: str) -> None:
        """Count a request that was refused by its key, or its lack of one."""
        self._child(self.of["refusals"], (reason,)).inc()

    def serves(self, model: str) -> None:
        """Note that this model makes the predictions from now on."""
        for name, value in ((self._model, 0), (model, 1)):
            if name:
                self.of["info"].labels(__version__, name).set(value)
        self._model = model

    def flush(self) -> None:
        """Add what was counted to the metrics, which takes longer than counting: workers share them in files. To be
        called once the requests in progress have ended, and now and then while there are some."""
        answered, self._answered = self._answered, {}
        for labels, count in answered.items():
            self._child(self.of["requests"], labels).inc(count)
        for route, observations in self._request_seconds.items():
            if observations.total_s:
                self._child(self.of["seconds"], (route,)).add(observations)
        for (kind, outcome), count in self._outcomes.items():
            if count:
                self._child(self.of[kind], (outcome,)).inc(count)
                self._outcomes[kind, outcome] = 0
        if self._acknowledged_seconds.total_s:
            self.of["acknowledgement_seconds"].add(self._acknowledged_seconds)
        if self.waiting != self._shown_waiting:
            self._shown_waiting = self.waiting
            self.of["in_flight"].set(self.waiting)

    def render(self) -> bytes:
        """Return the metrics of this process, or of all workers together, in the Prometheus text format."""
        if not self._folder:
            return generate_latest(self._registry)
        for file in Path(self._folder).glob("gauge_live*_*.db"):
            pid = int(file.stem.rpartition("_")[2])
            try:
                os.kill(pid, 0)
            except ProcessLookupError:  # it was killed, and could not remove its live gauges itself
                mark_process_dead(pid, self._folder)  # type: ignore[no-untyped-call]
        together = CollectorRegistry()
        MultiProcessCollector(together, path=self._folder)  # type: ignore[no-untyped-call]
        return generate_latest(together)
