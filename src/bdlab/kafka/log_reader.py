"""Reads logs: which they are, where they begin and end, single records, and how far a group has come."""

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from operator import methodcaller

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    TIMESTAMP_LOG_APPEND_TIME,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka import Consumer as Client
from confluent_kafka.admin import AdminClient, TopicDescription

from bdlab.credentials import KafkaLogin
from bdlab.errors import BrokerRefused, BrokerUnavailable
from bdlab.events import Headers, Position, Record
from bdlab.kafka.connection import RETRIABLE, await_results, broker_error, client_config, repeated
from bdlab.ledger import LogPartition

UNREADABLE_HEADERS = "bdlab-unreadable-headers"
"""Replaces the headers of a record if one of their names is not UTF-8."""
_NO_ANSWER = {KafkaError._TIMED_OUT, KafkaError._DESTROY_BROKER}
_NO_RECORD = {KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET}


def to_record(message: Message, position: Position, read_at: datetime | None = None) -> Record:
    """Return the record of the message at `position`, which was read at `read_at`."""
    key, value, (clock, at_ms) = message.key(), message.value(), message.timestamp()
    try:
        headers: Headers = tuple(_read_headers(message) or ())
    except (SystemError, UnicodeDecodeError):
        headers = ((UNREADABLE_HEADERS, None),)
    return Record(
        position,
        key.encode() if isinstance(key, str) else key,
        value.encode() if isinstance(value, str) else value,
        headers,
        at_ms if clock == TIMESTAMP_LOG_APPEND_TIME else None,
        read_at,
    )


#: Called from C, where CPython checks that a result comes without an error. A direct call is specialised and
#: skips the check, and what confluent_kafka returns for such a name then crashes the interpreter.
_read_headers = methodcaller("headers")


class LogReader(Client):
    """A consumer that assigns partitions to itself. librdkafka wants it to name a group; it never joins it.
    `group_refused`: the broker has said that this user may not see the group. librdkafka reports this once, among the
    messages, and then repeats each question about the group until its time is over."""

    group_refused = False

    def __init__(self, login: KafkaLogin, *, client_id: str) -> None:
        super().__init__(client_config(login, client_id=client_id, kind="reader") | {"group.id": login.server.group})

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Message]:
        found, refused = super().consume(num_messages, timeout), KafkaError.GROUP_AUTHORIZATION_FAILED
        others = [each for each in found if (error := each.error()) is None or error.code() != refused]
        self.group_refused |= len(others) < len(found)
        return others

    def true_ends(self, topic: str, reported: Mapping[int, int], timeout_s: float) -> dict[int, int]:
        """Return each partition's end (next offset to be written), by reading on from its `reported` end. A broker may
        report an end that is too low: Tansu gives the first offset of its last batch. If the user may not read the
        topic, those are returned. Raises BrokerUnavailable if that takes longer than `timeout_s`."""
        ends, unread = dict(reported), set(reported)
        try:
            for partition, offset, message in self._read_on(topic, reported, unread, timeout_s, "reading the end of"):
                ends[partition] = max(ends[partition], offset if message is None else offset + 1)
                if message is None:
                    unread.discard(partition)
        except BrokerRefused:
            return dict(reported)
        return ends

    def records_at(self, log: LogPartition, offsets: Mapping[int, int], timeout_s: float) -> dict[int, Record]:
        """Return the record at one offset of each partition of the topic of `log`, if it is there. Raises
        BrokerUnavailable if not all partitions answer within `timeout_s` seconds, and BrokerError."""
        found, waiting, doing = dict[int, Record](), set(offsets), "looking up records of"
        for partition, offset, message in self._read_on(log.topic, offsets, waiting, timeout_s, doing):
            # The first message of each is the record, or says that there is none.
            if partition in waiting:
                waiting.discard(partition)
                if message is not None and offset == offsets[partition]:
                    found[partition] = to_record(message, log._replace(partition=partition).at(offset))
        return found

    def records_from(self, log: LogPartition, offsets: Mapping[int, int], timeout_s: float) -> Iterator[Record]:
        """Yield the records of the topic of `log` from `offsets` on, to each partition's end. Raises BrokerUnavailable
        if not all ends are reached within `timeout_s` seconds, and BrokerError."""
        waiting = set(offsets)
        for partition, offset, message in self._read_on(log.topic, offsets, waiting, timeout_s, "looking through"):
            if message is None:
                waiting.discard(partition)
            else:
                yield to_record(message, log._replace(partition=partition).at(offset))

    def _read_on(
        self, topic: str, offsets: Mapping[int, int], waiting: set[int], timeout_s: float, doing: str
    ) -> Iterator[tuple[int, int, Message | None]]:
        """Yield partition, offset and message of what comes from `offsets` on, until none is left in `waiting`. The
        message is None at a partition's end, and if its offset is not in the log. Raises BrokerUnavailable if some are
        left after `timeout_s` seconds, and BrokerError."""
        doing, deadline = f"{doing} topic {topic!r}", time.monotonic() + timeout_s
        try:
            self.assign([TopicPartition(topic, partition, offset) for partition, offset in offsets.items()])
            while waiting:
                if (left_s := deadline - time.monotonic()) <= 0:
                    why = f"{doing}: no answer within {timeout_s:g} s of partitions {sorted(waiting)}"
                    raise BrokerUnavailable(why, hint="Check that the broker runs, and try again.")
                # Wait for one message only: `consume` with a time-out waits for all of them.
                for message in (*self.consume(1, min(left_s, 0.05)), *self.consume(10_000, 0)):
                    partition, offset, error = message.partition(), message.offset(), message.error()
                    if error is not None and error.code() not in _NO_RECORD:
                        raise broker_error(error, doing)
                    if partition is not None and offset is not None:
                        yield partition, offset, message if error is None else None
        except KafkaException as error:
            raise broker_error(error, doing) from error
        finally:
            self.unassign()

    def committed_offsets(self, login: KafkaLogin, partitions: Iterable[int], timeout_s: float) -> dict[int, int]:
        """Return the group's committed offset of each partition; negative if there is none. The administrative call
        would be refused at once, but librdkafka 2.16 ends the whole process if the connection breaks in the middle of
        one that concerns a group (librdkafka pull request 5397). Raises BrokerRefused if this user may not see the
        group, and BrokerUnavailable."""
        places = [TopicPartition(login.server.topic, partition) for partition in partitions]
        deadline, answer_s = time.monotonic() + timeout_s, 0.02
        while not self.group_refused:
            left_s = deadline - time.monotonic()
            try:
                answer = self.committed(places, timeout=answer_s)
            except KafkaException as error:
                if error.args[0].code() not in _NO_ANSWER or left_s <= answer_s:
                    raise broker_error(error, f"reading the offsets of group {login.server.group!r}") from error
                self.consume(1, 0)
                answer_s = min(2 * answer_s, 0.25)  # how long a refusal may stay unseen
            else:
                return {place.partition: place.offset for place in answer}
        raise BrokerRefused(f"this user may not see group {login.server.group!r}")


def reported_ranges(
    client: Client, topic: str, partitions: Iterable[int], timeout_s: float
) -> dict[int, tuple[int, int]]:
    """Return for each partition the first offset of its log, and its end as the broker tells it. Raises BrokerError."""
    wanted, doing = sorted(partitions), f"asking for the offsets of topic {topic!r}"

    def ask(end: int, left_s: float) -> dict[int, int]:
        places = [TopicPartition(topic, partition, end) for partition in wanted]
        try:
            answer = client.offsets_for_times(places, timeout=left_s)
            refusal = next((place.error for place in answer if place.error is not None), None)
        except KafkaException as error:
            raise broker_error(error, doing) from error
        if refusal is not None:
            raise broker_error(refusal, doing) from KafkaException(refusal)
        return {place.partition: place.offset for place in answer}

    # As a time stamp each of the two asks for that end of the log, of all partitions at once; again while the topic is
    # new or its leaders are moving.
    starts, ends = (
        repeated(partial(ask, each), timeout_s, RETRIABLE["offsets"]) for each in (OFFSET_BEGINNING, OFFSET_END)
    )
    return {partition: (starts[partition], ends[partition]) for partition in wanted}


class TopicIds:
    """Asks for the id of the topic that a login names, which no other topic of its name has (KIP-516)."""

    def __init__(self, login: KafkaLogin, *, client_id: str) -> None:
        self._login, self._client_id, self._answered = login, client_id, False
        self._admin: AdminClient | None = None

    def change_user(self, login: KafkaLogin) -> None:
        """Use another user of the same server for new connections."""
        self._login = login
        if self._admin is not None:
            self._admin.set_sasl_credentials(login.username, login.password.reveal())

    def close(self) -> None:
        """End the client."""
        self._admin = None

    def ask(self, timeout_s: float) -> str:
        """Return the id in base64, empty if the broker has none. Raises BrokerError."""
        topic = TopicCollection([self._login.server.topic])

        def question(request_timeout: float) -> Mapping[str, Future[TopicDescription]]:
            # A client without an answer is dropped: a new one may find a broker that answers. (Compare with
            # None: the length of a client is that of its queue, so that an idle one is false.)
            if self._admin is None or not self._answered:
                self._admin = AdminClient(client_config(self._login, client_id=self._client_id))
            self._answered = False
            # One of several brokers may take so long; another is asked then.
            return self._admin.describe_topics(topic, request_timeout=min(request_timeout, 1.0))

        (found,) = await_results("asking for the id of topic {!r}".format, question, timeout_s)
        self._answered = True
        return str(found.topic_id).replace("A" * 22, "")  # which is what a broker without topic ids answers
