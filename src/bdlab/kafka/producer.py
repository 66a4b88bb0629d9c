"""The producer: events in, acknowledgements out, through broker restarts and changes of the login or of the log behind
the address, which replace its client."""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from bdlab.credentials import Connecting, KafkaCredentials, KafkaLogin
from bdlab.errors import BrokerError, BrokerRefused, BrokerUnavailable, NotAcknowledged, TopicMissing
from bdlab.events import UNKNOWN, Event, Headers, Origin, encode, headers, new_traceparent
from bdlab.kafka.connection import copied, current_login
from bdlab.kafka.producer_client import QUEUE_EVENTS, Done, PendingEvent, ProducerClient, not_acknowledged, too_many
from bdlab.retry import Backoff, Outage

log = structlog.get_logger()
_POLL_S = 0.01
_Unsent = tuple[PendingEvent, bytes | None, bytes | None, Headers]
_LONGEST_AGE_S = 30.0
#: For how long a topic that was there may be missing: a broker with ZooKeeper knows of no topic when it has
#: just started, and nobody has to create it.
_TOPIC_MAY_BE_MISSING_S = 3.0


@dataclass(eq=False)
class ProducerFailover:
    """Keeps a producer's client in line with the login and with the log behind the broker's address. `active` is the
    client in use, None before the first; `problem` says why it cannot be used now. A client that was replaced is put
    into `retired`; the polling thread serves it to its end and puts it into `finished`. Both change under `lock`, so
    that no event goes to a retired client. All else is for one thread, the watching one."""

    credentials: KafkaCredentials
    client_id: str
    lock: threading.Lock
    wake: Callable[[], None]
    idempotent: bool

    def __post_init__(self) -> None:
        self.active: ProducerClient | None = None
        self.retired, self.finished = deque[ProducerClient](), deque[ProducerClient]()
        self.problem: BrokerError | None = BrokerUnavailable("no connection to the broker yet")
        self._candidate: ProducerClient | None = None
        self._failures = Backoff(0.5, _LONGEST_AGE_S)
        self._least_age_s = self._failures.next_s()
        self._outage = Outage("Kafka is not usable", "Kafka is usable again")
        self._distrusted: KafkaLogin | None = None
        self._topic_missing_since: float | None = None

    def check(self, timeout_s: float) -> bool:
        """Replace the client if that is needed; return false if it has to be tried again."""
        active = self.active
        doubtful = active is None or not active.verified or active.refused is not None
        login = current_login(self.credentials, refresh=doubtful)
        try:
            if active is None or login is not active.login or not active.works(timeout_s):
                self._replace(active, login, timeout_s)
        except BrokerError as error:
            if active is None or active.login is login or not self._still_works(active, timeout_s):
                self._failed(error)
            elif self._distrusted is not login:
                self._distrusted = login
                log.warning("newer Kafka login does not work, the older one stays", problem=error.message)
            return False
        self._solved()
        return True

    def _still_works(self, active: ProducerClient, timeout_s: float) -> bool:
        with suppress(BrokerError):
            if active.works(timeout_s):
                self._solved()
                return True
        return False

    def _replace(self, active: ProducerClient | None, login: KafkaLogin, timeout_s: float) -> None:
        if active is not None and active.fatal and active.login is login:
            self._raise_if_too_young(active)
        candidate, self._candidate = self._candidate, None
        if candidate is not None and (candidate.login is not login or candidate.fatal or candidate.replaced):
            self.finished.append(candidate)
            candidate = None
        self._candidate = candidate = candidate or ProducerClient(
            login, client_id=self.client_id, wake=self.wake, idempotent=self.idempotent
        )
        if not candidate.works(timeout_s):
            raise BrokerUnavailable("the connection to the broker was lost again at once")
        self._candidate = None
        with self.lock:
            self.active = candidate
            if active is not None:
                self.retired.append(active)
        self.credentials.using(self.client_id, login)
        servers, cluster_id = login.server.bootstrap_servers, candidate.cluster_id
        if active is None:
            log.info("connected to Kafka", servers=servers, cluster_id=cluster_id, topic=candidate.topic)
            return
        same_log = active.cluster_id == cluster_id and not active.replaced
        if not same_log or active.fatal or not active.verified:
            active.give_up()
        log.info(
            "Kafka client replaced", servers=servers, user=login.username, cluster_id=cluster_id, same_log=same_log
        )

    def _raise_if_too_young(self, active: ProducerClient) -> None:
        """Raise the error of a client that failed for good too soon after its start to be replaced at once. A user who
        may not write at all is connected, and fails with the first event."""
        age_s = time.monotonic() - active.created_at
        if age_s < self._least_age_s:
            raise active.fatal_error()
        if active.refused is None or age_s >= 2 * _LONGEST_AGE_S:
            self._failures.reset()
        self._least_age_s = self._failures.next_s()

    def close_finished(self) -> None:
        """Close finished clients; the polling thread must not wait for librdkafka's threads to end."""
        while self.finished:
            self.finished.popleft().close()

    def close(self) -> None:
        """Close every client."""
        self.credentials.using(self.client_id, None)
        for client in (self.active, self._candidate, *self.retired, *self.finished):
            if client is not None:
                client.close()

    def _failed(self, error: BrokerError) -> None:
        """Note why events cannot be sent: BrokerUnavailable if the broker will soon know of its topic again."""
        now = time.monotonic()
        self._topic_missing_since = (self._topic_missing_since or now) if isinstance(error, TopicMissing) else None
        if self.active and self._topic_missing_since and now - self._topic_missing_since < _TOPIC_MAY_BE_MISSING_S:
            error = BrokerUnavailable(error.message, hint="The broker may have just started: try again soon.")
        self._outage.failed(error)
        self.problem = error

    def _solved(self) -> None:
        self._outage.over()
        self.problem = self._topic_missing_since = None


class Producer(Connecting):
    """Publishes events with `acks=all`, and an idempotent client if `idempotent`. Without it a request that
    is repeated may put an event on the topic twice, of which one is stored, and the first event does not wait for a
    producer id, for which librdkafka asks each half second only. Each event's `done` is called once, within
    `kafka.delivery_timeout_s`, by whoever polls: with the event's position or with the error. That is a thread, until
    `take_polling` hands it to the caller. `source` is the CloudEvents source of all events, a URI reference. Another
    thread watches the login and the broker, and replaces the client if one of them changes."""

    def __init__(self, credentials: KafkaCredentials, *, client_id: str, source: str, idempotent: bool = True) -> None:
        self._credentials, self._source, self._lock = credentials, source, threading.Lock()
        self._opened = self._closing = self._polled_by_caller = False
        self._stopped, self._attention, self._changed = threading.Event(), threading.Event(), threading.Event()
        self._failover = ProducerFailover(
            credentials, client_id=client_id, lock=self._lock, wake=self._attention.set, idempotent=idempotent
        )
        #: Events that came while no broker answered, each as the arguments of `ProducerClient.send`.
        self._unsent: deque[_Unsent] = deque()
        self._outstanding: deque[PendingEvent] = deque()
        self._delivery_timeout_s = 0.0
        self._polling = threading.Thread(target=self._poll_until_stopped, name="kafka-producer-poll", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="kafka-producer-watch", daemon=True)

    def open(self) -> None:
        """Start to connect, without waiting for a broker. Raises VaultError if there is no login."""
        self._delivery_timeout_s = self._credentials.kafka().server.delivery_timeout_s
        self._opened = True
        self._watching.start()
        self._polling.start()

    def publish(self, event: Event, done: Done, origin: Origin = UNKNOWN) -> None:
        """Publish one event in the background. For any thread. The source of `origin` replaces the producer's own.
        `done` gets the position, or NotAcknowledged, BrokerUnavailable (never sent), BrokerRefused, TopicMissing or
        EventTooLarge. Whoever polls runs it: it has to be quick and must not raise. Raises BrokerUnavailable if too
        many events wait already, and one of those errors if it is known at once; `done` is then never called."""
        key, value = encode(event)
        trace, source = origin.traceparent or new_traceparent(), origin.source or self._source
        head = headers(event, source=source, traceparent=trace, origin=origin, key=key)
        self.publish_raw(key, value, head, done)

    def publish_raw(self, key: bytes | None, value: bytes | None, head: Headers, done: Done) -> None:
        """Publish a record as it is, which may be no event; otherwise as `publish`."""
        delivery = PendingEvent(done, time.monotonic() + self._delivery_timeout_s)
        with self._lock:
            if not self._opened or self._closing:
                raise BrokerUnavailable("the producer is not open")
            client = self._failover.active
            if client is None or not client.verified or not client.send(delivery, key, value, head):
                if isinstance(self._failover.problem, BrokerRefused | TopicMissing):
                    raise copied(self._failover.problem)
                if len(self._unsent) >= QUEUE_EVENTS:
                    raise too_many(self._unsent)
                self._unsent.append((delivery, key, value, head))
            self._outstanding.append(delivery)

    @property
    def problem(self) -> BrokerError | None:
        """Return why nothing can be published now; None if the broker takes events."""
        return self._failover.problem

    @property
    def in_flight(self) -> int:
        """Return how many events wait for their `done`; for some it may just have been called."""
        return len(self._outstanding)

    def close(self, timeout_s: float = 10.0) -> None:
        """Wait up to `timeout_s` seconds for the acknowledgements, fail the rest, and stop. Raises BrokerError."""
        if not self._opened:
            return
        deadline = time.monotonic() + timeout_s
        with self._lock:
            self._closing = True
        while self.in_flight and time.monotonic() < deadline:
            if self._polled_by_caller:
                self.poll(_POLL_S)
            else:
                time.sleep(_POLL_S)
        for event in (self._stopped, self._attention, self._changed):
            event.set()
        for thread in (self._watching, self._polling):
            thread.join(timeout=15)
            if thread.is_alive():
                raise BrokerError(f"the thread {thread.name} did not stop within 15 s")
        self._abandon()
        self._failover.close()
        self._opened = False

    # Polling: only one thread at a time does it, and nothing else completes events.

    def take_polling(self) -> None:
        """End the polling thread: from now on the caller calls `poll`, at least each 50 ms. While events wait for their
        acknowledgement, how often it is called is what they wait longer."""
        self._polled_by_caller = True
        self._changed.set()
        if self._polling.is_alive():
            self._polling.join()

    def poll(self, timeout_s: float = 0.0) -> None:
        """Complete the events that are done or late; wait for the first up to `timeout_s` seconds. Does nothing once
        the producer is closed."""
        if not self._opened:
            return
        client = self._failover.active
        if client is not None:
            client.poll(timeout_s)
        elif timeout_s:
            self._changed.wait(timeout_s)
            self._changed.clear()
        if self._unsent:
            self._send_unsent()
        if self._failover.retired:
            self._finish_retired()
        self._expire(time.monotonic())

    def _poll_until_stopped(self) -> None:
        while not (self._stopped.is_set() or self._polled_by_caller):
            self.poll(_POLL_S)

    def _send_unsent(self) -> None:
        problem = self._failover.problem
        failed: list[tuple[PendingEvent, BrokerError]] = []
        with self._lock:
            client = self._failover.active
            while self._unsent:
                delivery, *_ = event = self._unsent[0]
                if delivery.completed:
                    pass
                elif client is not None and client.verified:
                    try:
                        if not client.send(*event):
                            break
                    except BrokerError as error:
                        failed.append((delivery, error))
                elif isinstance(problem, BrokerRefused | TopicMissing):
                    failed.append((delivery, copied(problem)))
                else:
                    break
                self._unsent.popleft()
        for delivery, failure in failed:
            delivery.complete(failure)

    def _finish_retired(self) -> None:
        for client in list(self._failover.retired):
            client.poll(0)
            if client.idle:
                self._failover.retired.remove(client)
                self._failover.finished.append(client)

    def _expire(self, moment: float) -> None:
        """Fail events at their deadline; librdkafka's own timer is too coarse."""
        outstanding = self._outstanding
        while outstanding and (outstanding[0].completed or outstanding[0].deadline <= moment):
            delivery = outstanding.popleft()
            if not delivery.completed:
                delivery.complete(self._late(delivery))

    def _late(self, delivery: PendingEvent) -> BrokerError:
        problem = self._failover.problem
        why = f"within {self._delivery_timeout_s:g} s" + (f": {problem.message}" if problem is not None else "")
        if delivery.client is not None:
            return not_acknowledged(f"the broker did not acknowledge the event {why}")
        hint = "Retry when the broker is back; the event is not on the topic."
        return BrokerUnavailable(f"no broker took the event {why}", hint=hint)

    def _abandon(self) -> None:
        clients = [client for client in (self._failover.active, *self._failover.retired) if client is not None]
        for client in clients:
            client.give_up()
        closed = "the producer was closed before the broker acknowledged the event"
        while self._outstanding:
            self._outstanding.popleft().complete(NotAcknowledged(closed))
        for client in clients:
            client.poll(0)

    # The watching thread.

    def _watch(self) -> None:
        backoff, pause_s = Backoff(), 0.0
        while not self._stopped.is_set():
            self._attention.clear()
            usable = self._failover.check(timeout_s=min(4.0, max(0.5, 4 * pause_s)))
            if (client := self._failover.active) is not None:
                self._delivery_timeout_s = client.login.server.delivery_timeout_s
            self._changed.set()
            self._failover.close_finished()
            pause_s = 0.0 if usable else backoff.wait(self._stopped)
            if usable:
                backoff.reset()
                self._attention.wait(0.5)
