"""The consumer: records of the partitions that the group gave it, from the positions that the store says."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import structlog
from confluent_kafka import Consumer as Client
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from bdlab.credentials import KafkaCredentials, KafkaLogin
from bdlab.errors import (
    BrokerError,
    BrokerRefused,
    BrokerUnavailable,
    OffsetOutOfRange,
    TopicMissing,
    VaultError,
)
from bdlab.events import Position, Record
from bdlab.kafka.assignment import Assignment, StartPositions, ask_starts, out_of_range
from bdlab.kafka.connection import (
    ALL_BROKERS_DOWN,
    MAX_MESSAGE_BYTES,
    PARTITION_EOF,
    TRANSPORT,
    broker_error,
    client_config,
    cluster_of,
)
from bdlab.kafka.ends import watermarks

log = structlog.get_logger()

MAX_POLL_BYTES = 64 << 20
"""`poll()` stops collecting at about this many bytes of values, so that a batch of huge ones fits memory."""

_ASK_TIMEOUT_S = 5.0
_CHUNK = 500
_REFUSED_FOR_S = 10.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


class Consumer:
    """A member of the group `kafka.group`, for one thread.

    Whenever the assignment changes, `positions` is called from within `poll()` with the log's first position
    of each assigned partition, and gives back the position to start each at. What it raises `poll()` raises,
    and the next `poll()` asks again. The group's committed offsets are never read. A partition whose position
    is not in the log is stopped, with the reason in `stopped`, until the next assignment or `rewind()`.

    A change of the broker's address, or of the log behind it, leads to a new client by itself.
    """

    def __init__(
        self, credentials: KafkaCredentials, *, positions: StartPositions, client_id: str = "bdlab-consume"
    ) -> None:
        self._credentials = credentials
        self._positions = positions
        self._client_id = client_id
        self._login: KafkaLogin | None = None
        self._client: Client | None = None
        self._subscribed = False
        self._verified = False
        self._cluster_id = ""
        self._assignment = Assignment()
        self._interrupted = False
        self._problem: BrokerError | None = None
        self._refused_since: float | None = None
        self._refusal: BrokerRefused | None = None
        self._last_error = ""
        self._pause_s = _FIRST_PAUSE_S
        self._refresh_after = 0.0

    @property
    def assigned(self) -> frozenset[int]:
        """The partitions that the group gave this member, stopped ones included."""
        return self._assignment.partitions

    @property
    def stopped(self) -> Mapping[int, str]:
        """Assigned partitions that cannot be read on, and why."""
        return dict(self._assignment.stopped)

    @property
    def at_end(self) -> bool:
        """Whether each assigned partition that is not stopped was read to its end; false without any."""
        return self._assignment.at_end

    @property
    def problem(self) -> BrokerError | None:
        """Why there are no records just now; None where the broker answers."""
        return self._problem

    def open(self) -> None:
        """Make the client; connecting goes on in `poll()`. Raises VaultError where there is no login."""
        self._login = self._credentials.kafka()

    def __enter__(self) -> Consumer:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the group and stop."""
        self._drop_client()
        self._login = None

    def rewind(self) -> None:
        """Drop what was read ahead, and start all assigned partitions from what `positions` says again."""
        self._assignment.restart()

    def acknowledge(self, positions: Sequence[Position]) -> None:
        """Commit to the group, in the background, the next positions to be read: for lag tools only."""
        offsets = [
            TopicPartition(position.topic, position.partition, position.offset)
            for position in positions
            if position.cluster_id == self._cluster_id and position.partition in self._assignment.partitions
        ]
        if self._client is None or not offsets:
            return
        try:
            self._client.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            log.debug("group offsets not committed", problem=str(error))

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """The next records: at most `max_records`, and as many as come within `timeout_s` seconds.

        Empty where there are none, or no broker answers (said once in the log, and in `problem`).
        Raises BrokerRefused where the broker has refused this user for 10 s, and whatever `positions` raises.
        """
        if self._login is None:
            raise BrokerUnavailable("the consumer is not open")
        deadline = time.monotonic() + timeout_s
        records: list[Record] = []
        try:
            client = self._ready_client(deadline)
            if not self._assignment.started:
                self._start(client)
            records = self._collect(client, max_records, deadline)
            if self._refusal is not None and not records:
                self._refuse(self._refusal)
            elif self._verified:
                self._solve()
        except BrokerRefused as error:
            self._refuse(error)
        except (BrokerUnavailable, TopicMissing) as error:
            self._fail(error)
        if self._problem is not None:
            time.sleep(min(max(0.0, deadline - time.monotonic()), self._pause_s))
        return records

    # The client and the log behind it.

    def _ready_client(self, deadline: float) -> Client:
        """A client that is known to reach the log that the positions belong to. Raises BrokerError."""
        login = self._current_login()
        if self._client is not None and login is not self._login:
            self._change_login(login)
        if self._client is None:
            self._login = login
            self._client = self._new_client(login)
        if not self._verified:
            self._verify(self._client, max(0.5, deadline - time.monotonic()))
        return self._client

    def _current_login(self) -> KafkaLogin:
        if not self._verified and time.monotonic() >= self._refresh_after:
            self._refresh_after = time.monotonic() + self._pause_s
            try:
                return self._credentials.refresh_kafka()
            except VaultError as error:
                log.debug("Kafka login not refreshed", problem=error.message)
        return self._credentials.kafka()

    def _change_login(self, login: KafkaLogin) -> None:
        """Take on a newer login: a new client for another server, new connections for another user."""
        assert self._login is not None
        assert self._client is not None
        same_server = login.server == self._login.server and login.ca_pem == self._login.ca_pem
        if same_server and login.username:
            self._client.set_sasl_credentials(login.username, login.password.reveal())
            log.info("Kafka user changed", user=login.username)
        elif not same_server:
            log.info("Kafka address changed", servers=login.server.bootstrap_servers)
            self._drop_client()
        self._login = login

    def _new_client(self, login: KafkaLogin) -> Client:
        session_ms = round(login.server.session_timeout_s * 1000)
        config = client_config(login, client_id=self._client_id) | {
            "group.id": login.server.group,
            # Eager: all partitions are given back and started afresh, at the store's positions.
            "partition.assignment.strategy": "range",
            "session.timeout.ms": session_ms,
            "heartbeat.interval.ms": max(100, session_ms // 4),
            "max.poll.interval.ms": max(300_000, session_ms),
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "allow.auto.create.topics": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 100,
            "fetch.max.bytes": 16 << 20,
            "max.partition.fetch.bytes": 4 << 20,
            "receive.message.max.bytes": MAX_MESSAGE_BYTES + (1 << 20),
            "queued.min.messages": 20_000,
            "queued.max.messages.kbytes": 32 << 10,
            "error_cb": self._on_error,
        }
        try:
            return Client(config)
        except KafkaException as error:
            raise broker_error(error, "the Kafka settings are not usable") from error

    def _verify(self, client: Client, timeout_s: float) -> None:
        """Find out which log the broker has; another one gets a new client. Raises BrokerError."""
        assert self._login is not None
        server = self._login.server
        try:
            found = cluster_of(client, server.topic, servers=server.bootstrap_servers, timeout_s=timeout_s)
        except BrokerUnavailable as error:
            # The reason waits for a poll; a record that comes with it will be read again.
            if client.poll(0) is not None:
                self._assignment.restart()
            if self._refusal is not None:
                raise self._refusal from error
            why = f": {self._last_error}" if self._last_error else ""
            raise BrokerUnavailable(f"no broker answers at {server.bootstrap_servers}{why}") from error
        if self._cluster_id and found != self._cluster_id:
            log.warning("the broker has another log now", was=self._cluster_id, cluster_id=found)
            self._drop_client()
            raise BrokerUnavailable(f"the log at {server.bootstrap_servers} was replaced")
        if not self._cluster_id:
            log.info("connected to Kafka", servers=server.bootstrap_servers, cluster_id=found)
        self._cluster_id = found
        self._verified = True
        self._pause_s = _FIRST_PAUSE_S
        if not self._subscribed:
            client.subscribe(
                [server.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
            )
            self._subscribed = True

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        self._subscribed = self._verified = False
        self._cluster_id = ""
        if client is not None:
            client.close()
        self._assignment = Assignment()

    def _start(self, client: Client) -> None:
        """Begin to fetch, at the positions of the store."""
        assert self._login is not None
        assignment = self._assignment
        starts = ask_starts(
            client, self._login, self._cluster_id, assignment, self._positions, client_id=self._client_id
        )
        topic = self._login.server.topic
        try:
            # This replaces whatever was fetched, and drops what was read ahead.
            client.assign([TopicPartition(topic, partition, offset) for partition, offset in starts.items()])
        except KafkaException as error:
            raise broker_error(error, "starting at the store's positions") from error
        assignment.start(starts)

    # Reading.

    def _collect(self, client: Client, max_records: int, deadline: float) -> list[Record]:
        """What comes until `deadline`; nothing where assignment or connection changed meanwhile."""
        records: list[Record] = []
        size = 0
        self._interrupted = False
        try:
            while len(records) < max_records and size < MAX_POLL_BYTES:
                first = client.poll(max(0.0, deadline - time.monotonic()))
                if first is None:
                    break
                for message in (first, *client.consume(min(max_records - len(records) - 1, _CHUNK), 0)):
                    error = message.error()
                    if error is not None:
                        self._on_message_error(error, message)
                    elif record := self._assignment.take(message, self._cluster_id):
                        records.append(record)
                        size += len(record.value or b"")
                if self._interrupted:
                    break
        except KafkaException as error:
            self._assignment.restart()
            raise broker_error(error, "reading from the broker") from error
        if not self._interrupted:
            return records
        # Part of it may be of partitions that are others' now, or of another log: all can be read again.
        self._assignment.restart()
        return []

    def _on_message_error(self, error: KafkaError, message: Message) -> None:
        partition = message.partition()
        if error.code() == PARTITION_EOF and partition is not None:
            self._assignment.end(partition)
            return
        found = broker_error(error, "reading from the broker")
        if isinstance(found, BrokerRefused):
            self._refusal = found
        elif isinstance(found, TopicMissing):
            self._verified = False
            self._interrupted = True
        elif isinstance(found, OffsetOutOfRange) and partition is not None:
            self._stop_partition(partition)
        else:
            log.warning("reading from Kafka goes on after an error", problem=error.str())

    def _stop_partition(self, partition: int) -> None:
        assert self._client is not None
        assert self._login is not None
        topic = self._login.server.topic
        offset = self._assignment.next_offset(partition)
        try:
            low, high = watermarks(self._client, topic, partition, _ASK_TIMEOUT_S)
            reason = out_of_range(topic, partition, offset, low, high)
        except BrokerError as error:
            reason = f"offset {offset} of {topic} partition {partition} is not in the log ({error.message})"
        self._client.pause([TopicPartition(topic, partition)])
        self._assignment.stop(partition, reason)

    # Callbacks of librdkafka, from within poll(). They take notes; the work is done outside of them.

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == TRANSPORT:
            self._last_error = error.str()
        elif error.code() == ALL_BROKERS_DOWN:
            self._verified = False
            self._interrupted = True
        elif isinstance(found := broker_error(error, "the broker refuses this consumer"), BrokerRefused):
            self._refusal = found

    def _on_assign(self, client: Client, partitions: list[TopicPartition]) -> None:
        # Nothing is fetched before the store was asked: the group's offsets are not to be used.
        client.assign([])
        self._assignment = Assignment(frozenset(partition.partition for partition in partitions))
        self._interrupted = True
        log.info("partitions assigned", partitions=sorted(self._assignment.partitions))

    def _on_revoke(self, _client: Client, _partitions: list[TopicPartition]) -> None:
        log.info("partitions revoked", partitions=sorted(self._assignment.partitions))
        self._assignment = Assignment()
        self._interrupted = True

    # What is wrong, said once.

    def _fail(self, error: BrokerError) -> None:
        if type(self._problem) is not type(error):
            log.warning("Kafka is not usable", problem=error.message)
        self._problem = error
        self._pause_s = min(_LONGEST_PAUSE_S, self._pause_s * 2)

    def _refuse(self, error: BrokerRefused) -> None:
        """A refusal can pass, as while a login is being replaced: it is final when it lasts."""
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        self._verified = False
        self._fail(error)
        if now - self._refused_since >= _REFUSED_FOR_S:
            raise error

    def _solve(self) -> None:
        if self._problem is not None:
            log.info("Kafka is usable again")
        self._problem = self._refusal = self._refused_since = None
