"""Which client a producer uses: replaces it if the login or the log behind the address changes."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from bdlab.credentials import KafkaCredentials, KafkaLogin
from bdlab.errors import BrokerError, BrokerUnavailable, TopicMissing
from bdlab.kafka.connection import current_login
from bdlab.kafka.producer_client import ProducerClient
from bdlab.retry import Backoff, Outage

log = structlog.get_logger()

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
        """Whether `active` can still be used although a newer login cannot."""
        try:
            if works := active.works(timeout_s):
                self._solved()
        except BrokerError:
            return False
        return works

    def _replace(self, active: ProducerClient | None, login: KafkaLogin, timeout_s: float) -> None:
        """Replace `active` by a client with `login`, once that is proved to work. Raises BrokerError."""
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
        self._topic_missing_since = None
        self._outage.over()
        self.problem = None
