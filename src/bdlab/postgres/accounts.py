"""The account of each partition: which offsets are recorded, missing, recorded twice, or out of range; and pruning.

Rows are pruned by offset: all positions of a partition below some offset are deleted, so that the rest has no gap, and
accounting goes on from a checkpoint, which keeps the numbers of what they were. Only a range that balances is deleted,
in small transactions, each with its checkpoint: after a kill at any moment a little less is pruned.

Cost of an account: one scan of the position indexes, some 2 s for 10 million rows once they are vacuumed, and an
index lookup for each duplicate and dead letter, some 5 s for a million of them; one ordered scan more for a partition
that does not balance. benchmarks/accounts.py measures it.

Besides, what the tables know of a broker's log, and an administrator's decision about it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - named so by psycopg2

from bdlab.credentials import DatabaseCredentials
from bdlab.errors import Unhealthy
from bdlab.ledger import Account, Gap, LogPartition, LogRange, Sighting
from bdlab.log_identity import KnownLog, KnownRecord
from bdlab.postgres.contracts import read_contract
from bdlab.postgres.session import ConnectionLimits, Session, as_bytes, ask, queries

_OFFSETS_A_TRANSACTION = 20_000
_TABLES = ("stored", "duplicates", "dead_letters")
_LIMITS = ConnectionLimits(statement_s=600, silence_s=700)


def read_accounts(cursor: Cursor, *, limit: int) -> list[Account]:
    """Return all accounts, sorted by log, in the snapshot of `cursor`; `limit` bounds each of their lists."""
    statements = queries("accounts")
    cursor.execute(statements["index_scans_only"])
    offsets = {(row[0], row[1]): row[2:] for row in ask(cursor, statements["offsets"])}
    places = sorted(offsets.keys() | {(row[0], row[1]) for row in ask(cursor, statements["partitions"])})
    logs = {row[0]: row[1:] for row in ask(cursor, statements["logs"])}
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
    (counts,) = ask(cursor, queries("accounts")["counts"], values)
    twice = _sightings(cursor, "twice", values)
    missing_count = max(0, values["next"] - base - (sum(counts) - twice["twice_count"]))
    gaps = ask(cursor, queries("accounts")["gaps"], values) if missing_count else []
    before = [count or 0 for count in pruned or (0, 0, 0)]
    return Account(
        log=log,
        first_offset=first,
        next_offset=following,
        end_seen=end_seen,
        **{table: now + gone for table, now, gone in zip(_TABLES, counts, before, strict=True)},
        pruned=sum(before),
        pruned_to=pruned_to,
        missing_count=missing_count,
        missing=tuple(Gap(*row) for row in gaps),
        **twice,
        **_sightings(cursor, "outside", values),
    )


def _sightings(cursor: Cursor, query: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the account's two fields of what `query` finds: how many positions in all, and the first of them."""
    rows = ask(cursor, queries("accounts")[query], values)
    places = {**values, "offsets": [row[0] for row in rows]}
    ids = dict(ask(cursor, queries("accounts")["ids"], places)) if rows else {}
    found = tuple(Sighting(offset=row[0], tables=row[1:-1], ids=tuple(ids.get(row[0], ()))) for row in rows)
    return {f"{query}_count": rows[0][-1] if rows else 0, query: found}


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What was deleted of one partition, or would be: all positions below `pruned_to`, by table."""

    log: LogPartition
    pruned_to: int
    stored: int
    duplicates: int
    dead_letters: int


def prune(
    credentials: DatabaseCredentials,
    *,
    before: datetime,
    dry_run: bool = False,
    offsets_a_transaction: int = _OFFSETS_A_TRANSACTION,
) -> Iterator[Pruned]:
    """Delete the positions that were recorded before `before`, and yield what was deleted of each partition. With a
    prediction go its re-scores and what its feedback says. `credentials` log in as a member of bdlab_owner: the writer
    may not delete. The id of a deleted row is forgotten: an event with it is then stored as a new row. Raises Unhealthy
    for a partition that does not balance (what came before it stays pruned), DatabaseError and VaultError."""
    with Session(credentials, application_name="bdlab prune", limits=_LIMITS) as session:
        with session.transaction() as cursor:
            found = ask(cursor, queries("accounts")["prunable"])
            logs = [(row[0], LogPartition(*row[1:5]), int(row[5]), int(row[6])) for row in found]
            truths = [sql.SQL("{} = NULL").format(sql.Identifier(one.column)) for one in read_contract(cursor).truths]
            forgotten = sql.SQL(", ").join([*truths, sql.SQL("pruned_at = now()")])
        delete = None if dry_run else sql.SQL(queries("accounts")["delete"]).format(forgotten=forgotten)
        for log_id, log, base, following in logs:
            pruned = Pruned(log=log, pruned_to=base, stored=0, duplicates=0, dead_letters=0)
            while pruned.pruned_to < following:
                upto = min(following, pruned.pruned_to + offsets_a_transaction)
                with session.transaction() as cursor:
                    pruned = _prune_range(cursor, log_id, pruned, upto, before=before, delete=delete)
                if pruned.pruned_to < upto:
                    break
            if pruned.pruned_to > base:
                yield pruned


def _prune_range(
    cursor: Cursor, log_id: int, pruned: Pruned, upto: int, *, before: datetime, delete: sql.Composed | None
) -> Pruned:
    """Delete from `pruned.pruned_to` on what is old, up to `upto`; return the sum of that and `pruned`. Without
    `delete` only count it."""
    statements, log, base = queries("accounts"), pruned.log, pruned.pruned_to
    if delete:
        cursor.execute(statements["lock_pruning"])
    values = {"log_id": log_id, "partition": log.partition, "base": base, "next": upto}
    ((young,),) = ask(cursor, statements["first_young"], {**values, "cutoff": before})
    if young is not None:
        values["next"] = upto = young
    if upto == base:
        return pruned
    (found,) = ask(cursor, delete or statements["counts"], values)
    counts = dict(zip(_TABLES, found, strict=True))
    recorded = sum(counts.values())
    if recorded != upto - base:
        raise Unhealthy(
            f"partition {log.partition} of {log.topic} ({log.cluster_id}) does not balance: "
            f"offsets {base} to {upto - 1} have {recorded} positions recorded; they all stay",
            hint="`bdlab verify` names what is missing or recorded twice.",
        )
    if delete:
        cursor.execute(statements["checkpoint"], values | counts)
        if cursor.rowcount != 1:
            raise Unhealthy(
                f"partition {log.partition} is being pruned by somebody else", hint="Run one `bdlab prune` at a time."
            )
    sums = {table: getattr(pruned, table) + count for table, count in counts.items()}
    return msgspec.structs.replace(pruned, pruned_to=upto, **sums)


def read_known(cursor: Cursor, ranges: Sequence[LogRange]) -> KnownLog | None:
    """Return what is known of the log with these ranges, of all partitions; None if it is new."""
    statements = queries("logs")
    if not (rows := ask(cursor, statements["find"], msgspec.structs.asdict(ranges[0]))):
        return None
    ((log_id, topic_id, adopted, recorded),) = rows
    places = {
        "log_id": log_id,
        "partitions": [one.partition for one in ranges],
        "starts": [one.start for one in ranges],
        "ends": [one.end for one in ranges],
    }
    records = {
        partition: KnownRecord(offset=offset, id=found, key=as_bytes(key), value=as_bytes(value))
        for partition, offset, found, key, value in ask(cursor, statements["known_records"], places)
    }
    return KnownLog(topic_id=topic_id, recorded=recorded, adopted=adopted, records=records)


def decide_log(credentials: DatabaseCredentials, found: LogRange, *, same: bool) -> bool:
    """Note that the log of `found` is the known one (`same`), or that the known one is closed. Return whether any is
    known. `credentials` are of a member of bdlab_owner. Raises DatabaseError, VaultError."""
    with Session(credentials, application_name="bdlab migrate") as session, session.transaction() as cursor:
        return bool(ask(cursor, queries("logs")["adopt" if same else "close"], msgspec.structs.asdict(found)))
