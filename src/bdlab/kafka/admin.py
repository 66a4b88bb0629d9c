"""Looking at the broker and preparing the topic."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec
import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stub does not re-export two of them
    AdminClient,
    ConfigResource,
    NewTopic,
)

from bdlab.credentials import KafkaCredentials, KafkaLogin
from bdlab.errors import BrokerError, BrokerRefused, BrokerUnavailable, TopicMissing, VaultError
from bdlab.events import Record
from bdlab.kafka.admin_futures import await_results, seconds_left
from bdlab.kafka.assignment import record_lookup
from bdlab.kafka.connection import client_config, fetch_metadata
from bdlab.kafka.log_reader import LogReader, committed_offsets, reader, reported_ranges, true_ends
from bdlab.kafka.records import messages_at
from bdlab.kafka.topic_ids import TopicIds
from bdlab.ledger import LogPartition, LogRange
from bdlab.log_identity import ReadRecords
from bdlab.probes import BrokerState
from bdlab.retry import tries

log = structlog.get_logger()

TOPIC_MAX_MESSAGE_BYTES = 8 << 20
"""The topic's limit for a batch of messages, in bytes; well above the largest body that the API takes."""

_LOOK_AGAIN_S = 0.02

_T = TypeVar("_T")


class EnsuredTopic(msgspec.Struct, frozen=True):
    """What `ensure_topic` found or made. `warning` says where it is not as the settings want it."""

    topic: str
    created: bool
    partitions: int
    warning: str = ""


class Admin:
    """Questions to the broker, and the topic's set-up. Each call ends within about `timeout_s` seconds.

    For one thread at a time; a lock makes others wait.
    """

    def __init__(
        self, credentials: KafkaCredentials, *, client_id: str = "bdlab-admin", timeout_s: float = 5.0
    ) -> None:
        self._credentials = credentials
        self._client_id = client_id
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._login: KafkaLogin | None = None
        self._client: LogReader | None = None
        self._ids: TopicIds | None = None

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        client, self._client, self._ids = self._client, None, None
        if client is not None:
            client.close()

    def _reader(self, login: KafkaLogin) -> LogReader:
        """The reading client, made anew where the login is another one by now."""
        if login is not self._login or self._client is None:
            self._drop()
            self._client = reader(login, client_id=self._client_id, group=login.server.group)
            self._login = login
        return self._client

    def _asking(self, question: Callable[[KafkaLogin, LogReader, float], _T]) -> _T:
        """Put a question to the reading client."""
        return self._trying(lambda login, deadline: question(login, self._reader(login), deadline))

    def _trying(self, attempt: Callable[[KafkaLogin, float], _T]) -> _T:
        """Try; where no broker answers and the login has moved on meanwhile, try once more with the newer."""
        deadline = time.monotonic() + self._timeout_s
        with self._lock:
            login = self._credentials.kafka()
            try:
                return attempt(login, deadline)
            except BrokerError:
                self._drop()
                newer = self._refreshed()
                if newer is login:
                    raise
            return attempt(newer, time.monotonic() + self._timeout_s)

    def _refreshed(self) -> KafkaLogin:
        try:
            return self._credentials.refresh_kafka()
        except VaultError as error:
            log.debug("Kafka login not refreshed", problem=error.message)
            return self._credentials.kafka()

    def log_ranges(self) -> list[LogRange]:
        """Start and true end of each partition. Raises BrokerUnavailable, BrokerRefused or TopicMissing."""
        return self._asking(self._ranges)

    def keys_at(self, where: LogPartition, offsets: Sequence[int]) -> dict[int, str]:
        """The keys of these records as text, as far as the broker still has them; none of another log.

        Raises BrokerError.
        """

        def ask(login: KafkaLogin, client: LogReader, deadline: float) -> dict[int, str]:
            if str(self._metadata(login, client, deadline).cluster_id) != where.cluster_id:
                return {}
            found = {}
            for offset in offsets:
                places = {where.partition: offset}
                for message in messages_at(client, where.topic, places, seconds_left(deadline)).values():
                    if (key := message.key()) is not None:
                        found[offset] = bytes(key).decode("utf-8", "backslashreplace")
            return found

        return self._asking(ask)

    def look(self, found: LogRange) -> ReadRecords:
        """What looks records of that topic up. What it raises is BrokerError."""

        def look(places: Mapping[int, int]) -> Mapping[int, Record]:
            return self._asking(
                lambda _, client, deadline: record_lookup(client, found, seconds_left(deadline))(places)
            )

        return look

    def lag(self) -> dict[int, int]:
        """For each partition the events that the group has not committed yet. Raises BrokerError."""
        return self._asking(lambda login, client, deadline: self._lag(login, client, deadline, None))

    def state(self) -> BrokerState:
        """What the broker says of itself, the topic and the group; never raises for a broker that is away."""
        try:
            return self._asking(self._state)
        except BrokerError as error:
            server = self._login.server if self._login is not None else self._credentials.kafka().server
            return BrokerState(
                connected=False,
                bootstrap_servers=server.bootstrap_servers,
                topic=server.topic,
                problem=error.message,
            )

    def _state(self, login: KafkaLogin, client: LogReader, deadline: float) -> BrokerState:
        server = login.server
        metadata = self._metadata(login, client, deadline)
        found = metadata.topics.get(server.topic)
        problem, lag = "", None
        if found is None:
            problem = f"topic {server.topic!r} is missing, or this user may not see it"
        else:
            try:
                lag = sum(self._lag(login, client, deadline, metadata).values())
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

    def _metadata(self, login: KafkaLogin, client: LogReader | AdminClient, deadline: float) -> Any:
        left = seconds_left(deadline)
        return fetch_metadata(client, server=login.server, timeout_s=left)

    def _ranges(
        self, login: KafkaLogin, client: LogReader, deadline: float, metadata: Any = None
    ) -> list[LogRange]:
        topic = login.server.topic
        metadata = metadata or self._metadata(login, client, deadline)
        if topic not in metadata.topics:
            raise TopicMissing(
                f"topic {topic!r} is not at {login.server.bootstrap_servers}, or this user may not see it",
                hint="Create it with `bdlab migrate`.",
            )
        reported = reported_ranges(client, topic, metadata.topics[topic].partitions, seconds_left(deadline))
        highs = {partition: high for partition, (_, high) in reported.items()}
        ends = true_ends(client, topic, highs, seconds_left(deadline))
        # Beside `_client`, which goes with it whenever the login does.
        self._ids = self._ids or TopicIds(login, client_id=self._client_id)
        found_id = self._ids.ask(seconds_left(deadline))
        return [
            LogRange(str(metadata.cluster_id), topic, partition, low, ends[partition], found_id)
            for partition, (low, _) in reported.items()
        ]

    def _lag(self, login: KafkaLogin, client: LogReader, deadline: float, metadata: Any) -> dict[int, int]:
        metadata = metadata or self._metadata(login, client, deadline)
        server, read = login.server, {}
        if topic := metadata.topics.get(server.topic):
            # First: who may not see the group is told so at once, and needs nothing else.
            left = seconds_left(deadline)
            read = committed_offsets(client, server.group, server.topic, topic.partitions, left)
        ranges = self._ranges(login, client, deadline, metadata)
        # Without a committed offset (a negative one) the group has all of the log before it.
        return {
            found.partition: max(0, found.end - max(found.start, read.get(found.partition, -1)))
            for found in ranges
        }

    def ensure_topic(self) -> EnsuredTopic:
        """Create the topic where it is missing, with the settings' partitions and replication factor.

        An existing topic is left as it is. Raises BrokerError where it is compacted, since its offsets would
        not stay dense, and BrokerUnavailable or BrokerRefused.
        """
        return self._trying(self._ensure)

    def _ensure(self, login: KafkaLogin, deadline: float) -> EnsuredTopic:
        server = login.server
        admin = AdminClient(client_config(login, client_id=self._client_id))
        found = self._metadata(login, admin, deadline).topics.get(server.topic)
        if found is None:
            created = self._create(admin, login, deadline)
            found = self._await_topic(login, admin, deadline)
            if created:
                return EnsuredTopic(server.topic, created=True, partitions=server.partitions)
        self._refuse_compaction(admin, server.topic, deadline)
        partitions = len(found.partitions)
        warning = ""
        if partitions != server.partitions:
            warning = (
                f"topic {server.topic!r} has {partitions} partitions, the settings say "
                f"{server.partitions}: left as it is"
            )
        return EnsuredTopic(server.topic, created=False, partitions=partitions, warning=warning)

    def _create(self, admin: AdminClient, login: KafkaLogin, deadline: float) -> bool:
        """False where another one was faster."""
        server = login.server
        topic = NewTopic(
            server.topic,
            num_partitions=server.partitions,
            replication_factor=server.replication_factor,
            config={"cleanup.policy": "delete", "max.message.bytes": str(TOPIC_MAX_MESSAGE_BYTES)},
        )

        def ask(left: float) -> dict[str, Future[Any]]:
            futures = admin.create_topics([topic], operation_timeout=left, request_timeout=left)
            return {f"creating topic {server.topic!r}": futures[server.topic]}

        try:
            await_results(ask, seconds_left(deadline))
        except BrokerError as error:
            cause = error.__cause__
            if isinstance(cause, KafkaException) and cause.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise
        return True

    def _await_topic(self, login: KafkaLogin, client: AdminClient, deadline: float) -> Any:
        """Wait until the topic can be used: a broker learns of it a moment after the controller made it, or,
        with ZooKeeper, after its own start.
        """
        topic = login.server.topic
        for _ in tries(seconds_left(deadline), first_s=_LOOK_AGAIN_S):
            found = self._metadata(login, client, deadline).topics.get(topic)
            if found is not None and all(place.leader >= 0 for place in found.partitions.values()):
                return found
        raise BrokerUnavailable(
            f"topic {topic!r} exists, and has no leader for each partition after {self._timeout_s:g} s",
            hint="Check that all brokers run, and run this again.",
        )

    def _refuse_compaction(self, admin: AdminClient, topic: str, deadline: float) -> None:
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)

        def ask(left: float) -> dict[str, Future[Any]]:
            futures = admin.describe_configs([resource], request_timeout=left)
            return {f"reading the settings of topic {topic!r}": futures[resource]}

        # The topic is there: one broker has listed it. The one that is asked may be a moment behind.
        behind = (KafkaError.UNKNOWN_TOPIC_OR_PART,)
        try:
            (config,) = await_results(ask, seconds_left(deadline), retriable=behind)
        except BrokerRefused as error:
            log.warning("whether the topic is compacted cannot be told", problem=error.message)
            return
        policy = config.get("cleanup.policy")
        if policy is not None and "compact" in str(policy.value):
            raise BrokerError(
                f"topic {topic!r} is compacted (cleanup.policy={policy.value}): its offsets do not stay "
                "dense, and the accounting rests on them",
                hint="Set its cleanup.policy to delete, or name another topic with BDLAB_KAFKA_TOPIC.",
            )
