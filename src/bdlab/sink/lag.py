"""Measures how far the sink is behind the log, beside the loop."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import structlog

from bdlab.errors import BrokerError, VaultError
from bdlab.ledger import LogPartition
from bdlab.sink.loop import Sink
from bdlab.sink.metrics import SinkMetrics

log = structlog.get_logger()
_EVERY_S = 5.0


@dataclass
class LagWatch:
    """A thread that tells the sink the logs' ends, and the metrics the lag, each 5 s. If the broker does not answer,
    one measurement is missing: the loop notices the outage by itself."""

    sink: Sink
    metrics: SinkMetrics
    ends: Callable[[], Mapping[LogPartition, int]]

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lag", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; wait at most 10 s for a measurement that is under way."""
        self._stop.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_S):
            try:
                self.measure()
            except (BrokerError, VaultError) as error:
                log.debug("lag unknown", problem=error.message)

    def measure(self) -> None:
        """Measure once. Raises BrokerError and VaultError."""
        ends = self.ends()
        self.sink.note_ends(ends)
        recorded = self.sink.recorded.items()
        self.metrics.lag({at.partition: max(0, ends[at] - next_) for at, next_ in recorded if at in ends})
