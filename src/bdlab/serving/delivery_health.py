"""What became of the last predictions at the broker: only that shows that too few replicas are in sync."""

from __future__ import annotations

import time

#: For how many seconds beyond a delivery's own time the last failure counts. A replica that gets no requests
#: because it is not ready has to become ready again by itself.
LINGER_S = 10.0


class DeliveryHealth:
    """`problem` says why nothing is acknowledged; it is empty after a success, and when a failure is old.

    A broker that has lost its in-sync majority answers every question that a probe may ask and takes no
    event. For the event loop only.
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
        fresh = self._why and time.monotonic() - self._failed_at < self._fresh_s
        return self._why if fresh else ""
