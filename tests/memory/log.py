"""A topic in memory, with its broker, its consumer group and its producer."""

from __future__ import annotations

import queue
import secrets
import threading
import time
import zlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

from bdlab.errors import BrokerError, BrokerUnavailable, NotAcknowledged
from bdlab.events import UNKNOWN, Event, Headers, Origin, Position, Record, encode, headers, new_traceparent
from bdlab.ledger import LogRange
from bdlab.probes import BrokerState

Done = Callable[[Position | BrokerError], None]


class Member(Protocol):
    """A consumer in the log's group."""

    def reassign(self, partitions: frozenset[int]) -> None: ...


class MemoryLog:
    """Partitioned, append-only; shared by any number of producers and consumers of any thread.

    `online = False` is a broker that does not answer; `replace()` one that lost its log.
    """

    def __init__(self, *, topic: str = "predictions", partitions: int = 6, cluster_id: str = "") -> None:
        self.topic = topic
        self.topic_id = ""
        self.cluster_id = cluster_id or f"memory-{secrets.token_hex(8)}"
        self.changed = threading.Condition()
        self.version = 0
        """Counts the changes, for whoever waits for one on `changed`."""
        self.members: list[Member] = []
        self.committed: dict[int, int] = {}
        self._partitions = partitions
        self._records: list[list[Record]] = [[] for _ in range(partitions)]
        self._starts = [0] * partitions
        self._online = True

    @property
    def online(self) -> bool:
        return self._online

    @online.setter
    def online(self, value: bool) -> None:
        with self.changed:
            self._online = value
            self._notify()

    def append(
        self, key: bytes | None, value: bytes | None, headers: Headers = (), *, partition: int | None = None
    ) -> Position:
        """Write one record, whatever its bytes are; without `partition` its key chooses."""
        if partition is None:
            partition = zlib.crc32(key or b"") % self._partitions
        with self.changed:
            self._require_online()
            records = self._records[partition]
            offset = self._starts[partition] + len(records)
            position = Position(self.cluster_id, self.topic, partition, offset, self.topic_id)
            records.append(Record(position, key, value, tuple(headers)))
            self._notify()
        return position

    def replace(self) -> None:
        """Lose everything, and be another cluster from now on."""
        self._begin(f"memory-{secrets.token_hex(8)}", "")

    def make_again(self) -> None:
        """Delete the topic and make it again under its name: another topic id, and no records."""
        self._begin(self.cluster_id, secrets.token_hex(8))

    def _begin(self, cluster_id: str, topic_id: str) -> None:
        with self.changed:
            self.cluster_id, self.topic_id = cluster_id, topic_id
            self._records = [[] for _ in range(self._partitions)]
            self._starts = [0] * self._partitions
            self.committed.clear()
            self._online = True
            self.share_out()

    def trim(self, partition: int, start: int) -> None:
        """Delete what is before offset `start`, as retention does."""
        with self.changed:
            del self._records[partition][: max(0, start - self._starts[partition])]
            self._starts[partition] = max(start, self._starts[partition])

    def read(self, partition: int, offset: int, limit: int) -> list[Record]:
        """At most `limit` records from `offset` on."""
        with self.changed:
            self._require_online()
            first = offset - self._starts[partition]
            return self._records[partition][first : first + limit]

    def log_ranges(self) -> list[LogRange]:
        with self.changed:
            self._require_online()
            return [
                LogRange(
                    self.cluster_id, self.topic, partition, start, start + len(self._records[partition]), self.topic_id
                )
                for partition, start in enumerate(self._starts)
            ]

    def lag(self) -> dict[int, int]:
        return {
            found.partition: found.end - max(found.start, self.committed.get(found.partition, -1))
            for found in self.log_ranges()
        }

    def state(self) -> BrokerState:
        try:
            lag = sum(self.lag().values())
        except BrokerUnavailable as error:
            return BrokerState(connected=False, topic=self.topic, problem=error.message)
        return BrokerState(
            connected=True,
            bootstrap_servers="memory",
            cluster_id=self.cluster_id,
            brokers=1,
            topic=self.topic,
            partitions=self._partitions,
            consumer_lag=lag,
        )

    def join(self, member: Member) -> None:
        with self.changed:
            self.members.append(member)
            self.share_out()

    def leave(self, member: Member) -> None:
        with self.changed:
            if member in self.members:
                self.members.remove(member)
                member.reassign(frozenset())
                self.share_out()

    def share_out(self) -> None:
        """Give each member of the group its range of partitions; all of them start afresh."""
        for number, member in enumerate(self.members):
            share = range(
                number * self._partitions // len(self.members), (number + 1) * self._partitions // len(self.members)
            )
            member.reassign(frozenset(share))
        self._notify()

    def wait_for_change(self, seen: int, timeout_s: float) -> None:
        """Until `version` is no longer `seen`, at most `timeout_s` seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.version != seen, timeout=timeout_s)

    def _notify(self) -> None:
        self.version += 1
        self.changed.notify_all()

    def _require_online(self) -> None:
        if not self._online:
            raise BrokerUnavailable("the broker in memory is switched off")


class _Sent(NamedTuple):
    key: bytes | None
    value: bytes | None
    headers: Headers
    done: Done
    deadline: float


class MemoryProducer:
    """Twin of `bdlab.kafka.producer.Producer`: `done` is called once, on its own thread or by `poll`."""

    def __init__(self, log: MemoryLog, *, source: str, delivery_timeout_s: float = 10.0) -> None:
        self._log = log
        self._source = source
        self._delivery_timeout_s = delivery_timeout_s
        self._sent: queue.SimpleQueue[_Sent | None] = queue.SimpleQueue()
        self._opened = False
        self._polled_by_caller = False
        self._results: queue.SimpleQueue[tuple[Done, Position | BrokerError]] = queue.SimpleQueue()
        self.in_flight = 0
        self._thread = threading.Thread(target=self._deliver, name="memory-producer", daemon=True)

    def open(self) -> None:
        self._opened = True
        self._thread.start()

    def __enter__(self) -> MemoryProducer:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, timeout_s: float = 10.0) -> None:
        if self._opened:
            self._opened = False
            self._sent.put(None)
            self._thread.join(timeout_s + self._delivery_timeout_s)

    def publish(self, event: Event, done: Done, origin: Origin = UNKNOWN) -> None:
        source, trace = origin.source or self._source, origin.traceparent or new_traceparent()
        head = headers(event, source=source, traceparent=trace, origin=origin)
        self.publish_raw(*encode(event), head, done)

    def publish_raw(self, key: bytes | None, value: bytes | None, head: Headers, done: Done) -> None:
        if not self._opened:
            raise BrokerUnavailable("the producer is not open")
        self.in_flight += self._polled_by_caller
        self._sent.put(_Sent(key, value, head, done, time.monotonic() + self._delivery_timeout_s))

    @property
    def problem(self) -> BrokerError | None:
        return None if self._log.online else BrokerUnavailable("the broker in memory is switched off")

    def _deliver(self) -> None:
        while (sent := self._sent.get()) is not None:
            result = self._append(sent)
            if self._polled_by_caller:
                self._results.put((sent.done, result))
            else:
                sent.done(result)

    def take_polling(self) -> None:
        """From now on `poll` calls `done`, on the thread of its caller."""
        self._polled_by_caller = True

    def poll(self) -> None:
        while not self._results.empty():
            done, result = self._results.get()
            self.in_flight -= 1
            done(result)

    def _append(self, sent: _Sent) -> Position | BrokerError:
        while True:
            with self._log.changed:
                left = sent.deadline - time.monotonic()
                if not self._log.changed.wait_for(lambda: self._log.online, timeout=max(0.0, left)):
                    return NotAcknowledged(
                        f"the broker did not acknowledge the event within {self._delivery_timeout_s:g} s",
                        hint="Retry with the same id: the event may or may not be on the topic.",
                    )
                return self._log.append(sent.key, sent.value, sent.headers)
