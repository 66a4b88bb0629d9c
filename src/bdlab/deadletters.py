"""Dead letters: find them, send them back to the topic (replay), and tell what became of the replays.

A dead letter stays at its position. Its replay is a new event at a new position, with a header that counts
how often it was sent back, so that an event that fails again and again is noticed. If a replay becomes a
dead letter again, that one is open in place of the first."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from bdlab.errors import BdlabError, BrokerError, DatabaseUnavailable
from bdlab.events import Headers, Position, Record
from bdlab.ledger import REPLAY_HEADER
from bdlab.retry import tries, wait_for

Publish = Callable[[bytes | None, bytes | None, Headers, Callable[[Position | BrokerError], None]], None]
"""Publishes a record, and calls the last argument once, within a bounded time. Raises BrokerError."""
_AT_ONCE = 500
_NOTED_WITHIN_S = 30.0
#: `open`: nothing was done about it; `returned`: it is a replay that became a dead letter again. If it was
#: sent back: `sent`, no consumer has recorded it yet; `stored`, it is a row or a duplicate; `superseded`, it
#: is a dead letter again at its new position. `discarded`: somebody decided to drop it.
State = Literal["open", "returned", "sent", "stored", "superseded", "discarded"]
OPEN: tuple[State, ...] = ("open", "returned")
"""The states in which somebody has to act."""
BECAME = {"stored": "stored", "duplicate": "a duplicate of what is stored", "dead": "dead again"}
"""The outcomes of a replay, for a person."""


class StoredDeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `dead_letters`. `replays` counts how often the event was sent back, at all its positions. `replayed_to`
    is the partition and offset of its newest replay."""

    record: Record
    reason: str
    sqlstate: str
    recorded_at: datetime
    replays: int
    state: State = "open"
    replayed_to: tuple[int, int] | None = None
    discarded_because: str = ""


class DeadLetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters to find; None, and empty `states`, match all. `reason` is a part of the reason, `sqlstate` the
    code's beginning. `since` is included, `until` is not."""

    cluster_id: str | None = None
    topic: str | None = None
    partition: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] | None = None
    offset: int | None = None
    key: bytes | None = None
    reason: str | None = None
    sqlstate: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    states: tuple[State, ...] = ()


class ReplayOutcome(NamedTuple):
    """How a replay was recorded, and the reason if it is `dead` again."""

    became: Literal["stored", "duplicate", "dead"]
    reason: str = ""


class LetterResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one dead letter: its `replay` and the outcome of that, if known; or the `problem`."""

    letter: StoredDeadLetter
    replay: Position | None = None
    problem: str = ""
    outcome: ReplayOutcome | None = None


def place(at: Position | tuple[int | str, int]) -> str:
    """Return a position as arguments and output have it: `3/1207` is partition 3, offset 1207."""
    partition, offset = at if isinstance(at, tuple) else (at.partition, at.offset)
    return f"{partition}/{offset}"


def state(letter: StoredDeadLetter) -> str:
    """Return its state in a few words."""
    if letter.state == "returned":
        return f"open; came back from {letter.replays} replay{'s' if letter.replays > 1 else ''}"
    went = {"sent": "sent back as", "stored": "stored as", "superseded": "dead again as"}.get(letter.state)
    return f"{went} {place(letter.replayed_to or (0, 0))}" if went else letter.state


def closed(letter: StoredDeadLetter, *, again: bool = False) -> str:
    """Return why nothing more is to be done about it; empty if something is. With `again` a letter that was sent back
    and is not recorded yet is not closed."""
    if letter.state in OPEN or (letter.state == "sent" and again):
        return ""
    replayed = place(letter.replayed_to or (0, 0))
    return {
        "sent": f"it was sent back as {replayed}, which no consumer has recorded yet (--again)",
        "superseded": f"its replay came back dead: what is open is {replayed}",
        "discarded": f"it was discarded: {letter.discarded_because}",
        "stored": f"its replay, {replayed}, is stored",
    }[letter.state]


def refusal(letter: StoredDeadLetter, *, max_replays: int) -> str:
    """Return why the letter should not be replayed; empty if it may be."""
    if letter.record.value is None:
        return "it has no value, which can never be an event"
    if letter.replays >= max_replays:
        return f"it was replayed {letter.replays} times already, and the limit is {max_replays}"
    return ""


def replay(
    letters: Sequence[StoredDeadLetter],
    publish: Publish,
    record: Callable[[Sequence[tuple[Position, Position]]], None],
    *,
    max_replays: int = 3,
) -> Iterator[LetterResult]:
    """Send each letter back to the topic with `publish`, and yield its result, in the order of `letters`. A replay's
    old and new position are given to `record` after its acknowledgement. If the process is killed in between and the
    letter is sent once more, it ends as a duplicate. Raises DatabaseError and VaultError."""
    for first in range(0, len(letters), _AT_ONCE):
        results = _send(letters[first : first + _AT_ONCE], publish, max_replays)
        try:
            replays = [(one.letter.record.position, one.replay) for one in results if one.replay]
            # Tried again: a replay that is not recorded would be sent once more.
            wait_for("PostgreSQL", partial(record, replays), timeout_s=_NOTED_WITHIN_S)
        except BdlabError:
            yield from results  # report what was sent in any case
            raise
        yield from results


def await_replays(
    results: Sequence[LetterResult],
    outcomes: Callable[[Sequence[Position]], Mapping[Position, ReplayOutcome]],
    *,
    wait_s: float,
    stop: threading.Event,
) -> list[LetterResult]:
    """Return the results with the `outcomes` of their replays, once a consumer has recorded them all. Those that are
    not known after `wait_s` seconds, or when `stop` is set, stay None. If the database is away meanwhile, it is asked
    again. Raises DatabaseError and VaultError."""
    found: dict[Position, ReplayOutcome] = {}
    sent = [one.replay for one in results if one.replay]
    for _ in tries(wait_s, stop=stop) if sent else ():
        with contextlib.suppress(DatabaseUnavailable):
            found |= outcomes([place for place in sent if place not in found])
        if len(found) == len(sent):
            break
    return [msgspec.structs.replace(one, outcome=found.get(one.replay)) if one.replay else one for one in results]


def _send(letters: Sequence[StoredDeadLetter], publish: Publish, max_replays: int) -> list[LetterResult]:
    answers = [Future[Position | BrokerError]() for _ in letters]
    for letter, answer in zip(letters, answers, strict=True):
        record = letter.record
        kept = [(name, value) for name, value in record.headers if name != REPLAY_HEADER]
        head = [*kept, (REPLAY_HEADER, str(letter.replays + 1).encode())]
        try:
            if problem := refusal(letter, max_replays=max_replays):
                answer.set_result(BrokerError(problem))
            else:
                publish(record.key, record.value, head, answer.set_result)
        except BrokerError as error:
            answer.set_result(error)
    done, _ = wait(answers, 120.0)
    results = []
    for letter, answer in zip(letters, answers, strict=True):
        found = answer.result() if answer in done else BrokerError("the producer never answered")
        became: Any = {"problem": found.message} if isinstance(found, BrokerError) else {"replay": found}
        results.append(LetterResult(letter=letter, **became))
    return results
