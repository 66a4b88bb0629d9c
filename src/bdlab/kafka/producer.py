"""The producer: events in, acknowledgements out, through broker restarts and changes of the login."""

from __future__ import annotations

import threading
import time
from collections import deque

import msgspec
import structlog

from bdlab.credentials import KafkaCredentials, KafkaLogin
from bdlab.errors import (
    BrokerError,
    BrokerRefused,
    BrokerUnavailable,
    NotAcknowledged,
    TopicMissing,
    VaultError,
)
from bdlab.events import Headers, PredictionEvent, encode, headers, new_traceparent
from bdlab.kafka.connection import same_error
from bdlab.kafka.link import QUEUE_EVENTS, Delivery, Done, Link

log = structlog.get_logger()

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
        self._client_id = client_id
        self._source = source
        self._lock = threading.Lock()
        self._opened = False
        self._closing = False
        self._stopped = threading.Event()
        self._attention = threading.Event()
        self._changed = threading.Event()
        self._active: Link | None = None
        self._candidate: Link | None = None
        self._retiring: list[Link] = []
        self._waiting: deque[_Waiting] = deque()
        self._outstanding: deque[Delivery] = deque()
        self._finished: deque[Link] = deque()
        self._problem: BrokerError | None = None
        self._said = False
        self._distrusted: KafkaLogin | None = None
        self._delivery_timeout_s = 0.0
        self._polling = threading.Thread(target=self._poll, name="kafka-producer-poll", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="kafka-producer-watch", daemon=True)

    def open(self) -> None:
        """Start connecting; does not wait for a broker. Raises VaultError where there is no login."""
        self._delivery_timeout_s = self._credentials.kafka().server.delivery_timeout_s
        self._problem = BrokerUnavailable("no connection to the broker yet")
        self._opened = True
        self._watching.start()
        self._polling.start()

    def __enter__(self) -> Producer:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(self, event: PredictionEvent, done: Done, *, traceparent: str = "") -> None:
        """Hand over one event; returns at once, from any thread.

        `done` gets the position, or NotAcknowledged, BrokerUnavailable (never sent), BrokerRefused,
        TopicMissing or EventTooLarge. It runs on the polling thread: it has to be quick and must not raise.
        Raises BrokerUnavailable where too many events wait already, and BrokerRefused, TopicMissing or
        EventTooLarge where that is known beforehand; `done` is then never called.
        """
        key, value = encode(event)
        head = headers(event, source=self._source, traceparent=traceparent or new_traceparent())
        self.publish_raw(key, value, head, done)

    def publish_raw(self, key: bytes | None, value: bytes | None, head: Headers, done: Done) -> None:
        """Hand over a record as it is, which may be no event at all; otherwise as `publish`."""
        delivery = Delivery(done, time.monotonic() + self._delivery_timeout_s)
        with self._lock:
            if not self._opened or self._closing:
                raise BrokerUnavailable("the producer is not open")
            link = self._active
            if link is not None and link.verified:
                link.send(delivery, key, value, head)
            else:
                self._queue(_Waiting(delivery, key, value, head))
            self._outstanding.append(delivery)

    def _queue(self, event: _Waiting) -> None:
        if isinstance(self._problem, BrokerRefused | TopicMissing):
            raise same_error(self._problem)
        if len(self._waiting) >= QUEUE_EVENTS:
            raise BrokerUnavailable(
                f"too many events wait for the broker ({len(self._waiting)})", hint="Retry a little later."
            )
        self._waiting.append(event)

    @property
    def problem(self) -> BrokerError | None:
        """Why nothing can be published now; None where the broker takes events."""
        return self._problem

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
        for link in (self._active, self._candidate, *self._retiring, *self._finished):
            if link is not None:
                link.client.close()
        self._opened = False

    # The polling thread. It alone settles deliveries.

    def _poll(self) -> None:
        while not self._stopped.is_set():
            link = self._active
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
        problem = self._problem
        failed: list[tuple[Delivery, BrokerError]] = []
        with self._lock:
            link = self._active
            while self._waiting:
                if link is not None and link.verified:
                    event = self._waiting.popleft()
                    if event.delivery.settled:
                        continue
                    try:
                        link.send(event.delivery, event.key, event.value, event.headers)
                    except BrokerError as error:
                        failed.append((event.delivery, error))
                elif isinstance(problem, BrokerRefused | TopicMissing):
                    failed.append((self._waiting.popleft().delivery, same_error(problem)))
                elif self._waiting[0].delivery.settled:
                    self._waiting.popleft()
                else:
                    break
        for delivery, failure in failed:
            delivery.settle(failure)

    def _finish_retired(self) -> None:
        for link in list(self._retiring):
            link.poll(0)
            if link.idle:
                self._retiring.remove(link)
                self._finished.append(link)

    def _expire(self, moment: float) -> None:
        """Keep the promise of the deadline also where librdkafka does not: its own timer is coarse."""
        outstanding = self._outstanding
        while outstanding and (outstanding[0].settled or outstanding[0].deadline <= moment):
            delivery = outstanding.popleft()
            if not delivery.settled:
                delivery.settle(self._late(delivery))

    def _late(self, delivery: Delivery) -> BrokerError:
        problem = self._problem
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
        links = [link for link in (self._active, *self._retiring) if link is not None]
        for link in links:
            link.give_up()
        while self._outstanding:
            self._outstanding.popleft().settle(
                NotAcknowledged("the producer was closed before the broker acknowledged the event")
            )
        for link in links:
            link.poll(0)

    # The watching thread. It alone makes links and puts them in place.

    def _watch(self) -> None:
        pause = _FIRST_PAUSE_S
        while not self._stopped.is_set():
            self._attention.clear()
            in_line = self._look(timeout_s=min(4.0, max(0.5, 4 * pause)))
            self._close_finished()
            if in_line:
                pause = _FIRST_PAUSE_S
                self._attention.wait(_HEALTHY_CHECK_S)
            else:
                self._stopped.wait(pause)
                pause = min(_LONGEST_PAUSE_S, pause * 1.5)

    def _look(self, timeout_s: float) -> bool:
        """Bring the connection into line with login and broker; False where that has to be retried."""
        active = self._active
        login = self._login(refresh=active is None or not active.verified)
        try:
            if active is None or login is not active.login or not active.works(timeout_s):
                self._replace(active, login, timeout_s)
        except BrokerError as error:
            if active is None or active.login is login or not self._holds(active, timeout_s):
                self._failed(error)
            elif self._distrusted is not login:
                self._distrusted = login
                log.warning("newer Kafka login does not work, the older one stays", problem=error.message)
            return False
        self._solved()
        return True

    def _holds(self, active: Link, timeout_s: float) -> bool:
        """Whether `active` can still be used while a newer login cannot."""
        try:
            held = active.works(timeout_s)
        except BrokerError:
            return False
        if held:
            self._solved()
        return held

    def _login(self, *, refresh: bool) -> KafkaLogin:
        if refresh:
            try:
                return self._credentials.refresh_kafka()
            except VaultError as error:
                log.debug("Kafka login not refreshed", problem=error.message)
        return self._credentials.kafka()

    def _replace(self, active: Link | None, login: KafkaLogin, timeout_s: float) -> None:
        """Put a link with `login` in the place of `active`, once it is proved to work. Raises BrokerError."""
        candidate = self._candidate
        if candidate is None or candidate.login is not login or candidate.fatal or candidate.replaced:
            candidate = self._candidate = Link(login, client_id=self._client_id, wake=self._attention.set)
        if not candidate.works(timeout_s):
            raise BrokerUnavailable("the connection to the broker was lost again at once")
        self._candidate = None
        with self._lock:
            self._active = candidate
            self._delivery_timeout_s = login.server.delivery_timeout_s
            if active is not None:
                self._retiring.append(active)
        self._changed.set()
        if active is None:
            log.info(
                "connected to Kafka",
                servers=login.server.bootstrap_servers,
                cluster_id=candidate.cluster_id,
                topic=candidate.topic,
            )
            return
        same_log = active.cluster_id == candidate.cluster_id and not active.replaced
        if not same_log or active.fatal or not active.verified:
            active.give_up()
        log.info(
            "Kafka client replaced",
            servers=login.server.bootstrap_servers,
            user=login.username,
            cluster_id=candidate.cluster_id,
            same_log=same_log,
        )

    def _close_finished(self) -> None:
        """Here and not on the polling thread, which must not wait for librdkafka's threads to end."""
        while self._finished:
            self._finished.popleft().client.close()

    def _failed(self, error: BrokerError) -> None:
        if type(self._problem) is not type(error) or not self._said:
            log.warning("Kafka is not usable", problem=error.message)
            self._said = True
        self._problem = error

    def _solved(self) -> None:
        if self._said:
            log.info("Kafka is usable again")
            self._said = False
        self._problem = None
