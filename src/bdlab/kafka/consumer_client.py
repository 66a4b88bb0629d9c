"""One librdkafka consumer of the group, which reads one log only."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import structlog
from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from bdlab.credentials import KafkaLogin
from bdlab.errors import BrokerError, BrokerRefused, BrokerUnavailable, OffsetOutOfRange, TopicMissing
from bdlab.events import Position, Record
from bdlab.kafka.connection import broker_error, client_config, metadata_of, no_answer, partitions_of
from bdlab.kafka.log_reader import LogReader, TopicIds, reported_ranges, to_record
from bdlab.ledger import LogPartition, LogRange
from bdlab.log_identity import ADVICE, CheckLog

log = structlog.get_logger()
MAX_POLL_BYTES = 64 << 20
"""`read()` stops at about this many bytes of values, so that a batch of huge ones fits into memory."""
ASK_TIMEOUT_S = 5.0
"""How long one question to the broker may take while a consumer is at work."""
#: A batch of records that cannot be unpacked; librdkafka reads it again without end.
_UNREADABLE = {KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG, KafkaError._UNDERFLOW, KafkaError._NOT_IMPLEMENTED}
StartPositions = Callable[[Sequence[Position]], Sequence[Position]]


class Assignment:
    """The state of the assigned partitions. `started`: they were given their start positions (true without partitions).
    `unconfirmed`: records that were read, and that the topic is not yet known to hold. `next`: the offset to be read
    next of each partition that is read. `ended`: the partitions that were read to their ends."""

    def __init__(self, partitions: frozenset[int] = frozenset()) -> None:
        self.partitions, self.started, self.ended = partitions, not partitions, set[int]()
        self.stopped, self.unconfirmed, self.next = dict[int, str](), list[Record](), dict[int, int]()

    @property
    def at_end(self) -> bool:
        """Whether each partition was read to its end or is stopped; false without partitions."""
        return bool(self.partitions) and self.started and self.partitions <= self.ended | set(self.stopped)

    def stop(self, partition: int, reason: str) -> None:
        """Note, and log once, why a partition cannot be read on."""
        if partition not in self.stopped:
            log.error("partition stopped", partition=partition, reason=reason)
        self.stopped[partition] = reason

    def take(self, message: Message, log: LogPartition, read_at: datetime) -> Record | None:
        """Return the record, of the topic of `log`, if it is the next one of its partition, else None."""
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None or partition in self.stopped or offset != self.next.get(partition):
            return None
        self.next[partition] = offset + 1
        self.ended.discard(partition)
        return to_record(message, Position(log.cluster_id, log.topic, partition, offset, log.topic_id), read_at)


class ConsumerClient:
    """Reads the partitions that the group assigns to it, from the positions that `positions` returns. `verified`: since
    all connections were lost the last time, the broker has told its cluster id and the topic's id. Until then nothing
    is read, as another log may be at the address now; if that is so, `replaced` is set. Records are returned only after
    the broker has said, once more, that the topic still has its id: ids are never used again, so that the records are
    of this topic and of no later one of its name. `refusal` is set if the broker does not accept the user."""

    def __init__(
        self, login: KafkaLogin, positions: StartPositions, check_log: CheckLog | None, *, client_id: str
    ) -> None:
        self.login, self._positions, self._check_log, self._client_id = login, positions, check_log, client_id
        self.cluster_id = self.topic_id = self._last_problem = ""
        self.verified = self.replaced = self._interrupted = False
        self.refusal: BrokerRefused | None = None
        self.assignment = Assignment()
        #: Since when the group has not said which partitions this consumer gets, which may be none; None if it has.
        self.unassigned_since: float | None = None
        self._ids = TopicIds(login, client_id=f"{client_id}-topic")
        self._next_check, self._gaps = 0.0, dict[int, int]()
        session_ms = round(login.server.session_timeout_s * 1000)
        config = client_config(login, client_id=client_id, kind="consumer") | {
            "group.id": login.server.group,
            "session.timeout.ms": session_ms,
            "heartbeat.interval.ms": max(100, session_ms // 4),
            "max.poll.interval.ms": max(300_000, session_ms),
            "error_cb": self._on_error,
        }
        try:
            self._client = Client(config)
        except KafkaException as error:
            raise broker_error(error, "the Kafka settings are not usable") from error

    def close(self) -> None:
        """Leave the group, if a broker is there, and end the client."""
        self._client.close()
        self._ids.close()

    def change_user(self, login: KafkaLogin) -> None:
        """Use another user of the same server for new connections; open ones stay."""
        self.login = login
        self._client.set_sasl_credentials(login.username, login.password.reveal())
        self._ids.change_user(login)

    def verify(self, timeout_s: float) -> None:
        """Ask the broker which log it has, and set `verified` or `replaced`. Raises BrokerError."""
        server = self.login.server
        try:
            metadata = metadata_of(self._client, server=server, timeout_s=timeout_s)
            partitions_of(metadata, server)  # the topic is there
        except BrokerUnavailable as error:
            # The reason is reported by a poll; a record that comes with it will be read again.
            if self._client.poll(0) is not None:
                self.restart()
            raise no_answer(server, self.refusal, self._last_problem, error) from error
        found, found_id = str(metadata.cluster_id), self._ids.ask(timeout_s)
        self.refusal, self._last_problem = None, ""
        if self.cluster_id and (found, found_id) != (self.cluster_id, self.topic_id):
            self.replaced = True
            return
        if not self.cluster_id:
            self.cluster_id, self.topic_id = found, found_id
            on_revoke = self._on_revoke
            self._client.subscribe([server.topic], on_assign=self._on_assign, on_revoke=on_revoke, on_lost=on_revoke)
            self.unassigned_since = 0.0  # from below on
        self.verified = True
        if self.unassigned_since is not None:
            self.unassigned_since = time.monotonic()

    @property
    def unassigned_s(self) -> float:
        """Return for how many seconds the group has not answered; 0 if it has."""
        since = self.unassigned_since
        return time.monotonic() - since if since is not None and self.verified else 0.0

    def restart(self) -> None:
        """Forget what was read of the assigned partitions, so that `start` has to be called again."""
        self.assignment = Assignment(self.assignment.partitions)

    def start(self) -> None:
        """Ask `positions` where to start, and begin to fetch there. Stops each partition whose log has no such offset,
        or that `check_log` refuses. Raises BrokerError, and what the two raise."""
        topic, partitions = self.login.server.topic, self.assignment.partitions
        refused: Mapping[int, str] = {}
        log = LogPartition(self.cluster_id, topic, 0, self.topic_id)
        with contextlib.closing(LogReader(self.login, client_id=f"{self._client_id}-ends")) as reader:
            if self._check_log is not None:
                # Of all partitions: one that can no longer be compared is proved by another one.
                metadata = metadata_of(self._client, server=self.login.server, timeout_s=ASK_TIMEOUT_S)
                every = metadata.topics[topic].partitions if topic in metadata.topics else partitions
                ranges = [
                    LogRange(self.cluster_id, topic, partition, low, end, self.topic_id)
                    for partition, (low, end) in self._ranges(every).items()
                ]
                refused = self._check_log(ranges, lambda offsets: reader.records_at(log, offsets, ASK_TIMEOUT_S))
            found = self._ranges(partitions)
            read = [log._replace(partition=each).at(low) for each, (low, _) in found.items() if each not in refused]
            starts = {position.partition: position.offset for position in self._positions(read)}
            # The end that a broker reports may be too low, never too high: read on if that matters.
            ends = {partition: end for partition, (_, end) in found.items()}
            if unsure := {partition: end for partition, end in ends.items() if starts.get(partition, end) > end}:
                ends |= reader.true_ends(topic, unsure, ASK_TIMEOUT_S)
        for partition, (low, _) in found.items():
            if partition in refused:
                self.assignment.stop(partition, refused[partition])
            elif partition not in starts:
                self.assignment.stop(partition, "the store gave no position to start at")
            elif not low <= starts[partition] <= ends[partition]:
                reason = _out_of_range(topic, partition, starts.pop(partition), low, ends[partition])
                self.assignment.stop(partition, reason)
        try:
            # This drops what was fetched before.
            self._client.assign([TopicPartition(topic, partition, offset) for partition, offset in starts.items()])
        except KafkaException as error:
            raise broker_error(error, "starting at the store's positions") from error
        self.assignment.next, self.assignment.started = starts, True

    def _ranges(self, partitions: Iterable[int]) -> dict[int, tuple[int, int]]:
        return reported_ranges(self._client, self.login.server.topic, partitions, ASK_TIMEOUT_S)

    def read(self, max_records: int, deadline: float) -> list[Record]:
        """Return the records that come until `deadline`, on the monotonic clock. Returns none if the assignment or the
        connection changed meanwhile, or if the topic was made again (`replaced`). Raises BrokerError; a later call then
        returns what had come."""
        if not self.assignment.unconfirmed:
            self.assignment.unconfirmed = self._collect(max_records, deadline)
        if self.assignment.unconfirmed or time.monotonic() >= self._next_check:
            if self._ids.ask(ASK_TIMEOUT_S) != self.topic_id:
                self.replaced = True
                return []
            self._next_check = time.monotonic() + 1.0  # if no records come before
        records, self.assignment.unconfirmed = self.assignment.unconfirmed, []
        return records

    def _collect(self, max_records: int, deadline: float) -> list[Record]:
        records, size, self._interrupted = list[Record](), 0, False
        log = LogPartition(self.cluster_id, self.login.server.topic, 0, self.topic_id)
        try:
            while len(records) < max_records and size < MAX_POLL_BYTES:
                first = self._client.poll(max(0.0, deadline - time.monotonic()))
                if first is None:
                    break
                read_at = datetime.now(UTC)
                room = min(max_records - len(records) - 1, 500)
                for message in (first, *(self._client.consume(room, 0) if room else ())):
                    error = message.error()
                    if error is not None:
                        self._on_message_error(error, message)
                    elif record := self.assignment.take(message, log, read_at):
                        records.append(record)
                        size += len(record.value or b"")
                    else:
                        self._on_other(message)
                    if self._interrupted:  # skip the rest of the chunk: all is read again
                        break
                if self._interrupted:
                    break
        except KafkaException as error:
            self.restart()
            raise broker_error(error, "reading from the broker") from error
        if not self._interrupted:
            return records
        # Some of it may be of partitions that others have now, or of another log: read all again.
        self.restart()
        return []

    def commit(self, offsets: dict[int, int]) -> None:
        """Commit next offsets to the group, in the background; only lag tools read them."""
        topic, mine = self.login.server.topic, self.assignment.partitions
        wanted = [TopicPartition(topic, each, offset) for each, offset in offsets.items() if each in mine]
        try:
            if wanted:
                self._client.commit(offsets=wanted, asynchronous=True)
        except KafkaException as error:
            log.debug("group offsets not committed", problem=str(error))

    def _on_message_error(self, error: KafkaError, message: Message) -> None:
        partition = message.partition()
        if error.code() == KafkaError._PARTITION_EOF and partition is not None:
            self.assignment.ended.add(partition)
            return
        found = broker_error(error, "reading from the broker")
        if isinstance(found, BrokerRefused):
            self.refusal = found
        elif isinstance(found, TopicMissing):
            self.verified, self._interrupted = False, True
        elif isinstance(found, OffsetOutOfRange) and partition is not None:
            self._stop(partition, self._why_out_of_range(partition))
        elif error.code() in _UNREADABLE and partition is not None:
            self._stop(partition, f"what is at offset {message.offset()} cannot be unpacked: {error.str()}")
        elif error.str() != self._last_problem:
            self._last_problem = error.str()
            log.warning("reading from Kafka goes on after an error", problem=error.str())

    def _on_other(self, message: Message) -> None:
        """If offsets are missing before a message, read them once more; if they do not come, stop the partition."""
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None or partition in self.assignment.stopped:
            return
        if (missing := self.assignment.next.get(partition, offset)) >= offset:
            return
        if self._gaps.get(partition) != missing:
            self._gaps[partition], self._interrupted = missing, True
            return
        where = f"offsets {missing} to {offset - 1} of {self.login.server.topic} partition {partition}"
        why = "the topic was compacted or written in transactions, and cannot be accounted for"
        self._stop(partition, f"{where} are not in the log: {why}")

    def _why_out_of_range(self, partition: int) -> str:
        topic, offset = self.login.server.topic, self.assignment.next.get(partition, -1)
        try:
            start, end = self._ranges([partition])[partition]
        except BrokerError as error:
            return f"offset {offset} of {topic} partition {partition} is not in the log ({error.message})"
        return _out_of_range(topic, partition, offset, start, end)

    def _stop(self, partition: int, reason: str) -> None:
        self._client.pause([TopicPartition(self.login.server.topic, partition)])
        self.assignment.stop(partition, reason)

    # Callbacks of librdkafka, from within poll(). They only set fields; the work is done outside of them.

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._TRANSPORT:
            self._last_problem = error.str()
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.verified, self._interrupted = False, True
        elif isinstance(found := broker_error(error, "the broker refuses this consumer"), BrokerRefused):
            self.refusal = found

    def _on_assign(self, client: Client, partitions: list[TopicPartition]) -> None:
        # Nothing is fetched before the store was asked: the group's offsets are not used.
        client.assign([])
        self.assignment = Assignment(frozenset(partition.partition for partition in partitions))
        self._interrupted, self.unassigned_since = True, None
        log.info("partitions assigned", partitions=sorted(self.assignment.partitions))

    def _on_revoke(self, _client: Client, _partitions: list[TopicPartition]) -> None:
        log.info("partitions revoked", partitions=sorted(self.assignment.partitions))
        self.assignment = Assignment()
        self._interrupted, self.unassigned_since = True, time.monotonic()


def _out_of_range(topic: str, partition: int, offset: int, start: int, end: int) -> str:
    what = f"the log is shorter than what was stored from it. {ADVICE}"
    if offset < start:
        what = f"{start - offset} events were deleted at the broker before they were stored"
    where = f"the next offset to store of {topic} partition {partition} is {offset}"
    return f"{where}, and the broker's log has {start} to {end}: {what}"
