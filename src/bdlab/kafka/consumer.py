"""The consumer: reads the partitions that the group assigns to it, from the positions of the store."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import KW_ONLY, dataclass
from typing import NoReturn

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bdlab.credentials import Connecting, KafkaCredentials, KafkaLogin
from bdlab.errors import BrokerError, BrokerRefused, BrokerUnavailable, TopicMissing
from bdlab.events import Position, Record
from bdlab.kafka.connection import client_config, current_login
from bdlab.kafka.consumer_client import Assignment, ConsumerClient, StartPositions
from bdlab.log_identity import CheckLog
from bdlab.probes import MEMORY_ONLY_ID
from bdlab.retry import Backoff, Outage

log = structlog.get_logger()
#: If the group has not assigned partitions after this many session time-outs, it is joined anew; then after
#: twice as many each time, as the other members may still be storing what they have read.
_FORMING_SESSIONS = 3.0
_DELETE_TIMEOUT_S = 3.0


@dataclass(eq=False)
class Consumer(Connecting):
    """A member of the group `kafka.group`, for one thread. Whenever the assignment changes, `poll()` calls `positions`
    with the log's first position of each assigned partition; it returns the position at which each starts. If it
    raises, `poll()` raises the same, and the next `poll()` calls it again. The group's committed offsets are never
    read. A partition whose position is not in the log, or that `check_log` refuses, is stopped, with the reason in
    `stopped`, until the next assignment or `rewind()`. If the broker's address or the log behind it changes, the client
    is replaced by a new one."""

    credentials: KafkaCredentials
    _: KW_ONLY
    positions: StartPositions
    check_log: CheckLog | None = None
    client_id: str = "bdlab-consume"

    def __post_init__(self) -> None:
        self.problem: BrokerError | None = None
        """Why no records come now; None if the broker answers."""
        self._opened, self._backoff = False, Backoff()
        self._client: ConsumerClient | None = None
        self._refused_since: float | None = None
        self._outage = Outage("Kafka is not usable", "Kafka is usable again")
        self._pause_s, self._refresh_after, self._forming_sessions = 0.1, 0.0, _FORMING_SESSIONS

    @property
    def assigned(self) -> frozenset[int]:
        """Return the partitions that the group assigned to this consumer, stopped ones included."""
        return self._assignment.partitions

    @property
    def stopped(self) -> Mapping[int, str]:
        """Return the assigned partitions that cannot be read on, each with the reason."""
        return dict(self._assignment.stopped)

    @property
    def at_end(self) -> bool:
        """Whether each assigned partition was read to its end or is stopped; false without partitions."""
        return self._assignment.at_end

    @property
    def _assignment(self) -> Assignment:
        return self._client.assignment if self._client is not None else Assignment()

    def open(self) -> None:
        """Make it ready; `poll()` connects. Raises VaultError if there is no login."""
        self.credentials.kafka()
        self._opened = True

    def close(self) -> None:
        """Leave the group and stop."""
        self._drop_client()
        self._opened = False

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
            self.credentials.using(self.client_id, None)

    def rewind(self) -> None:
        """Drop what was read ahead, and ask `positions` again where each partition starts."""
        if self._client is not None:
            self._client.restart()

    def acknowledge(self, positions: Sequence[Position]) -> None:
        """Commit to the group, in the background, the next positions to read; only lag tools use them."""
        if self._client is not None:
            ids = (self._client.cluster_id, self._client.topic_id)
            self._client.commit({at.partition: at.offset for at in positions if (at.cluster_id, at.topic_id) == ids})

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """Return the next records: at most `max_records`, and as many as come within `timeout_s` seconds. Returns none
        if no broker answers, which is logged once and stands in `problem`. Raises BrokerRefused if the broker has
        refused this user for 10 s, and what `positions` raises."""
        if not self._opened:
            raise BrokerUnavailable("the consumer is not open")
        deadline = time.monotonic() + timeout_s
        records: list[Record] = []
        try:
            client = self._ready_client(deadline)
            if not client.assignment.started:
                client.start()
            records = client.read(max_records, deadline)
            if client.replaced:
                self._drop_replaced(client)
            if client.refusal is not None and not records:
                self._refuse(client.refusal)
            elif client.verified:
                self._outage.over()
                self._backoff.reset()
                self.problem = self._refused_since = None
            if client.unassigned_since is None:
                self._forming_sessions = _FORMING_SESSIONS
            elif client.unassigned_s > self._forming_sessions * client.login.server.session_timeout_s:
                self._join_anew(client)
        except BrokerRefused as error:
            self._refuse(error)
        except (BrokerUnavailable, TopicMissing) as error:
            self._fail(error)
        if self.problem is not None:
            time.sleep(min(max(0.0, deadline - time.monotonic()), self._pause_s))
        return records

    def _ready_client(self, deadline: float) -> ConsumerClient:
        client = self._client
        if refresh := (client is None or not client.verified) and time.monotonic() >= self._refresh_after:
            self._refresh_after = time.monotonic() + self._pause_s
        login = current_login(self.credentials, refresh=refresh)
        if client is not None and login is not client.login:
            client = self._change_login(client, login)
        if client is None:
            client = self._client = ConsumerClient(login, self.positions, self.check_log, client_id=self.client_id)
            self.credentials.using(self.client_id, login)
        if not client.verified:
            client.verify(max(0.5, deadline - time.monotonic()))
            if client.replaced:
                self._drop_replaced(client)
            log.info("connected to Kafka", servers=login.server.bootstrap_servers, cluster_id=client.cluster_id)
        return client

    def _drop_replaced(self, client: ConsumerClient) -> NoReturn:
        log.warning("the broker has another log now", was=client.cluster_id, topic_id=client.topic_id)
        self._drop_client()
        raise BrokerUnavailable(f"the log at {client.login.server.bootstrap_servers} was replaced")

    def _change_login(self, client: ConsumerClient, login: KafkaLogin) -> ConsumerClient | None:
        """Change the user, or if anything else has changed, drop the client and return None."""
        current = client.login
        if login.username and (login.server, login.ca_pem) == (current.server, current.ca_pem):
            client.change_user(login)
            self.credentials.using(self.client_id, login)
            log.info("Kafka user changed", user=login.username)
            return client
        log.info("Kafka address changed", servers=login.server.bootstrap_servers)
        self._drop_client()
        return None

    def _join_anew(self, client: ConsumerClient) -> None:
        """Join the group with a new client, as librdkafka waits five minutes for a lost request to join. Seen at Apache
        Kafka 4.4 when its coordinator moved after a freeze: its log had no such request."""
        group, seconds = client.login.server.group, round(client.unassigned_s, 1)
        log.warning("the group gave no partitions: joining it anew", group=group, seconds=seconds)
        self._forming_sessions *= 2
        self._drop_client()
        delete_stuck_group(client.login, client.cluster_id, client_id=self.client_id)

    def _fail(self, error: BrokerError) -> None:
        self._outage.failed(error)
        self.problem, self._pause_s = error, self._backoff.next_s()

    def _refuse(self, error: BrokerRefused) -> None:
        """Raise the refusal only if it lasts: it may pass, as while a login is being replaced."""
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        if self._client is not None:
            self._client.verified = False
        self._fail(error)
        if now - self._refused_since >= 10.0:
            raise error


def delete_stuck_group(login: KafkaLogin, cluster_id: str, *, client_id: str) -> None:
    """Delete the group at a Tansu broker, so that its members form it anew; at others do nothing. Tansu keeps a leader
    that left while the group was forming, and the others then wait for it without end. Only the committed offsets are
    lost, which only lag tools read. Apache Kafka does not need this, and it must not be done if brokers may be away:
    librdkafka 2.16 ends the whole process if the connection breaks in the middle of an administrative call about a
    group (its pull request 5397)."""
    if not cluster_id.startswith(MEMORY_ONLY_ID):
        return
    group = login.server.group
    admin = AdminClient(client_config(login, client_id=client_id))
    answer = admin.delete_consumer_groups([group], request_timeout=_DELETE_TIMEOUT_S)[group]
    try:
        answer.result(_DELETE_TIMEOUT_S + 1)
    except (KafkaException, FutureTimeout) as error:
        log.info("the group is still waiting for its members", group=group, broker_says=str(error))
    else:
        log.warning("the group waited for a member that is gone, and forms anew", group=group)
