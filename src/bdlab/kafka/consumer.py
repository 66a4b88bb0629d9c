"""The consumer: records of the partitions that the group gave it, from the positions that the store says."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

import structlog

from bdlab.credentials import KafkaCredentials, KafkaLogin
from bdlab.errors import BrokerError, BrokerRefused, BrokerUnavailable, TopicMissing, VaultError
from bdlab.events import Position, Record
from bdlab.identity import Prove
from bdlab.kafka.assignment import Assignment, StartPositions
from bdlab.kafka.consumer_client import Member
from bdlab.kafka.group import release
from bdlab.retry import Backoff, Outage

log = structlog.get_logger()

_REFUSED_FOR_S = 10.0
#: A group that takes longer than so many session time-outs to give out its partitions is joined anew; then
#: twice as many each time, as the other members may still be busy with what they have to store.
_FORMING_SESSIONS = 3.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0


class Consumer:
    """A member of the group `kafka.group`, for one thread.

    Whenever the assignment changes, `positions` is called from within `poll()` with the log's first position
    of each assigned partition, and gives back the position to start each at. What it raises `poll()` raises,
    and the next `poll()` asks again. The group's committed offsets are never read. A partition whose position
    is not in the log is stopped, with the reason in `stopped`, until the next assignment or `rewind()`.

    Before that `prove` may refuse partitions, which are stopped, too.

    A change of the broker's address, or of the log behind it, leads to a new client by itself.
    """

    def __init__(
        self,
        credentials: KafkaCredentials,
        *,
        positions: StartPositions,
        prove: Prove | None = None,
        client_id: str = "bdlab-consume",
    ) -> None:
        self._credentials = credentials
        self._positions = positions
        self._prove = prove
        self._client_id = client_id
        self._opened = False
        self._member: Member | None = None
        self._problem: BrokerError | None = None
        self._refused_since: float | None = None
        self._outage = Outage("Kafka is not usable", "Kafka is usable again")
        self._backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        self._pause_s = _FIRST_PAUSE_S
        self._refresh_after = 0.0
        self._forming_sessions = _FORMING_SESSIONS

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
    def _assignment(self) -> Assignment:
        return self._member.assignment if self._member is not None else Assignment()

    @property
    def problem(self) -> BrokerError | None:
        """Why there are no records just now; None where the broker answers."""
        return self._problem

    def open(self) -> None:
        """Connecting is left to `poll()`. Raises VaultError where there is no login."""
        self._credentials.kafka()
        self._opened = True

    def __enter__(self) -> Consumer:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the group and stop."""
        self._drop_member()
        self._opened = False

    def _drop_member(self) -> None:
        member, self._member = self._member, None
        if member is not None:
            member.close()
            self._credentials.using(self._client_id, None)

    def rewind(self) -> None:
        """Drop what was read ahead, and start all assigned partitions from what `positions` says again."""
        self._assignment.restart()

    def acknowledge(self, positions: Sequence[Position]) -> None:
        """Commit to the group, in the background, the next positions to be read: for lag tools only."""
        if self._member is not None:
            log = (self._member.cluster_id, self._member.topic_id)
            self._member.commit(
                {at.partition: at.offset for at in positions if (at.cluster_id, at.topic_id) == log}
            )

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """The next records: at most `max_records`, and as many as come within `timeout_s` seconds.

        Empty where there are none, or no broker answers (said once in the log, and in `problem`).
        Raises BrokerRefused where the broker has refused this user for 10 s, and whatever `positions` raises.
        """
        if not self._opened:
            raise BrokerUnavailable("the consumer is not open")
        deadline = time.monotonic() + timeout_s
        records: list[Record] = []
        try:
            member = self._ready_member(deadline)
            if not member.assignment.started:
                member.start()
            records = member.read(max_records, deadline)
            if member.replaced:
                self._drop_replaced(member)
            if member.refusal is not None and not records:
                self._refuse(member.refusal)
            elif member.verified:
                self._solve()
            if member.group_answered:
                self._forming_sessions = _FORMING_SESSIONS
            elif member.unassigned_s > self._forming_sessions * member.login.server.session_timeout_s:
                self._join_anew(member)
        except BrokerRefused as error:
            self._refuse(error)
        except (BrokerUnavailable, TopicMissing) as error:
            self._fail(error)
        if self._problem is not None:
            time.sleep(min(max(0.0, deadline - time.monotonic()), self._pause_s))
        return records

    def _ready_member(self, deadline: float) -> Member:
        """A client that is known to reach the log that its positions belong to. Raises BrokerError."""
        login = self._current_login()
        member = self._member
        if member is not None and login is not member.login:
            member = self._change_login(member, login)
        if member is None:
            member = self._member = Member(login, self._positions, self._prove, client_id=self._client_id)
            self._credentials.using(self._client_id, login)
        if not member.verified:
            member.verify(max(0.5, deadline - time.monotonic()))
            if member.replaced:
                self._drop_replaced(member)
            log.info(
                "connected to Kafka", servers=login.server.bootstrap_servers, cluster_id=member.cluster_id
            )
        return member

    def _drop_replaced(self, member: Member) -> NoReturn:
        log.warning("the broker has another log now", was=member.cluster_id, topic_id=member.topic_id)
        self._drop_member()
        raise BrokerUnavailable(f"the log at {member.login.server.bootstrap_servers} was replaced")

    def _current_login(self) -> KafkaLogin:
        if (self._member is None or not self._member.verified) and time.monotonic() >= self._refresh_after:
            self._refresh_after = time.monotonic() + self._pause_s
            try:
                return self._credentials.refresh_kafka()
            except VaultError as error:
                log.debug("Kafka login not refreshed", problem=error.message)
        return self._credentials.kafka()

    def _change_login(self, member: Member, login: KafkaLogin) -> Member | None:
        """Take on a newer login: new connections for another user, a new client for all else."""
        held = member.login
        if login.username and (login.server, login.ca_pem) == (held.server, held.ca_pem):
            member.change_user(login)
            self._credentials.using(self._client_id, login)
            log.info("Kafka user changed", user=login.username)
            return member
        log.info("Kafka address changed", servers=login.server.bootstrap_servers)
        self._drop_member()
        return None

    def _join_anew(self, member: Member) -> None:
        """With a new client: a request to join may go unanswered, and librdkafka waits five minutes for it.

        Seen at Apache Kafka 4.4, whose log knew of no request, when its coordinator moved after a freeze.
        """
        server = member.login.server
        log.warning(
            "the group gave no partitions: joining it anew",
            group=server.group,
            seconds=round(member.unassigned_s, 1),
        )
        self._forming_sessions *= 2
        self._drop_member()
        release(member.login, member.cluster_id, client_id=self._client_id)

    # What is wrong, said once.

    def _fail(self, error: BrokerError) -> None:
        self._outage.failed(error)
        self._problem = error
        self._pause_s = self._backoff.next_s()

    def _refuse(self, error: BrokerRefused) -> None:
        """A refusal can pass, as while a login is being replaced: it is final when it lasts."""
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        if self._member is not None:
            self._member.verified = False
        self._fail(error)
        if now - self._refused_since >= _REFUSED_FOR_S:
            raise error

    def _solve(self) -> None:
        self._outage.over()
        self._backoff.reset()
        self._problem = self._refused_since = None
