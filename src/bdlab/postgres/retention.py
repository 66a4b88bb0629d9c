"""Row retention: old rows are deleted, and a checkpoint keeps the numbers of what they were.

It works by offset, not by row: all positions of a partition below some offset are deleted, so that the rest
has no gap, and accounting goes on from the checkpoint. Only a range that balances is deleted, in small
transactions, each with its checkpoint: after a kill at any moment a little less is pruned.
"""

from collections.abc import Iterator
from datetime import datetime

import msgspec
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - named so by psycopg2

from bdlab.credentials import DatabaseCredentials
from bdlab.errors import Unhealthy
from bdlab.ledger import LogPartition
from bdlab.postgres.connection import ConnectionLimits
from bdlab.postgres.queries import queries
from bdlab.postgres.session import Session

_OFFSETS_A_TRANSACTION = 20_000
_TABLES = ("stored", "duplicates", "dead_letters")
_LIMITS = ConnectionLimits(statement_s=600, silence_s=700)


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
    """Delete the positions that were recorded before `before`, and yield what was deleted of each partition.

    `credentials` log in as a member of bdlab_owner: the writer may not delete. The id of a
    deleted row is forgotten: an event with it is then stored as a new row. Raises Unhealthy for a
    partition that does not balance (what came before it stays pruned), DatabaseError and VaultError.
    """
    with Session(credentials, application_name="bdlab prune", limits=_LIMITS) as session:
        with session.transaction() as cursor:
            cursor.execute(queries("retention")["logs"])
            logs = [(row[0], LogPartition(*row[1:5]), int(row[5]), int(row[6])) for row in cursor.fetchall()]
        for log_id, log, base, following in logs:
            pruned = Pruned(log=log, pruned_to=base, stored=0, duplicates=0, dead_letters=0)
            while pruned.pruned_to < following:
                upto = min(following, pruned.pruned_to + offsets_a_transaction)
                with session.transaction() as cursor:
                    pruned = _prune_range(cursor, log_id, pruned, upto, before, dry_run=dry_run)
                if pruned.pruned_to < upto:
                    break
            if pruned.pruned_to > base:
                yield pruned


def _prune_range(cursor: Cursor, log_id: int, pruned: Pruned, upto: int, before: datetime, *, dry_run: bool) -> Pruned:
    """Delete from `pruned.pruned_to` on what is old, up to `upto`; return the sum of that and `pruned`."""
    sql, log, base = queries("retention"), pruned.log, pruned.pruned_to
    values = {"log_id": log_id, "partition": log.partition, "base": base, "next": upto}
    cursor.execute(sql["first_young"], {**values, "cutoff": before})
    (young,) = cursor.fetchone() or (None,)
    if young is not None:
        values["next"] = upto = young
    if upto == base:
        return pruned
    cursor.execute(queries("accounts")["counts"] if dry_run else sql["delete"], values)
    counts = dict(zip(_TABLES, cursor.fetchone() or (0, 0, 0), strict=True))
    recorded = sum(counts.values())
    if recorded != upto - base:
        raise Unhealthy(
            f"partition {log.partition} of {log.topic} ({log.cluster_id}) does not balance: "
            f"offsets {base} to {upto - 1} have {recorded} positions recorded; they all stay",
            hint="`bdlab verify` names what is missing or recorded twice.",
        )
    if not dry_run:
        cursor.execute(sql["checkpoint"], values | counts)
        if cursor.rowcount != 1:
            raise Unhealthy(
                f"partition {log.partition} is being pruned by somebody else", hint="Run one `bdlab prune` at a time."
            )
    sums = {table: getattr(pruned, table) + count for table, count in counts.items()}
    return msgspec.structs.replace(pruned, pruned_to=upto, **sums)
