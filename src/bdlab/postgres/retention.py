"""Row retention: old rows go, and a checkpoint keeps how each of their positions had ended.

It works by offset and not by row: all positions of a partition below some offset, so that what is left is
dense and accounting goes on from the checkpoint. Only what balances is deleted. In small transactions, each
with its checkpoint: killed at any moment, it has pruned a little less.
"""

from __future__ import annotations

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
_LIMITS = ConnectionLimits(statement_s=600, silence_s=700)


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What was deleted of one partition, or would be: all positions below `pruned_to`."""

    log: LogPartition
    pruned_to: int
    stored: int
    duplicates: int
    dead_letters: int


class _Range(msgspec.Struct, frozen=True):
    log_id: int
    log: LogPartition
    base: int
    upto: int

    def values(self) -> dict[str, object]:
        place = {"log_id": self.log_id, "partition": self.log.partition}
        return {**place, "base": self.base, "upto": self.upto}


def prune(
    credentials: DatabaseCredentials,
    *,
    before: datetime,
    dry_run: bool = False,
    offsets_a_transaction: int = _OFFSETS_A_TRANSACTION,
) -> Iterator[Pruned]:
    """Delete the positions that were recorded before the moment `before`; one report a partition that has
    any.

    `credentials` log in as a member of bdlab_owner: the writer may not delete. An id that was pruned is
    unknown afterwards: an event that carries it again is stored as a new row. Raises Unhealthy for a
    partition that does not balance (what came before it stays pruned), DatabaseError and VaultError.
    """
    session = Session(credentials, application_name="bdlab prune", limits=_LIMITS)
    session.open()
    try:
        with session.transaction() as cursor:
            cursor.execute(queries("retention")["logs"])
            logs = [(row[0], LogPartition(*row[1:5]), int(row[5]), int(row[6])) for row in cursor.fetchall()]
        for log_id, log, base, following in logs:
            total = Pruned(log=log, pruned_to=base, stored=0, duplicates=0, dead_letters=0)
            while total.pruned_to < following:
                upto = min(following, total.pruned_to + offsets_a_transaction)
                wanted = _Range(log_id, log, total.pruned_to, upto)
                with session.transaction() as cursor:
                    done = _prune_range(cursor, wanted, before, dry_run=dry_run)
                total = Pruned(
                    log=log,
                    pruned_to=done.pruned_to,
                    stored=total.stored + done.stored,
                    duplicates=total.duplicates + done.duplicates,
                    dead_letters=total.dead_letters + done.dead_letters,
                )
                if done.pruned_to < wanted.upto:
                    break
            if total.pruned_to > base:
                yield total
    finally:
        session.close()


def _prune_range(cursor: Cursor, wanted: _Range, before: datetime, *, dry_run: bool) -> Pruned:
    sql = queries("retention")
    cursor.execute(sql["first_young"], wanted.values() | {"cutoff": before})
    row = cursor.fetchone()
    young = row[0] if row else None
    old = wanted if young is None else msgspec.structs.replace(wanted, upto=young)
    if old.upto == old.base:
        return Pruned(log=old.log, pruned_to=old.base, stored=0, duplicates=0, dead_letters=0)
    if dry_run:
        cursor.execute(sql["count"], old.values())
        counts = list(cursor.fetchone() or (0, 0, 0))
    else:
        counts = []
        for name in ("delete_predictions", "delete_duplicates", "delete_dead_letters"):
            cursor.execute(sql[name], old.values())
            counts.append(cursor.rowcount)
    if sum(counts) != old.upto - old.base:
        raise Unhealthy(
            f"partition {old.log.partition} of {old.log.topic} ({old.log.cluster_id}) does not balance: "
            f"offsets {old.base} to {old.upto - 1} have {sum(counts)} positions recorded; they all stay",
            hint="`bdlab verify` names what is missing or recorded twice.",
        )
    found = Pruned(
        log=old.log, pruned_to=old.upto, stored=counts[0], duplicates=counts[1], dead_letters=counts[2]
    )
    if not dry_run:
        cursor.execute(sql["delete_replays"], old.values())
        cursor.execute(
            sql["checkpoint"],
            old.values()
            | {"stored": found.stored, "duplicates": found.duplicates, "dead_letters": found.dead_letters},
        )
        if cursor.rowcount != 1:
            raise Unhealthy(
                f"partition {old.log.partition} is being pruned by somebody else",
                hint="Run one `bdlab prune` at a time.",
            )
    return found
