"""One librdkafka producer, which writes to one log only, and the events that it has to deliver."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as Client

from bdlab.credentials import KafkaLogin
from bdlab.errors import BrokerError, BrokerRefused, BrokerUnavailable, NotAcknowledged
from bdlab.events import Headers, Position
from bdlab.kafka.connection import (
    ALL_BROKERS_DOWN,
    FATAL,
    MAX_MESSAGE_BYTES,
    PURGE_INFLIGHT,
    PURGE_QUEUE,
    TRANSPORT,
    broker_error,
    client_config,
    cluster_of,
    copy_error,
    no_answer,
)

log = structlog.get_logger()

Done = Callable[[Position | BrokerError], None]

#: The most that one client queues for the broker: events, and KiB of their keys, values and headers.
QUEUE_EVENTS = 100_000
QUEUE_KBYTES = 128 << 10


class PendingEvent:
    """An event that waits for its acknowledgement. Only the first `complete()` reaches the caller.

    Only the producer's polling thread calls it, so that no lock is needed.
    """

    __slots__ = ("completed", "deadline", "done", "sent")

    def __init__(self, done: Done, deadline: float) -> None:
        self.done = done
        self.deadline = deadline
        self.sent = False
        self.completed = False

    def complete(self, result: Position | BrokerError) -> None:
        if not self.completed:
            self.completed = True
            self.done(result)


class ProducerClient:
    """Publishes to one log.

    `verified`: since all connections were lost the last time, the broker has told its cluster id. Until then
    acknowledgements are held back, as they may come from another log that is at the address now; if that is
    so, `replaced` is set. `fatal`: the client has failed for good. `refused` is set if the broker does not
    accept the user.
    """

    def __init__(self, login: KafkaLogin, *, client_id: str, wake: Callable[[], None]) -> None:
        self.login = login
        self.topic = login.server.topic
        self.created_at = time.monotonic()
        self.cluster_id = ""
        self.verified = False
        self.replaced = False
        self.fatal = False
        self.refused: BrokerRefused | None = None
        self.last_problem = ""
        self._losses = 0
        self._wake = wake
        self._unverified: list[tuple[PendingEvent, Position]] = []
        # An event may be sent until the caller's own deadline, and not long after it.
        timeout_ms = max(1000, round(login.server.delivery_timeout_s * 1000))
        config = client_config(login, client_id=client_id) | {
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 2,
            "message.timeout.ms": timeout_ms,
            "request.timeout.ms": timeout_ms,
            "message.max.bytes": MAX_MESSAGE_BYTES,
            "queue.buffering.max.messages": QUEUE_EVENTS,
            "queue.buffering.max.kbytes": QUEUE_KBYTES,
            "error_cb": self._on_error,
        }
        try:
            self._client = Client(config)
        except KafkaException as error:
            raise broker_error(error, "the Kafka settings are not usable") from error

    def poll(self, timeout_s: float) -> None:
        """Run librdkafka's callbacks, which complete events."""
        try:
            self._client.poll(timeout_s)
        except KafkaException as error:
            # A fatal error comes as an exception instead of through the callback.
            self._on_error(error.args[0])
        self._release_unverified()

    def _on_error(self, error: KafkaError) -> None:
        self.last_problem = error.str()
        found = broker_error(error, f"refused by the broker at {self.login.server.bootstrap_servers}")
        if isinstance(found, BrokerRefused):
            self.refused = found
        if error.fatal():
            self.fatal = True
        if error.fatal() or error.code() == ALL_BROKERS_DOWN:
            self._losses += 1
            self.verified = False
        elif error.code() == TRANSPORT and not self.fatal:
            self.refused = None
            return
        self._wake()

    def verify(self, timeout_s: float) -> None:
        """Ask the broker which log it has, and set `verified`, or `replaced` if it is another one.

        Raises BrokerError if there is no answer, or the client has failed for good.
        """
        new = not self.cluster_id
        losses = self._losses
        try:
            cluster_id = cluster_of(self._client, self.topic, server=self.login.server, timeout_s=timeout_s)
        except BrokerUnavailable as error:
            if new:
                self.poll(0)  # nobody else polls it yet, and error_cb has the reason
            if self.refused is not None:
                raise self.refused from error
            raise no_answer(self.login.server, self.last_problem, error) from error
        if new:
            self.poll(0)
            losses = self._losses
        if self.fatal:
            # A user who may not write is connected first, and refused a moment later.
            raise self.fatal_error()
        self.refused = None
        self.last_problem = ""
        if not new and cluster_id != self.cluster_id:
            self.replaced = True
            return
        self.cluster_id = cluster_id
        self.verified = losses == self._losses

    def fatal_error(self) -> BrokerError:
        """Return why the client has failed for good."""
        return copy_error(self.refused or BrokerUnavailable(f"the client failed: {self.last_problem}"))

    def works(self, timeout_s: float) -> bool:
        """Whether events can be sent; asks the broker if that is in doubt. Raises BrokerError."""
        if not self.verified and not self.fatal and not self.replaced:
            self.verify(timeout_s)
        return self.verified

    def send(self, delivery: PendingEvent, key: bytes | None, value: bytes | None, headers: Headers) -> bool:
        """Queue an event; return false if the client has failed for good, and the next poll will tell why.

        Raises BrokerUnavailable if the queue is full, EventTooLarge, BrokerError.
        """

        def report(error: KafkaError | None, message: Message) -> None:
            self._report(delivery, error, message)

        try:
            self._client.produce(self.topic, value, key, on_delivery=report, headers=list(headers))
        except BufferError as error:
            raise BrokerUnavailable(
                f"too many events wait for the broker ({len(self._client)})", hint="Retry a little later."
            ) from error
        except KafkaException as error:
            if error.args[0].code() == FATAL:
                return False
            raise broker_error(error, f"publishing to topic {self.topic!r}") from error
        delivery.sent = True
        return True

    def _report(self, delivery: PendingEvent, error: KafkaError | None, message: Message) -> None:
        if delivery.completed:
            return
        if error is not None:
            delivery.complete(self._failure(error))
        elif self.replaced or self.fatal:
            delivery.complete(self._lost())
        else:
            offset, partition = message.offset(), message.partition()
            if offset is None or partition is None or offset < 0:
                delivery.complete(NotAcknowledged("the broker acknowledged the event without its offset"))
                return
            position = Position(self.cluster_id, self.topic, partition, offset)
            if self.verified:
                delivery.complete(position)
            else:
                self._unverified.append((delivery, position))

    def _failure(self, error: KafkaError) -> BrokerError:
        found = broker_error(error, f"publishing to topic {self.topic!r}")
        if not isinstance(found, BrokerUnavailable):
            return found
        if self.replaced or self.fatal or error.code() in (PURGE_QUEUE, PURGE_INFLIGHT):
            return self._lost()
        why = f"; last: {self.last_problem}" if self.last_problem else ""
        return NotAcknowledged(
            f"the broker did not acknowledge the event ({error.str()}{why})",
            hint="Retry with the same id: the event may or may not be on the topic.",
        )

    def _lost(self) -> BrokerError:
        if self.fatal and self.refused is not None:
            return copy_error(self.refused)
        return NotAcknowledged(
            "the connection to the broker was given up before it acknowledged the event",
            hint="Retry with the same id: the event may or may not be on the topic.",
        )

    def _release_unverified(self) -> None:
        """Complete the events that were held back, once it is known which log has them."""
        if not self._unverified or not (self.verified or self.replaced):
            return
        unverified, self._unverified = self._unverified, []
        for delivery, position in unverified:
            delivery.complete(self._lost() if self.replaced else position)

    def give_up(self) -> None:
        """Fail everything that is queued or in flight; the next polls complete it."""
        self.replaced = True
        self._client.purge()

    @property
    def idle(self) -> bool:
        return not len(self._client) and not self._unverified

    def close(self) -> None:
        """End the client, which cannot be used any more."""
        try:
            self._client.close()
        except KafkaException as error:
            # A fatal error that came after the last poll.
            log.debug("Kafka client closed", problem=str(error))
