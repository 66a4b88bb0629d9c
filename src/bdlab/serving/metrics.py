"""Prometheus metrics of the API, of one process or of several workers together."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from litestar.types import ASGIApp, Receive, Send
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from bdlab import __version__

CONTENT_TYPE = CONTENT_TYPE_LATEST.removesuffix("; charset=utf-8")
"""Without the charset, which Litestar adds to every text."""

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
"""The variable with the folder that the workers share; it is read when this module is imported."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()
        self._folder = os.environ.get(MULTIPROCESS_DIR, "")
        counter = partial(Counter, registry=self._registry)
        gauge = partial(Gauge, registry=self._registry)
        histogram = partial(Histogram, buckets=_SECONDS, registry=self._registry)
        self.requests = counter(
            "bdlab_http_requests_total",
            "Requests answered, by method, route and status.",
            ["method", "route", "status"],
        )
        self.seconds = histogram(
            "bdlab_http_request_seconds",
            "Time from the request's head to the end of its response.",
            ["route"],
        )
        self.predictions = counter(
            "bdlab_predictions_total",
            "Predictions by outcome: acknowledged by the broker, not acknowledged, or refused as busy.",
            ["outcome"],
        )
        self.acknowledgement_seconds = histogram(
            "bdlab_acknowledgement_seconds",
            "Time from handing an event to the producer to the broker's acknowledgement.",
        )
        self.in_flight = gauge(
            "bdlab_predictions_in_flight",
            "Predictions that wait for the broker now.",
            multiprocess_mode="livesum",
        )
        info = gauge(
            "bdlab_build_info",
            "Always 1; the labels say which version and model run.",
            ["version", "model"],
            multiprocess_mode="livemax",
        )
        info.labels(__version__, model).set(1)
        self.acknowledged = self.predictions.labels("acknowledged")
        self.not_acknowledged = self.predictions.labels("not_acknowledged")
        self.busy = self.predictions.labels("busy")

    def render(self) -> bytes:
        """Return the metrics of this process, or of all workers together, in the Prometheus text format."""
        if not self._folder:
            return generate_latest(self._registry)
        _forget_dead_workers(Path(self._folder))
        together = CollectorRegistry()
        MultiProcessCollector(together, path=self._folder)  # type: ignore[no-untyped-call]
        return generate_latest(together)

    def observe(self, app: ASGIApp) -> ASGIApp:
        """Return `app` with every request counted and timed, also those that match no route."""

        async def observed(scope: Any, receive: Receive, send: Send) -> None:
            status = 0
            started = time.perf_counter()

            async def noting_send(message: Any) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, noting_send)
            finally:
                route = scope.get("path_template") or "unmatched"
                self.requests.labels(scope["method"], route, str(status)).inc()
                self.seconds.labels(route).observe(time.perf_counter() - started)

        return observed


def _forget_dead_workers(folder: Path) -> None:
    """Remove the live gauges of workers that were killed and could not do it themselves."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
