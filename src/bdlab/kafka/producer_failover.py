"""Which client a producer uses: brought into line with the login and with the broker behind the address."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import structlog

from bdlab.credentials import KafkaCredentials, KafkaLogin
from bdlab.errors import BrokerError, BrokerUnavailable, TopicMissing, VaultError
from bdlab.kafka.producer_client import ProducerClient
from bdlab.retry import Backoff, Outage

log = structlog.get_logger()

_FIRST_REST_S = 0.5
_LONGEST_REST_S = 30.0
#: For how long a topic that was there may be missing. A broker with ZooKeeper knows of none when it has just
#: started: whoever has published to it before need not be told to make it.
_TOPIC_MAY_BE_MISSING_S = 3.0


class ProducerFailover:
    """`active` is the client in use, None before the first; `problem` says why it cannot be used just now.

    A client that was replaced is put into `retired`, for the polling thread to serve it to its end, and comes
    back in `finished`. Both change hands under `lock`, so that nothing is handed to a client that is retired.
    All but these is for one thread, the watching one.
    """

    def __init__(
        self, credentials: KafkaCredentials, *, client_id: str, lock: threading.Lock, wake: Callable[[], None]
    ) -> None:
        self.active: ProducerClient | None = None
        self.retired: deque[ProducerClient] = deque()
        self.finished: deque[ProducerClient] = deque()
        self.problem: BrokerError | None = BrokerUnavailable("no connection to the broker yet")
        self._credentials = credentials
        self._client_id = client_id
        self._lock = lock
        self._wake = wake
        self._candidate: ProducerClient | None = None
        self._rests = Backoff(_FIRST_REST_S, _LONGEST_REST_S)
        self._rest_s = self._rests.next_s()
        self._outage = Outage("Kafka is not usable", "Kafka is usable again")
        self._distrusted: KafkaLogin | None = None
        self._topic_missing_since: float | None = None

    def look(self, timeout_s: float) -> bool:
        """Bring the client into line; False where that has to be tried again."""
        active = self.active
        login = self._login(refresh=active is None or not active.verified or active.refused is not None)
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
        """Whether `active` can still be used while a newer login cannot."""
        try:
            works = active.works(timeout_s)
        except BrokerError:
            return False
        if works:
            self._solved()
        return works

    def _login(self, *, refresh: bool) -> KafkaLogin:
        if refresh:
            try:
                return self._credentials.refresh_kafka()
            except VaultError as error:
                log.debug("Kafka login not refreshed", problem=error.message)
        return self._credentials.kafka()

    def _replace(self, active: ProducerClient | None, login: KafkaLogin, timeout_s: float) -> None:
        """Replace `active` by a client with `login`, once that is proved to work. Raises BrokerError."""
        if active is not None and active.fatal and active.login is login:
            self._let_rest(active)
        candidate = self._candidate_for(login)
        if not candidate.works(timeout_s):
            raise BrokerUnavailable("the connection to the broker was lost again at once")
        self._candidate = None
        with self._lock:
            self.active = candidate
            if active is not None:
                self.retired.append(active)
        self._credentials.using(self._client_id, login)
        if active is None:
            log.info(
                "connected to Kafka",
                servers=login.server.bootstrap_servers,
                cluster_id=candidate.cluster_id,
                topic=candidate.topic,
            )
            return
        same_log = active.cluster_id == candidate.cluster_id and not active.replaced
        if not same_log or active.fatal or not active.verified:
            active.give_up()
        log.info(
            "Kafka client replaced",
            servers=login.server.bootstrap_servers,
            user=login.username,
            cluster_id=candidate.cluster_id,
            same_log=same_log,
        )

    def _candidate_for(self, login: KafkaLogin) -> ProducerClient:
        candidate = self._candidate
        if candidate is not None:
            if candidate.login is login and not candidate.fatal and not candidate.replaced:
                return candidate
            self.finished.append(candidate)
        self._candidate = None
        self._candidate = ProducerClient(login, client_id=self._client_id, wake=self._wake)
        return self._candidate

    def _let_rest(self, active: ProducerClient) -> None:
        """Replace a client that failed for good at once, but not one after the other without a pause.

        A user who may not write at all gets through to the broker, and fails with the first event.
        """
        lived_s = time.monotonic() - active.born
        if lived_s < self._rest_s:
            raise active.fatal_error()
        again = active.refused is not None and lived_s < 2 * _LONGEST_REST_S
        if not again:
            self._rests.reset()
        self._rest_s = self._rests.next_s()

    def close_finished(self) -> None:
        """Here and not on the polling thread, which must not wait for librdkafka's threads to end."""
        while self.finished:
            self.finished.popleft().close()

    def close(self) -> None:
        """Let go of every client; nothing else may use them any more."""
        self._credentials.using(self._client_id, None)
        for client in (self.active, self._candidate, *self.retired, *self.finished):
            if client is not None:
                client.close()

    def _failed(self, error: BrokerError) -> None:
        error = self._believed(error)
        self._outage.failed(error)
        self.problem = error

    def _believed(self, error: BrokerError) -> BrokerError:
        """`error`, or that the broker is away where it will soon know of its topic again."""
        if not isinstance(error, TopicMissing):
            self._topic_missing_since = None
            return error
        now = time.monotonic()
        self._topic_missing_since = self._topic_missing_since or now
        if self.active is None or now - self._topic_missing_since >= _TOPIC_MAY_BE_MISSING_S:
            return error
        return BrokerUnavailable(error.message, hint="The broker may have just started: try again soon.")

    def _solved(self) -> None:
        self._topic_missing_since = None
        self._outage.over()
        self.problem = None
