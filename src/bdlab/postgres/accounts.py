"""The account of each partition: which offsets are recorded, missing, recorded twice, or out of range.

Cost: one scan of the three position indexes, some 2 s for 10 million rows once they are vacuumed, and an
index lookup for each duplicate and dead letter, some 5 s for a million of them; one ordered scan more for a
partition that does not balance. benchmarks/accounts.py measures it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - named so by psycopg2

from bdlab.ledger import Account, Gap, LogPartition, Sighting
from bdlab.postgres.queries import queries


def read_accounts(cursor: Cursor, *, limit: int) -> list[Account]:
    """Return all accounts, sorted by log, in the snapshot of `cursor`; `limit` bounds each of their lists."""
    sql = queries("accounts")
    cursor.execute(sql["index_scans_only"])
    cursor.execute(sql["offsets"])
    offsets = {(row[0], row[1]): row[2:] for row in cursor.fetchall()}
    cursor.execute(sql["partitions"])
    places = sorted(offsets.keys() | {(row[0], row[1]) for row in cursor.fetchall()})
    cursor.execute(sql["logs"])
    logs = {row[0]: row[1:] for row in cursor.fetchall()}
    found = []
    for log_id, partition in places:
        cluster_id, topic, topic_id, closed = logs.get(log_id, (f"log_id {log_id}", "", "", True))
        log = LogPartition(cluster_id, topic, partition, topic_id)
        account = _account(cursor, log_id, log, offsets.get((log_id, partition)), limit)
        found.append(msgspec.structs.replace(account, closed=closed))
    return sorted(found, key=lambda account: account.log)


def _account(cursor: Cursor, log_id: int, log: LogPartition, row: Sequence[Any] | None, limit: int) -> Account:
    place = {"log_id": log_id, "partition": log.partition, "limit": limit}
    # Without a row the sink never had this partition: all its positions are outside of an empty range.
    first, following, end_seen, pruned_to, *pruned = row or (None, None, 0, None)
    base = (first or 0) if pruned_to is None else pruned_to
    values = {**place, "base": base, "next": following or 0}
    cursor.execute(queries("accounts")["counts"], values)
    counts = cursor.fetchone() or (0, 0, 0)
    twice_count, twice = _sightings(cursor, "twice", values)
    outside_count, outside = _sightings(cursor, "outside", values)
    missing_count = values["next"] - base - (sum(counts) - twice_count)
    before = [count or 0 for count in pruned or (0, 0, 0)]
    return Account(
        log=log,
        first_offset=first,
        next_offset=following,
        end_seen=end_seen,
        stored=counts[0] + before[0],
        duplicates=counts[1] + before[1],
        dead_letters=counts[2] + before[2],
        pruned=sum(before),
        pruned_to=pruned_to,
        missing_count=missing_count,
        missing=_gaps(cursor, values) if missing_count else (),
        twice_count=twice_count,
        twice=twice,
        outside_count=outside_count,
        outside=outside,
    )


def _sightings(cursor: Cursor, query: str, values: Mapping[str, Any]) -> tuple[int, tuple[Sighting, ...]]:
    """Return how many positions `query` finds in all, and the first of them."""
    cursor.execute(queries("accounts")[query], values)
    rows = cursor.fetchall()
    ids: dict[int, tuple[str, ...]] = {}
    if rows:
        cursor.execute(queries("accounts")["ids"], {**values, "offsets": [row[0] for row in rows]})
        ids = {offset: tuple(each) for offset, each in cursor.fetchall()}
    found = [Sighting(offset=row[0], tables=row[1:-1], ids=ids.get(row[0], ())) for row in rows]
    return (rows[0][-1] if rows else 0), tuple(found)


def _gaps(cursor: Cursor, values: Mapping[str, Any]) -> tuple[Gap, ...]:
    cursor.execute(queries("accounts")["gaps"], values)
    return tuple(Gap(*row) for row in cursor.fetchall())
