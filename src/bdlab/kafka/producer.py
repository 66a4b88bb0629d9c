"""The producer: events in, acknowledgements out, through broker restarts and changes of the login."""

from __future__ import annotations

import threading
import time
from collections import deque

import msgspec

from bdlab.credentials import KafkaCredentials
from bdlab.errors import BrokerError, BrokerRefused, BrokerUnavailable, NotAcknowledged, TopicMissing
from bdlab.events import Headers, PredictionEvent, encode, headers, new_traceparent
from bdlab.kafka.connection import same_error
from bdlab.kafka.producer_client import QUEUE_EVENTS, Delivery, Done
from bdlab.kafka.producer_failover import Keeper
from bdlab.retry import Backoff

_POLL_S = 0.05
_HEALTHY_CHECK_S = 0.5
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0


class _Waiting(msgspec.Struct, frozen=True):
    """An event that came while no broker was there to take it."""

    delivery: Delivery
    key: bytes | None
    value: bytes | None
    headers: Headers


class Producer:
    """Publishes prediction events with `acks=all` and an idempotent client.

    Each event's `done` is called once, within `kafka.delivery_timeout_s`, on the polling thread: with the
    event's position, or with what went wrong. `source` is the CloudEvents source of all events, a URI
    reference. Two threads: one polls and settles, the other watches the login and the broker, and replaces
    the client when either has changed.
    """

    def __init__(self, credentials: KafkaCredentials, *, client_id: str, source: str) -> None:
        self._credentials = credentials
        self._source = source
        self._lock = threading.Lock()
        self._opened = False
        self._closing = False
        self._stopped = threading.Event()
        self._attention = threading.Event()
        self._changed = threading.Event()
        self._keeper = Keeper(credentials, client_id=client_id, lock=self._lock, wake=self._attention.set)
        self._waiting: deque[_Waiting] = deque()
        self._outstanding: deque[Delivery] = deque()
        self._delivery_timeout_s = 0.0
        self._polling = threading.Thread(target=self._poll, name="kafka-producer-poll", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="kafka-producer-watch", daemon=True)

    def open(self) -> None:
        """Start connecting; does not wait for a broker. Raises VaultError where there is no login."""
        self._delivery_timeout_s = self._credentials.kafka().server.delivery_timeout_s
        self._opened = True
        self._watching.start()
        self._polling.start()

    def __enter__(self) -> Producer:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(self, event: PredictionEvent, done: Done, *, traceparent: str = "", source: str = "") -> None:
        """Hand over one event, whose CloudEvents source may be another than the producer's; returns at once,
        from any thread.

        `done` gets the position, or NotAcknowledged, BrokerUnavailable (never sent), BrokerRefused,
        TopicMissing or EventTooLarge. It runs on the polling thread: it has to be quick and must not raise.
        Raises BrokerUnavailable where too many events wait already, and BrokerRefused, TopicMissing or
        EventTooLarge where that is known beforehand; `done` is then never called.
        """
        key, value = encode(event)
        head = headers(event, source=source or self._source, traceparent=traceparent or new_traceparent())
        self.publish_raw(key, value, head, done)

    def publish_raw(self, key: bytes | None, value: bytes | None, head: Headers, done: Done) -> None:
        """Hand over a record as it is, which may be no event at all; otherwise as `publish`."""
        delivery = Delivery(done, time.monotonic() + self._delivery_timeout_s)
        with self._lock:
            if not self._opened or self._closing:
                raise BrokerUnavailable("the producer is not open")
            link = self._keeper.active
            if link is None or not link.verified or not link.send(delivery, key, value, head):
                self._queue(_Waiting(delivery, key, value, head))
            self._outstanding.append(delivery)

    def _queue(self, event: _Waiting) -> None:
        if isinstance(self._keeper.problem, BrokerRefused | TopicMissing):
            raise same_error(self._keeper.problem)
        if len(self._waiting) >= QUEUE_EVENTS:
            raise BrokerUnavailable(
                f"too many events wait for the broker ({len(self._waiting)})", hint="Retry a little later."
            )
        self._waiting.append(event)

    @property
    def problem(self) -> BrokerError | None:
        """Why nothing can be published now; None where the broker takes events."""
        return self._keeper.problem

    @property
    def in_flight(self) -> int:
        """Events that were handed over and whose `done` was not called yet (some may just have been)."""
        return len(self._outstanding)

    def close(self, timeout_s: float = 10.0) -> None:
        """Wait up to `timeout_s` seconds for the acknowledgements, fail the rest, and stop.

        Raises BrokerError where a thread does not stop.
        """
        if not self._opened:
            return
        deadline = time.monotonic() + timeout_s
        with self._lock:
            self._closing = True
        while self.in_flight and time.monotonic() < deadline and self._polling.is_alive():
            time.sleep(_POLL_S)
        self._stopped.set()
        self._attention.set()
        self._changed.set()
        for thread in (self._watching, self._polling):
            thread.join(timeout=15)
            if thread.is_alive():
                raise BrokerError(f"the thread {thread.name} did not stop within 15 s")
        self._keeper.close()
        self._opened = False

    # The polling thread. It alone settles deliveries.

    def _poll(self) -> None:
        while not self._stopped.is_set():
            link = self._keeper.active
            if link is None:
                self._changed.wait(_POLL_S)
                self._changed.clear()
            else:
                link.poll(_POLL_S)
            self._send_waiting()
            self._finish_retired()
            self._expire(time.monotonic())
        self._abandon()

    def _send_waiting(self) -> None:
        if not self._waiting:
            return
        problem = self._keeper.problem
        failed: list[tuple[Delivery, BrokerError]] = []
        with self._lock:
            link = self._keeper.active
            while self._waiting:
                event = self._waiting[0]
                if event.delivery.settled:
                    pass
                elif link is not None and link.verified:
                    try:
                        if not link.send(event.delivery, event.key, event.value, event.headers):
                            break
                    except BrokerError as error:
                        failed.append((event.delivery, error))
                elif isinstance(problem, BrokerRefused | TopicMissing):
                    failed.append((event.delivery, same_error(problem)))
                else:
                    break
                self._waiting.popleft()
        for delivery, failure in failed:
            delivery.settle(failure)

    def _finish_retired(self) -> None:
        for link in list(self._keeper.retired):
            link.poll(0)
            if link.idle:
                self._keeper.retired.remove(link)
                self._keeper.finished.append(link)

    def _expire(self, moment: float) -> None:
        """Keep the promise of the deadline also where librdkafka does not: its own timer is coarse."""
        outstanding = self._outstanding
        while outstanding and (outstanding[0].settled or outstanding[0].deadline <= moment):
            delivery = outstanding.popleft()
            if not delivery.settled:
                delivery.settle(self._late(delivery))

    def _late(self, delivery: Delivery) -> BrokerError:
        problem = self._keeper.problem
        why = f": {problem.message}" if problem is not None else ""
        if not delivery.sent:
            return BrokerUnavailable(
                f"no broker took the event within {self._delivery_timeout_s:g} s{why}",
                hint="Retry when the broker is back; the event is not on the topic.",
            )
        return NotAcknowledged(
            f"the broker did not acknowledge the event within {self._delivery_timeout_s:g} s{why}",
            hint="Retry with the same id: the event may or may not be on the topic.",
        )

    def _abandon(self) -> None:
        """Fail whatever is left when the producer closes."""
        links = [link for link in (self._keeper.active, *self._keeper.retired) if link is not None]
        for link in links:
            link.give_up()
        while self._outstanding:
            self._outstanding.popleft().settle(
                NotAcknowledged("the producer was closed before the broker acknowledged the event")
            )
        for link in links:
            link.poll(0)

    # The watching thread.

    def _watch(self) -> None:
        backoff, pause = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S), _FIRST_PAUSE_S
        while not self._stopped.is_set():
            self._attention.clear()
            in_line = self._keeper.look(timeout_s=min(4.0, max(0.5, 4 * pause)))
            if (link := self._keeper.active) is not None:
                self._delivery_timeout_s = link.login.server.delivery_timeout_s
            self._changed.set()
            self._keeper.close_finished()
            if in_line:
                backoff.reset()
                pause = _FIRST_PAUSE_S
                self._attention.wait(_HEALTHY_CHECK_S)
            else:
                pause = backoff.wait(self._stopped)
