"""Dead letters: finding them, sending them back to the topic, and what became of those.

A dead letter stays at its position. Its replay is a new event at a new one, which carries how often it was
sent back in a header, so that one that fails again and again is noticed. A replay that comes back dead takes
the matter over: it is one open matter, however often it was tried.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Literal, NamedTuple, Protocol

import msgspec

from bdlab.errors import BdlabError, BrokerError, DatabaseUnavailable
from bdlab.events import Headers, Position, Record
from bdlab.ledger import REPLAY_HEADER
from bdlab.retry import tries, wait_for

MAX_REPLAYS = 3
"""What failed this often will fail again: replaying it takes an explicit higher limit."""

_AT_ONCE = 500
_ANSWER_TIMEOUT_S = 120.0
_NOTED_WITHIN_S = 30.0

#: `open`: nobody has done anything about it; `returned`: it is a replay that came back dead. Of what was
#: sent back: `sent`, no consumer has recorded it yet; `stored`, it is a row or a duplicate; `superseded`, it
#: is dead again at its new position. `discarded`: somebody has finished with it.
State = Literal["open", "returned", "sent", "stored", "superseded", "discarded"]

OPEN: tuple[State, ...] = ("open", "returned")
"""What somebody still has to see to."""


class StoredDeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `dead_letters`. `replays` counts how often the event was sent back, in all its lives.

    `replayed_to` is partition and offset of its newest replay.
    """

    record: Record
    reason: str
    sqlstate: str
    recorded_at: datetime
    replays: int
    state: State = "open"
    replayed_to: tuple[int, int] | None = None
    discarded_because: str = ""


class DeadLetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters; None, and no `states`, match all. `reason` is a part of the text, `sqlstate` its
    beginning. `since` is included and `until` is not.
    """

    cluster_id: str | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    reason: str | None = None
    sqlstate: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    states: tuple[State, ...] = ()


class ReplayOutcome(NamedTuple):
    """How a replay was recorded, and the reason of one that is `dead` again."""

    became: Literal["stored", "duplicate", "dead"]
    reason: str = ""


class LetterResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one dead letter: its `replay`, or why there is none; and the replay's outcome, if it is
    known.
    """

    letter: StoredDeadLetter
    replay: Position | None = None
    problem: str = ""
    outcome: ReplayOutcome | None = None


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


class ReplayRecorder(Protocol):
    def record_replays(self, replays: Sequence[tuple[Position, Position]]) -> None:
        """Note from which position each was sent back, and to which. Raises DatabaseError and VaultError."""
        ...


class ReplayReader(Protocol):
    def replay_outcomes(self, replays: Sequence[Position]) -> Mapping[Position, ReplayOutcome]:
        """Of those that are recorded. Raises DatabaseError and VaultError."""
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
    book: ReplayRecorder,
    *,
    max_replays: int = MAX_REPLAYS,
) -> Iterator[LetterResult]:
    """Send each back to the topic, and say what became of it, in the order of `letters`.

    A replay is noted after its acknowledgement. Killed in between, it is on the topic and not in the book:
    sent once more, it ends as a duplicate. Raises DatabaseError and VaultError.
    """
    for first in range(0, len(letters), _AT_ONCE):
        results = _send(letters[first : first + _AT_ONCE], producer, max_replays)
        try:
            _note(book, [(one.letter.record.position, one.replay) for one in results if one.replay])
        except BdlabError:
            yield from results  # what was sent is said in any case
            raise
        yield from results


def await_replays(
    results: Sequence[LetterResult], reader: ReplayReader, *, wait_s: float, stop: threading.Event
) -> list[LetterResult]:
    """The results with the fates of their replays, as far as a consumer records them within `wait_s` seconds
    and before `stop`. A database that is away meanwhile is asked again. Raises DatabaseError and VaultError.
    """
    found: dict[Position, ReplayOutcome] = {}
    sent = [one.replay for one in results if one.replay]
    for _ in tries(wait_s, stop=stop) if sent else ():
        with contextlib.suppress(DatabaseUnavailable):
            found |= reader.replay_outcomes([place for place in sent if place not in found])
        if len(found) == len(sent):
            break
    return [
        msgspec.structs.replace(one, outcome=found.get(one.replay)) if one.replay else one for one in results
    ]


def _note(book: ReplayRecorder, replays: Sequence[tuple[Position, Position]]) -> None:
    """Note them, also if the database is away for a moment: what is not noted would be sent once more."""
    wait_for("PostgreSQL", lambda: book.record_replays(replays), timeout_s=_NOTED_WITHIN_S)


def _send(letters: Sequence[StoredDeadLetter], producer: RawProducer, max_replays: int) -> list[LetterResult]:
    answers: queue.SimpleQueue[tuple[int, Position | BrokerError]] = queue.SimpleQueue()
    results: dict[int, LetterResult] = {}
    waiting = 0
    for number, letter in enumerate(letters):
        problem = refusal(letter, max_replays=max_replays)
        if problem:
            results[number] = LetterResult(letter=letter, problem=problem)
            continue
        record = letter.record
        try:
            producer.publish_raw(
                record.key, record.value, replay_headers(letter), partial(_answer, answers, number)
            )
            waiting += 1
        except BrokerError as error:
            results[number] = LetterResult(letter=letter, problem=error.message)
    with contextlib.suppress(queue.Empty):
        for _ in range(waiting):
            number, answer = answers.get(timeout=_ANSWER_TIMEOUT_S)
            results[number] = (
                LetterResult(letter=letters[number], problem=answer.message)
                if isinstance(answer, BrokerError)
                else LetterResult(letter=letters[number], replay=answer)
            )
    return [
        results.get(number, LetterResult(letter=letter, problem="the producer never answered"))
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
