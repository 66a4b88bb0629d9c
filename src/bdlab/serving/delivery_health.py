"""Whether the broker acknowledges: only deliveries show that too few replicas are in sync."""

import time

#: Seconds beyond the delivery time-out for which a failure counts. A server that gets no requests because
#: it is not ready has to become ready again by itself.
LINGER_S = 10.0


class DeliveryHealth:
    """Remembers the last delivery. A broker without its in-sync majority answers probes and takes no event.

    For the event loop only.
    """

    def __init__(self, *, delivery_timeout_s: float) -> None:
        self._fresh_s = delivery_timeout_s + LINGER_S
        self._failed_at = 0.0
        self._why = ""

    def succeeded(self) -> None:
        self._why = ""

    def failed(self, why: str) -> None:
        self._failed_at, self._why = time.monotonic(), why

    @property
    def problem(self) -> str:
        """Why events are not acknowledged; empty after a success, or if the failure is old."""
        return self._why if time.monotonic() - self._failed_at < self._fresh_s else ""
