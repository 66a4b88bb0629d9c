"""The producer for asyncio, polled by the event loop itself, and whether the broker acknowledges."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from bdlab.errors import BrokerError
from bdlab.events import UNKNOWN, Event, Origin, Position

_BUSY_S, _IDLE_S = 0.001, 0.05  # between two looks for acknowledgements while some are awaited, and while none is
#: Seconds beyond the delivery time-out for which a failure counts. A server that gets no requests because
#: it is not ready has to become ready again by itself.
LINGER_S = 10.0
_Result = Position | BrokerError


class EventProducer(Protocol):
    """The part of `bdlab.kafka.producer.Producer` that publishes."""

    def publish(self, event: Event, done: Callable[[_Result], None], origin: Origin = UNKNOWN) -> None: ...
    def take_polling(self) -> None: ...
    def poll(self) -> None: ...
    @property
    def in_flight(self) -> int: ...


class AsyncPublisher:
    """Publishes through an open `producer`, from the event loop in which it is constructed, and polls it. A timer
    polls: a thread would have to wake the loop for each acknowledgement, and they would take the interpreter's lock
    from each other."""

    def __init__(self, producer: EventProducer) -> None:
        self._producer = producer
        self._loop = asyncio.get_running_loop()
        self._busy = False
        producer.take_polling()
        self._poll_idle()

    def publish(self, event: Event, origin: Origin = UNKNOWN) -> asyncio.Future[Position]:
        """Publish one event; the future has its position once it is acknowledged. Raises BrokerUnavailable,
        BrokerRefused, TopicMissing or EventTooLarge if that is known at once. The future raises these or
        NotAcknowledged, at the latest after `kafka.delivery_timeout_s`."""
        future: asyncio.Future[Position] = self._loop.create_future()
        self._producer.publish(event, partial(_settle, future), origin)
        if not self._busy:
            self._busy = True
            self._loop.call_later(_BUSY_S, self._poll_busy)
        return future

    def _poll_busy(self) -> None:
        try:
            self._producer.poll()
        finally:
            self._busy = self._producer.in_flight > 0
            if self._busy:
                self._loop.call_later(_BUSY_S, self._poll_busy)

    def _poll_idle(self) -> None:
        """Keep up with what befalls the connection while nothing is published."""
        self._loop.call_later(_IDLE_S, self._poll_idle)
        if not self._busy:
            self._producer.poll()


def _settle(future: asyncio.Future[Position], result: _Result) -> None:
    if future.done():  # its task was cancelled
        return
    if isinstance(result, Position):
        future.set_result(result)
    else:
        future.set_exception(result)


class DeliveryHealth:
    """Remembers the last delivery, for the event loop only. Nothing else shows that too few replicas are in sync: such
    a broker answers probes and takes no event."""

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
