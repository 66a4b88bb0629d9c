"""What the tables know of a broker's log, and an administrator's decision about it."""

from collections.abc import Sequence

import msgspec
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - named so by psycopg2

from bdlab.credentials import DatabaseCredentials
from bdlab.ledger import LogRange
from bdlab.log_identity import KnownLog, KnownRecord
from bdlab.postgres.queries import queries
from bdlab.postgres.session import Session


def read_known(cursor: Cursor, ranges: Sequence[LogRange]) -> KnownLog | None:
    """Return what is known of the log with these ranges, of all partitions; None if it is new."""
    sql = queries("logs")
    cursor.execute(sql["find"], msgspec.structs.asdict(ranges[0]))
    row = cursor.fetchone()
    if row is None:
        return None
    log_id, topic_id, adopted, recorded = row
    places = {
        "log_id": log_id,
        "partitions": [one.partition for one in ranges],
        "starts": [one.start for one in ranges],
        "ends": [one.end for one in ranges],
    }
    cursor.execute(sql["known_records"], places)
    return KnownLog(
        topic_id=topic_id,
        recorded=recorded,
        adopted=adopted,
        records={
            partition: KnownRecord(
                offset=offset,
                id=found,
                key=None if key is None else bytes(key),
                value=None if value is None else bytes(value),
            )
            for partition, offset, found, key, value in cursor.fetchall()
        },
    )


def decide(credentials: DatabaseCredentials, found: LogRange, *, same: bool) -> bool:
    """Note that the log of `found` is the known one (`same`), or that the known one is closed.

    Return whether any is known. `credentials` are of a member of bdlab_owner. Raises DatabaseError, VaultError.
    """
    with Session(credentials, application_name="bdlab migrate") as session, session.transaction() as cursor:
        cursor.execute(queries("logs")["adopt" if same else "close"], msgspec.structs.asdict(found))
        return cursor.fetchone() is not None
