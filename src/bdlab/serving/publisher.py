"""The producer for asyncio. Acknowledgements reach the event loop in batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from bdlab.errors import BrokerError
from bdlab.events import Position, PredictionEvent

#: Acknowledgements that are handed over before the loop runs other tasks.
MAX_BATCH = 50

_Result = Position | BrokerError


class EventProducer(Protocol):
    """The part of `bdlab.kafka.producer.Producer` that publishes."""

    def publish(
        self,
        event: PredictionEvent,
        done: Callable[[_Result], None],
        *,
        traceparent: str = "",
        source: str = "",
    ) -> None: ...


class AsyncPublisher:
    """Publishes through an open `producer`, from the event loop in which it is constructed.

    The polling thread wakes the loop once for all acknowledgements that are waiting.
    """

    def __init__(self, producer: EventProducer) -> None:
        self._producer = producer
        self._loop = asyncio.get_running_loop()
        self._results: deque[tuple[asyncio.Future[Position], _Result]] = deque()
        self._woken = False

    async def publish(self, event: PredictionEvent, *, traceparent: str = "", source: str = "") -> Position:
        """Publish one event and return its position once it is acknowledged.

        Raises NotAcknowledged, BrokerUnavailable, BrokerRefused, TopicMissing or EventTooLarge, at the
        latest after `kafka.delivery_timeout_s`.
        """
        future: asyncio.Future[Position] = self._loop.create_future()
        done = partial(self._acknowledged, future)
        self._producer.publish(event, done, traceparent=traceparent, source=source)
        return await future

    def _acknowledged(self, future: asyncio.Future[Position], result: _Result) -> None:
        """Keep a result for the loop; called by the polling thread."""
        self._results.append((future, result))
        if not self._woken:
            self._woken = True
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        """Set the results of the futures; called by the loop."""
        self._woken = False  # first, so that a result which comes now wakes the loop again
        for _ in range(min(MAX_BATCH, len(self._results))):
            future, result = self._results.popleft()
            if future.done():
                continue
            if isinstance(result, Position):
                future.set_result(result)
            else:
                future.set_exception(result)
        if self._results:
            self._loop.call_soon(self._hand_over)
