"""Dead letters in Postgres: finding them, and noting their replays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from psycopg2.extras import execute_batch

from bdlab.credentials import DatabaseCredentials
from bdlab.deadletters import DeadLetterFilter, StoredDeadLetter
from bdlab.events import Position, Record
from bdlab.postgres.queries import queries
from bdlab.postgres.rows import headers_from_json
from bdlab.postgres.session import Session


class DeadLetters:
    """Logs in as a member of bdlab_writer, or of bdlab_reader where nothing is to be noted. For one
    thread.
    """

    def __init__(self, credentials: DatabaseCredentials) -> None:
        self._session = Session(credentials, application_name="bdlab dlq")

    def open(self) -> None:
        """Connect. Raises DatabaseError and VaultError, as does each call."""
        self._session.open()

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> DeadLetters:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def find(self, wanted: DeadLetterFilter, *, limit: int) -> list[StoredDeadLetter]:
        """At most `limit` of them, the oldest first."""
        with self._session.transaction() as cursor:
            cursor.execute(queries("deadletters")["find"], {**msgspec.structs.asdict(wanted), "limit": limit})
            return [_dead_letter(row) for row in cursor.fetchall()]

    def count(self, wanted: DeadLetterFilter) -> int:
        """How many there are."""
        with self._session.transaction() as cursor:
            cursor.execute(queries("deadletters")["count"], msgspec.structs.asdict(wanted))
            row = cursor.fetchone()
            return int(row[0]) if row else 0

    def record_replays(self, replays: Sequence[tuple[Position, Position]]) -> None:
        """Note from which position each was sent back, and to which."""
        if not replays:
            return
        values = [
            msgspec.structs.asdict(old)
            | {f"new_{field}": value for field, value in msgspec.structs.asdict(new).items()}
            for old, new in replays
        ]
        with self._session.transaction() as cursor:
            execute_batch(cursor, queries("deadletters")["record_replay"], values)


def _dead_letter(row: Sequence[Any]) -> StoredDeadLetter:
    key, value, headers, reason, sqlstate, recorded_at, replays = row[5:]
    return StoredDeadLetter(
        record=Record(
            Position(*row[:5]),
            None if key is None else bytes(key),
            None if value is None else bytes(value),
            headers_from_json(headers),
        ),
        reason=reason,
        sqlstate=sqlstate,
        recorded_at=recorded_at,
        replays=replays,
    )
