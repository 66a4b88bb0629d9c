"""How far the sink is behind the log, looked up now and then beside the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import structlog

from bdlab.errors import BrokerError, VaultError
from bdlab.ledger import LogPartition
from bdlab.sink.loop import Sink
from bdlab.sink.metrics import SinkMetrics

log = structlog.get_logger()


class LagWatch:
    """Every `every_s` seconds tells the sink the logs' ends, and the metrics the lag. In a thread of its own.

    A broker that does not answer costs a look, no more: the loop notices it by itself.
    """

    def __init__(
        self,
        sink: Sink,
        metrics: SinkMetrics,
        ends: Callable[[], Mapping[LogPartition, int]],
        *,
        every_s: float = 5.0,
    ) -> None:
        self._sink = sink
        self._metrics = metrics
        self._ends = ends
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lag", daemon=True)

    def __enter__(self) -> LagWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for a look that is under way at most 10 s; a daemon thread cannot keep the process longer."""
        self._stop.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.look()
            except (BrokerError, VaultError) as error:
                log.debug("lag unknown", problem=error.message)

    def look(self) -> None:
        """One look. Raises BrokerError and VaultError."""
        ends = self._ends()
        self._sink.saw_ends(ends)
        self._metrics.lag(
            {
                where.partition: max(0, ends[where] - recorded)
                for where, recorded in self._sink.recorded.items()
                if where in ends
            }
        )
