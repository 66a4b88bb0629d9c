"""One librdkafka producer, which writes to one log only, and the events that it has to deliver."""

import random
import time
from collections.abc import Callable, Iterator, Sized
from contextlib import suppress
from itertools import cycle

import structlog
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as Client

from bdlab.credentials import KafkaLogin
from bdlab.errors import BrokerError, BrokerRefused, BrokerUnavailable, NotAcknowledged
from bdlab.events import Headers, Position
from bdlab.kafka.connection import CLIENTS, broker_error, client_config, copied, metadata_of, no_answer, partitions_of

log = structlog.get_logger()
Done = Callable[[Position | BrokerError], None]
#: The most events that one client queues for the broker.
QUEUE_EVENTS: int = CLIENTS["producer"]["queue.buffering.max.messages"]
#: librdkafka's word for a partition that it finds by the key.
PARTITION_UA = -1
#: Seconds for which all events go to one partition, and the most of them: a burst is for all consumers.
SLOT_S, SLOT_EVENTS = 0.002, 16


def too_many(events: Sized) -> BrokerUnavailable:
    """Return the error of an event that comes while too many wait already."""
    return BrokerUnavailable(f"too many events wait for the broker ({len(events)})", hint="Retry a little later.")


def not_acknowledged(what: str) -> NotAcknowledged:
    """Return the error of an event that was sent, and whose acknowledgement did not come."""
    return NotAcknowledged(what, hint="Retry with the same id: the event may or may not be on the topic.")


class PendingEvent:
    """An event that waits for its acknowledgement. Only the first `complete()` reaches the caller. Whoever polls the
    producer calls it, and nobody else, so that no lock is needed. It is itself what librdkafka calls with the report of
    the delivery: nothing else is made for an event. `client` has it, if it was sent."""

    __slots__ = ("client", "completed", "deadline", "done")

    def __init__(self, done: Done, deadline: float) -> None:
        self.client: ProducerClient | None = None
        self.done, self.deadline, self.completed = done, deadline, False

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        if self.client is not None and not self.completed:
            self.client.report(self, error, message)

    def complete(self, result: Position | BrokerError) -> None:
        if not self.completed:
            self.completed = True
            self.done(result)


class ProducerClient:
    """Publishes to one log. `verified`: since all connections were lost the last time, the broker has told its cluster
    id. Until then acknowledgements are held back, as they may come from another log that is at the address now; if that
    is so, `replaced` is set. `fatal`: it has failed for good. `refused` is set if the user is not accepted."""

    def __init__(self, login: KafkaLogin, *, client_id: str, wake: Callable[[], None], idempotent: bool = True) -> None:
        self.login, self.topic, self._wake = login, login.server.topic, wake
        self.created_at = time.monotonic()
        self.cluster_id = self.last_problem = ""
        self.verified = self.replaced = self.fatal = False
        self.refused: BrokerRefused | None = None
        self._losses, self._metadata_due = 0, 0.0
        self._partitions: tuple[int, ...] = ()
        self._turns: Iterator[int] = cycle((PARTITION_UA,))
        self._slot, self._slot_end, self._slot_left = PARTITION_UA, 0.0, 0
        self._unverified: list[tuple[PendingEvent, Position]] = []
        # An event may be sent until the caller's own deadline, and not long after it.
        timeout_ms = max(1000, round(login.server.delivery_timeout_s * 1000))
        config = client_config(login, client_id=client_id, kind="producer") | {
            "enable.idempotence": idempotent,
            "message.timeout.ms": timeout_ms,
            "request.timeout.ms": timeout_ms,
            "error_cb": self._on_error,
        }
        try:
            self._client = Client(config)
        except KafkaException as error:
            raise broker_error(error, "the Kafka settings are not usable") from error

    def poll(self, timeout_s: float) -> None:
        """Run librdkafka's callbacks, which complete events, and those that were held back, once their log is known."""
        try:
            self._client.poll(timeout_s)
        except KafkaException as error:
            # A fatal error comes as an exception instead of through the callback.
            self._on_error(error.args[0])
        if self._unverified and (self.verified or self.replaced):
            unverified, self._unverified = self._unverified, []
            for delivery, position in unverified:
                delivery.complete(self._lost() if self.replaced else position)

    def _on_error(self, error: KafkaError) -> None:
        self.last_problem = error.str()
        found = broker_error(error, f"refused by the broker at {self.login.server.bootstrap_servers}")
        if isinstance(found, BrokerRefused):
            self.refused = found
        self.fatal |= error.fatal()
        if error.fatal() or error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._losses, self.verified = self._losses + 1, False
        elif error.code() == KafkaError._TRANSPORT and not self.fatal:
            self.refused = None
            self._metadata_due = 0.0  # its partitions have other leaders soon, or none
        self._wake()

    def verify(self, timeout_s: float) -> None:
        """Ask the broker which log it has, and set `verified`, or `replaced` if it is another one. Raises BrokerError
        if there is no answer, or the client has failed for good."""
        new, losses = not self.cluster_id, self._losses
        try:
            cluster_id = self._read_metadata(timeout_s)
        except BrokerUnavailable as error:
            if new:
                self.poll(0)  # nobody else polls it yet, and error_cb has the reason
            raise no_answer(self.login.server, self.refused, self.last_problem, error) from error
        if new:
            self.poll(0)
            losses = self._losses
        if self.fatal:
            # A user who may not write is connected first, and refused a moment later.
            raise self.fatal_error()
        self.refused, self.last_problem = None, ""
        if not new and cluster_id != self.cluster_id:
            self.replaced = True
            return
        self.cluster_id, self.verified = cluster_id, losses == self._losses

    def _read_metadata(self, timeout_s: float) -> str:
        """Return the cluster id, and take the topic's partitions from the same answer. Raises BrokerError."""
        metadata = metadata_of(self._client, server=self.login.server, timeout_s=timeout_s)
        self._metadata_due = time.monotonic() + 10.0  # if nothing happens
        found = partitions_of(metadata, self.login.server)
        led = tuple(sorted(number for number, partition in found.items() if partition.leader >= 0))
        if len(led) < len(found):
            self._metadata_due = 0.0  # a leader is being elected
        if led != self._partitions:
            self._partitions = led
            # In another order in each process, so that several do not go from one to the next together.
            self._turns = cycle(random.sample(led, len(led)) or (PARTITION_UA,))
        return str(metadata.cluster_id)

    def _partition(self) -> int:
        """Return the partition of all events of this moment, so that they travel, and are written, as one batch."""
        now = time.monotonic()
        if now >= self._slot_end or not self._slot_left:
            self._slot_end, self._slot_left = now + SLOT_S, SLOT_EVENTS
            self._slot = next(self._turns)
        self._slot_left -= 1
        return self._slot

    def fatal_error(self) -> BrokerError:
        """Return why the client has failed for good."""
        return copied(self.refused or BrokerUnavailable(f"the client failed: {self.last_problem}"))

    def works(self, timeout_s: float) -> bool:
        """Whether events can be sent; asks the broker if that is in doubt. Raises BrokerError."""
        if not self.verified and not self.fatal and not self.replaced:
            self.verify(timeout_s)
        elif time.monotonic() >= self._metadata_due:
            with suppress(BrokerError):  # events tell what is wrong, if anything is
                self._read_metadata(min(timeout_s, 1.0))
        return self.verified

    def send(self, delivery: PendingEvent, key: bytes | None, value: bytes | None, headers: Headers) -> bool:
        """Queue an event; return false if the client has failed for good, and the next poll will tell why. Raises
        BrokerUnavailable if the queue is full, EventTooLarge, BrokerError."""
        client, topic = self._client, self.topic
        try:
            delivery.client = self
            try:
                client.produce(topic, value, key, self._partition(), delivery, headers=list(headers))
            except KafkaException as error:
                if error.args[0].code() != KafkaError._UNKNOWN_PARTITION:
                    raise
                # The topic was made again with fewer partitions.
                self._partitions, self._turns, self._slot_end = (), cycle((PARTITION_UA,)), 0.0
                self._metadata_due = 0.0
                self._wake()
                client.produce(topic, value, key, PARTITION_UA, delivery, headers=list(headers))
        except BufferError as error:
            raise too_many(client) from error
        except KafkaException as error:
            delivery.client = None
            if error.args[0].code() == KafkaError._FATAL:
                return False
            raise broker_error(error, f"publishing to topic {topic!r}") from error
        return True

    def report(self, delivery: PendingEvent, error: KafkaError | None, message: Message) -> None:
        """Complete an event as librdkafka reports it, or hold it back until its log is known."""
        if error is not None:
            delivery.complete(self._failure(error))
        elif self.replaced or self.fatal:
            delivery.complete(self._lost())
        else:
            offset, partition = message.offset(), message.partition()
            if offset is None or partition is None or offset < 0:
                delivery.complete(NotAcknowledged("the broker acknowledged the event without its offset"))
            elif self.verified:
                delivery.complete(Position(self.cluster_id, self.topic, partition, offset))
            else:
                self._unverified.append((delivery, Position(self.cluster_id, self.topic, partition, offset)))

    def _failure(self, error: KafkaError) -> BrokerError:
        found = broker_error(error, f"publishing to topic {self.topic!r}")
        if not isinstance(found, BrokerUnavailable):
            return found
        if self.replaced or self.fatal or error.code() in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
            return self._lost()
        why = f"; last: {self.last_problem}" if self.last_problem else ""
        return not_acknowledged(f"the broker did not acknowledge the event ({error.str()}{why})")

    def _lost(self) -> BrokerError:
        if self.fatal and self.refused is not None:
            return copied(self.refused)
        return not_acknowledged("the connection to the broker was given up before it acknowledged the event")

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
