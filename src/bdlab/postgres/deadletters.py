"""Dead letters in PostgreSQL: finding them, and noting what was done with them."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import msgspec
from psycopg2.extras import execute_batch

from bdlab.credentials import DatabaseCredentials
from bdlab.deadletters import DeadLetterFilter, ReplayOutcome, StoredDeadLetter
from bdlab.events import Position, Record
from bdlab.postgres.rows import headers_from_json, printable
from bdlab.postgres.session import Session, as_bytes, ask, queries


class DeadLetters(Session):
    """For one thread, as bdlab_dlq, or bdlab_reader to find only. All of it raises DatabaseError and VaultError."""

    def __init__(self, credentials: DatabaseCredentials) -> None:
        super().__init__(credentials, application_name="bdlab dlq")

    def find(
        self, wanted: DeadLetterFilter, *, limit: int, newest: bool = False, skip: int = 0
    ) -> list[StoredDeadLetter]:
        """Return at most `limit` of them, the open ones first, and of those the oldest first; or the `newest` first."""
        return [_dead_letter(row[:-1]) for row in self._find(wanted, limit, newest, skip)]

    def count(self, wanted: DeadLetterFilter) -> int:
        """Return how many there are."""
        return sum(int(row[-1]) for row in self._find(wanted, 1))

    def reasons(self, wanted: DeadLetterFilter, *, limit: int) -> list[dict[str, Any]]:
        """Return a row for each of the `limit` most frequent reasons, with the columns of the query `reasons`."""
        return self.ask("reasons", "deadletters", **_values(wanted), limit=limit)

    def _find(self, wanted: DeadLetterFilter, limit: int, newest: bool = False, skip: int = 0) -> list[tuple[Any, ...]]:
        values = _values(wanted) | {"limit": limit, "newest": newest, "skip": skip}
        with self.transaction() as cursor:
            return ask(cursor, queries("deadletters")["find"], values)

    def replay_outcomes(self, replays: Sequence[Position]) -> Mapping[Position, ReplayOutcome]:
        """Return what became of the replayed events that a consumer has recorded."""
        found: dict[Position, ReplayOutcome] = {}
        for (cluster_id, topic), positions in groupby(sorted(replays), attrgetter("cluster_id", "topic")):
            places = {(position.partition, position.offset): position for position in positions}
            values: dict[str, Any] = {"cluster_id": cluster_id, "topic": topic}
            values["partitions"], values["offsets"] = map(list, zip(*places, strict=True))
            with self.transaction() as cursor:
                rows = ask(cursor, queries("deadletters")["replay_outcomes"], values)
            found |= {places[row[0], row[1]]: ReplayOutcome(row[2], row[3]) for row in rows}
        return found

    def record_replays(self, replays: Sequence[tuple[Position, Position]]) -> None:
        """Note the former and the new position of each letter that was sent back."""
        if not replays:
            return
        plain = msgspec.structs.asdict
        values = [plain(old) | {f"new_{field}": value for field, value in plain(new).items()} for old, new in replays]
        with self.transaction() as cursor:
            execute_batch(cursor, queries("deadletters")["record_replay"], values)

    def discard(self, letters: Sequence[Position], *, because: str) -> None:
        """Note why they need no more attention. They stay dead letters."""
        values = [msgspec.structs.asdict(position) | {"because": printable(because)} for position in letters]
        with self.transaction() as cursor:
            execute_batch(cursor, queries("deadletters")["discard"], values)


def _values(wanted: DeadLetterFilter) -> dict[str, Any]:
    return msgspec.structs.asdict(wanted) | {"states": list(wanted.states) or None}


def _dead_letter(row: Sequence[Any]) -> StoredDeadLetter:
    key, value, headers, reason, sqlstate, recorded_at, replays, state, *replay, because = row[5:]
    return StoredDeadLetter(
        record=Record(Position(*row[:5]), as_bytes(key), as_bytes(value), headers_from_json(headers)),
        reason=reason,
        sqlstate=sqlstate,
        recorded_at=recorded_at,
        replays=replays,
        state=state,
        replayed_to=None if replay[0] is None else (replay[0], replay[1]),
        discarded_because=because or "",
    )
