"""Dead letters: finding them, and sending them back to the topic.

A dead letter stays at its position. Its replay is a new event at a new one, which carries how often it was
sent back in a header, so that one that fails again and again is noticed.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol

import msgspec

from bdlab.backoff import Backoff
from bdlab.errors import BdlabError, BrokerError, DatabaseUnavailable
from bdlab.events import Headers, Position, Record
from bdlab.ledger import REPLAY_HEADER

MAX_REPLAYS = 3
"""What failed this often will fail again: replaying it takes an explicit higher limit."""

_AT_ONCE = 500
_ANSWER_TIMEOUT_S = 120.0
_NOTED_WITHIN_S = 30.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 2.0


class StoredDeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `dead_letters`. `replays` counts how often the event was sent back, in all its lives."""

    record: Record
    reason: str
    sqlstate: str
    recorded_at: datetime
    replays: int


class DeadLetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters; None matches all. `reason` is a part of the text, `sqlstate` its beginning.

    `since` is included and `until` is not. `pending_only` leaves out what was replayed from here already.
    """

    cluster_id: str | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    reason: str | None = None
    sqlstate: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    pending_only: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one dead letter: its `replay`, or why there is none."""

    letter: StoredDeadLetter
    replay: Position | None = None
    problem: str = ""


class RawProducer(Protocol):
    def publish_raw(
        self,
        key: bytes | None,
        value: bytes | None,
        head: Headers,
        done: Callable[[Position | BrokerError], None],
    ) -> None:
        """Hand over a record; `done` is called once, in bounded time. Raises BrokerError."""
        ...


class ReplayBook(Protocol):
    def record_replays(self, replays: Sequence[tuple[Position, Position]]) -> None:
        """Note from which position each was sent back, and to which. Raises DatabaseError and VaultError."""
        ...


def refusal(letter: StoredDeadLetter, *, max_replays: int) -> str:
    """Why it should not be replayed; empty where it may."""
    if letter.record.value is None:
        return "it has no value, which can never be an event"
    if letter.replays >= max_replays:
        return f"it was replayed {letter.replays} times already, and the limit is {max_replays}"
    return ""


def replay(
    letters: Sequence[StoredDeadLetter],
    producer: RawProducer,
    book: ReplayBook,
    *,
    max_replays: int = MAX_REPLAYS,
) -> Iterator[Outcome]:
    """Send each back to the topic, and say what became of it, in the order of `letters`.

    A replay is noted after its acknowledgement. Killed in between, it is on the topic and not in the book:
    sent once more, it ends as a duplicate. Raises DatabaseError and VaultError.
    """
    for first in range(0, len(letters), _AT_ONCE):
        outcomes = _send(letters[first : first + _AT_ONCE], producer, max_replays)
        try:
            _note(book, [(one.letter.record.position, one.replay) for one in outcomes if one.replay])
        except BdlabError:
            yield from outcomes  # what was sent is said in any case
            raise
        yield from outcomes


def _note(book: ReplayBook, replays: Sequence[tuple[Position, Position]]) -> None:
    """Note them, also where the database is away for a moment: what is not noted would be sent once more."""
    backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
    deadline = time.monotonic() + _NOTED_WITHIN_S
    while True:
        try:
            return book.record_replays(replays)
        except DatabaseUnavailable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(backoff.next_s())


def _send(letters: Sequence[StoredDeadLetter], producer: RawProducer, max_replays: int) -> list[Outcome]:
    answers: queue.SimpleQueue[tuple[int, Position | BrokerError]] = queue.SimpleQueue()
    outcomes: dict[int, Outcome] = {}
    waiting = 0
    for number, letter in enumerate(letters):
        problem = refusal(letter, max_replays=max_replays)
        if problem:
            outcomes[number] = Outcome(letter=letter, problem=problem)
            continue
        record = letter.record
        try:
            producer.publish_raw(
                record.key, record.value, replay_headers(letter), partial(_answer, answers, number)
            )
            waiting += 1
        except BrokerError as error:
            outcomes[number] = Outcome(letter=letter, problem=error.message)
    with contextlib.suppress(queue.Empty):
        for _ in range(waiting):
            number, answer = answers.get(timeout=_ANSWER_TIMEOUT_S)
            outcomes[number] = (
                Outcome(letter=letters[number], problem=answer.message)
                if isinstance(answer, BrokerError)
                else Outcome(letter=letters[number], replay=answer)
            )
    return [
        outcomes.get(number, Outcome(letter=letter, problem="the producer never answered"))
        for number, letter in enumerate(letters)
    ]


def _answer(
    answers: queue.SimpleQueue[tuple[int, Position | BrokerError]],
    number: int,
    answer: Position | BrokerError,
) -> None:
    answers.put((number, answer))


def replay_headers(letter: StoredDeadLetter) -> list[tuple[str, bytes | None]]:
    """The headers as they came, with the count of this replay."""
    kept = [(name, value) for name, value in letter.record.headers if name != REPLAY_HEADER]
    return [*kept, (REPLAY_HEADER, str(letter.replays + 1).encode())]
