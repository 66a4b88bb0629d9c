"""Questions to the broker, and the preparation of the topic."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, TypeVar

import msgspec
import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from bdlab.credentials import Connecting, KafkaCredentials, KafkaLogin
from bdlab.errors import BrokerError, BrokerRefused, BrokerUnavailable
from bdlab.events import Record
from bdlab.kafka.connection import (
    at_each_broker,
    await_results,
    client_config,
    current_login,
    metadata_of,
    partitions_of,
)
from bdlab.kafka.log_reader import LogReader, TopicIds, reported_ranges
from bdlab.ledger import LogRange, log_partition
from bdlab.log_identity import ReadRecords
from bdlab.probes import MEMORY_ONLY_ID, BrokerState
from bdlab.retry import seconds_left, tries

log = structlog.get_logger()
TOPIC_MAX_MESSAGE_BYTES = 8 << 20
"""The topic's limit for a batch of messages, in bytes; well above the largest body that the API takes."""
_ONE_BROKER_S = 2.0
_T = TypeVar("_T")


class EnsuredTopic(msgspec.Struct, frozen=True):
    """The topic that `ensure_topic` found or created; `warning` says how it differs from the settings."""

    topic: str
    created: bool
    partitions: int
    warning: str = ""


class _Connection:
    """The clients of one login, which are made when they are needed, and the deadline of the question."""

    def __init__(self, login: KafkaLogin, client_id: str) -> None:
        self.login, self.server, self._client_id, self.deadline = login, login.server, client_id, 0.0
        self._ids = TopicIds(login, client_id=client_id)

    @property
    def left_s(self) -> float:
        return seconds_left(self.deadline)

    @cached_property
    def reader(self) -> LogReader:
        return LogReader(self.login, client_id=self._client_id)

    def metadata(self, client: AdminClient | None = None) -> Any:
        return metadata_of(client or self.reader, server=self.server, timeout_s=self.left_s)

    def ranges(self, metadata: Any) -> list[LogRange]:
        topic = self.server.topic
        reported = reported_ranges(self.reader, topic, partitions_of(metadata, self.server), self.left_s)
        ends = {partition: high for partition, (_, high) in reported.items()}
        if (cluster_id := str(metadata.cluster_id)).startswith(MEMORY_ONLY_ID):  # the others report the true ends
            ends = self.reader.true_ends(topic, ends, self.left_s)
        topic_id = self._ids.ask(self.left_s)
        return [LogRange(cluster_id, topic, each, low, ends[each], topic_id) for each, (low, _) in reported.items()]

    def lag(self, metadata: Any) -> int:
        """Return how many events the group has not committed yet."""
        committed: dict[int, int] = {}
        if topic := metadata.topics.get(self.server.topic):
            # First: a user who may not see the group is told so at once, and needs nothing else.
            committed = self.reader.committed_offsets(self.login, topic.partitions, self.left_s)
        # Without a committed offset (a negative one) the group has all of the log before it.
        begins = ((found, max(found.start, committed.get(found.partition, -1))) for found in self.ranges(metadata))
        return sum(max(0, found.end - begin) for found, begin in begins)


class Admin(Connecting):
    """Asks the broker about the topic and the group, and creates the topic. Each call ends within about `timeout_s`
    seconds. One thread at a time is served; a lock makes others wait."""

    def __init__(self, credentials: KafkaCredentials, *, client_id: str = "bdlab-admin", timeout_s: float = 5) -> None:
        self._credentials, self._client_id, self._timeout_s = credentials, client_id, timeout_s
        self._lock = threading.Lock()
        self._connection: _Connection | None = None

    def close(self) -> None:
        """End the clients."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._connection and "reader" in vars(self._connection):
            self._connection.reader.close()
        self._connection = None

    def _ask(self, question: Callable[[_Connection], _T]) -> _T:
        """Ask; if no broker answers and the login is another one by now, ask once more with the newer one."""
        with self._lock:
            login = self._credentials.kafka()
            try:
                return question(self._connected(login))
            except BrokerError:
                self._drop()
                newer = current_login(self._credentials)
                if newer is login:
                    raise
            return question(self._connected(newer))

    def _connected(self, login: KafkaLogin) -> _Connection:
        if self._connection is None or self._connection.login is not login:
            self._drop()
            self._connection = _Connection(login, self._client_id)
        self._connection.deadline = time.monotonic() + self._timeout_s
        return self._connection

    def log_ranges(self) -> list[LogRange]:
        """Return start and true end of each partition. Raises BrokerError."""
        return self._ask(lambda connection: connection.ranges(connection.metadata()))

    def record_reader(self, found: LogRange) -> ReadRecords:
        """Return a function that looks up records of that topic. It raises BrokerError."""
        log = log_partition(found)
        return lambda offsets: self._ask(lambda asked: asked.reader.records_at(log, offsets, asked.left_s))

    def records_from(self, found: LogRange, offsets: Mapping[int, int], timeout_s: float) -> Iterator[Record]:
        """Yield the records of that topic as `LogReader.records_from`."""
        log = log_partition(found)
        return self._ask(lambda connection: connection.reader.records_from(log, offsets, timeout_s))

    def reach(self) -> None:
        """Have a broker answer. Raises BrokerError, VaultError."""
        self._ask(lambda connection: connection.metadata())

    def state(self) -> BrokerState:
        """Return the state of broker, topic and group; `connected` is false if no broker answers."""
        try:
            return self._ask(self._state)
        except BrokerError as error:
            server = self._credentials.kafka().server
            at, topic = server.bootstrap_servers, server.topic
            return BrokerState(connected=False, bootstrap_servers=at, topic=topic, problem=error.message)

    def _state(self, connection: _Connection) -> BrokerState:
        server, metadata = connection.server, connection.metadata()
        problem, lag = f"topic {server.topic!r} is missing, or this user may not see it", None
        if (found := metadata.topics.get(server.topic)) is not None:
            try:
                problem, lag = "", connection.lag(metadata)
            except BrokerError as error:
                problem = f"the group's lag cannot be told: {error.message}"
        return BrokerState(
            connected=True,
            bootstrap_servers=server.bootstrap_servers,
            cluster_id=str(metadata.cluster_id),
            brokers=len(metadata.brokers),
            topic=server.topic,
            partitions=len(found.partitions) if found is not None else 0,
            consumer_lag=lag,
            problem=problem,
        )

    def ensure_topic(self) -> EnsuredTopic:
        """Create the topic if it is missing, with the settings' partitions and replication factor. An existing topic is
        left as it is. Raises BrokerError, also if it is compacted, since its offsets would not stay dense."""
        return self._ask(self._ensure)

    def _ensure(self, connection: _Connection) -> EnsuredTopic:
        server = connection.server
        admin = AdminClient(client_config(connection.login, client_id=self._client_id))
        found = connection.metadata(admin).topics.get(server.topic)
        if found is None:
            created, found = _create(admin, connection), self._await_topic(admin, connection)
            if created:
                return EnsuredTopic(server.topic, created=True, partitions=server.partitions)
        _refuse_compaction(admin, connection)
        partitions = len(found.partitions)
        differ = f"has {partitions} partitions, the settings say {server.partitions}: left as it is"
        warning = f"topic {server.topic!r} {differ}" if partitions != server.partitions else ""
        return EnsuredTopic(server.topic, created=False, partitions=partitions, warning=warning)

    def _await_topic(self, admin: AdminClient, connection: _Connection) -> Any:
        """Wait until the topic can be used at every broker that answers: each learns of it a moment after the
        controller made it, or, with ZooKeeper, after its own start."""
        topic = connection.server.topic
        for _ in tries(connection.left_s, first_s=0.02):
            metadata = connection.metadata(admin)
            if _leads_all(metadata, topic) and (
                len(metadata.brokers) == 1
                or all(self._known_at(alone, topic) for alone in at_each_broker(connection.login, metadata))
            ):
                return metadata.topics[topic]
        lacks = f"after {self._timeout_s:g} s some broker does not know a leader for each partition"
        hint = "Check that all brokers run, and run this again."
        raise BrokerUnavailable(f"topic {topic!r} exists, and {lacks}", hint=hint)

    def _known_at(self, login: KafkaLogin, topic: str) -> bool:
        """Whether the one broker of `login` knows the topic; also true if it does not answer."""
        client = AdminClient(client_config(login, client_id=self._client_id))
        try:
            return _leads_all(metadata_of(client, server=login.server, timeout_s=_ONE_BROKER_S), topic)
        except BrokerUnavailable:
            return True


def group_members(login: KafkaLogin) -> list[tuple[str, list[int]]]:
    """Return the consumers of the group, as CLIENT at HOST, each with its partitions. Raises BrokerError. For a process
    of its own, since librdkafka may end the process (see `LogReader.committed_offsets`)."""
    group, admin = login.server.group, AdminClient(client_config(login, client_id="bdlab-doctor"))
    ask = partial(admin.describe_consumer_groups, [group])
    (found,) = await_results("describing group {!r}".format, ask, _ONE_BROKER_S)
    return [
        (f"{each.client_id} at {each.host}", sorted(place.partition for place in each.assignment.topic_partitions))
        for each in found.members
    ]


def _leads_all(metadata: Any, topic: str) -> bool:
    found = metadata.topics.get(topic)
    return found is not None and all(partition.leader >= 0 for partition in found.partitions.values())


def _create(admin: AdminClient, connection: _Connection) -> bool:
    """Create the topic; return false if another process was faster."""
    server = connection.server
    config = {
        "cleanup.policy": "delete",
        "max.message.bytes": str(TOPIC_MAX_MESSAGE_BYTES),
        "message.timestamp.type": "LogAppendTime",  # which a row keeps, and `trace` shows
    }
    topic = NewTopic(server.topic, server.partitions, server.replication_factor, config=config)
    try:
        ask = partial(admin.create_topics, [topic], operation_timeout=connection.left_s)
        await_results("creating topic {!r}".format, ask, connection.left_s)
    except BrokerError as error:
        cause = error.__cause__
        if isinstance(cause, KafkaException) and cause.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise
    return True


def _refuse_compaction(admin: AdminClient, connection: _Connection) -> None:
    topic = connection.server.topic
    ask = partial(admin.describe_configs, [ConfigResource(ConfigResource.Type.TOPIC, topic)])
    # The topic is there: one broker has listed it. The one that is asked may be a moment behind.
    behind, doing = (KafkaError.UNKNOWN_TOPIC_OR_PART,), "reading the settings of topic {0.name!r}".format
    try:
        (config,) = await_results(doing, ask, connection.left_s, retriable=behind)
    except BrokerRefused as error:
        log.warning("whether the topic is compacted cannot be told", problem=error.message)
        return
    policy = config.get("cleanup.policy")
    if policy is not None and "compact" in str(policy.value):
        why = "its offsets do not stay dense, and the accounting rests on them"
        hint = "Set its cleanup.policy to delete, or name another topic: kafka.topic, kafka.feedback_topic."
        raise BrokerError(f"topic {topic!r} is compacted (cleanup.policy={policy.value}): {why}", hint=hint)
