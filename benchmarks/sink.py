"""Measure the speed of the store, and of accounting.

    python -m benchmarks.sink [--rows 100000] [--verify 1000000,10000000]

Rows a second of `Store.store` in batches of 2000 events with 300 characters of text, relative to a straight
COPY of the same rows, in batches of the same size, into a table with the same columns and without indexes.
With `--verify`, the seconds that `bdlab verify` takes to count so many rows, with none and with one missing.
"""

from __future__ import annotations

import argparse
import io
import logging
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog
from uuid_utils.compat import uuid7

from bdlab.events import Position, PredictionEvent, Record, encode
from bdlab.ledger import Accepted, LogPartition
from bdlab.postgres.queries import queries
from bdlab.postgres.reader import Reader
from bdlab.postgres.rows import copy_lines
from bdlab.postgres.session import Session
from bdlab.postgres.store import Store
from bdlab.sink.batches import decode_entry
from bdlab.stack import Postgres
from tests.fix_database import Database, make_database
from tests.samples import CLUSTER, TOPIC, event

BATCH = 2000
PARTITIONS = 6
ROUNDS = 3

FILL = """
INSERT INTO predictions (id, summary, text, helpfulness_numerator, helpfulness_denominator, prediction,
                         sentiment, confidence, explanation, model, created_at,
                         log_id, partition, "offset")
SELECT gen_random_uuid(), 'Product review', repeat('x', 300), 1, 1, 2.5,
       'negative', 0.9, '[]', 'reviews@1.0.0', now(), %(log_id)s, n %% 6, n / 6
FROM generate_series(%(first)s, %(last)s) n
"""


def texts(count: int) -> list[PredictionEvent]:
    generator = random.Random(1)
    words = ["coffee", "taste", "great", "terrible", "never", "buy", "again", "price", "love", "box"]
    base = event()
    found = []
    for _ in range(count):
        text = " ".join(generator.choices(words, k=60))[:300]
        found.append(msgspec.structs.replace(base, id=uuid7(), text=text))
    return found


def records(count: int) -> list[Record]:
    following = [0] * PARTITIONS
    found = []
    for number, one in enumerate(texts(count)):
        partition = number % PARTITIONS
        key, value = encode(one)
        found.append(Record(Position(CLUSTER, TOPIC, partition, following[partition]), key, value))
        following[partition] += 1
    return found


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def straight_copy(database: Database, accepted: list[Accepted]) -> float:
    """Return the seconds to COPY the rows into a table without indexes, with a commit for each batch."""
    # The store has more to do: a temporary table, the fence, three indexes and the constraints.
    database.execute("DROP TABLE IF EXISTS plain")
    database.execute("CREATE TABLE plain (LIKE predictions)")
    database.execute("ALTER TABLE plain ALTER stored_at DROP NOT NULL; GRANT ALL ON plain TO bdlab_writer")
    batches = [accepted[first : first + BATCH] for first in range(0, len(accepted), BATCH)]
    session = Session(database.credentials("writer"), application_name="benchmark")
    session.open()
    into_plain = queries("store")["copy"].replace("COPY incoming", "COPY plain")
    numbers = {LogPartition(CLUSTER, TOPIC, partition): 1 for partition in range(PARTITIONS)}

    def copy() -> None:
        for batch in batches:
            lines = io.StringIO(copy_lines(batch, numbers))
            with session.transaction() as cursor:
                cursor.copy_expert(into_plain, lines)

    seconds = timed(copy)
    session.close()
    return seconds


def stored(database: Database, accepted: list[Accepted]) -> float:
    """Return the seconds of `Store.store` for all of them."""
    database.execute("TRUNCATE predictions, duplicates, dead_letters, sink_offsets")
    store = Store(database.credentials("writer"))
    store.open()
    store.start_offsets([Position(CLUSTER, TOPIC, partition, 0) for partition in range(PARTITIONS)])
    batches = [accepted[first : first + BATCH] for first in range(0, len(accepted), BATCH)]

    def run() -> None:
        for batch in batches:
            store.store(batch)

    seconds = timed(run)
    store.close()
    return seconds


def measure_store(database: Database, count: int) -> None:
    raw = records(count)
    decode_s = timed(lambda: [decode_entry(record) for record in raw])
    accepted = [entry for entry in map(decode_entry, raw) if isinstance(entry, Accepted)]
    assert len(accepted) == count
    ceiling = min(straight_copy(database, accepted) for _ in range(ROUNDS))
    seconds = min(stored(database, accepted) for _ in range(ROUNDS))
    print(f"decode                 {count / decode_s:10,.0f} events/s")
    print(f"straight COPY          {count / ceiling:10,.0f} rows/s")
    print(
        f"Store.store            {count / seconds:10,.0f} rows/s   {ceiling / seconds:.2f} of straight COPY"
    )


def measure_verify(database: Database, count: int) -> None:
    database.execute("TRUNCATE predictions, duplicates, dead_letters, sink_offsets")
    ((log_id,),) = database.execute(
        "INSERT INTO logs (cluster_id, topic) VALUES (%s, 'counted') RETURNING log_id", (CLUSTER,)
    )
    for first in range(0, count, 500_000):
        last = min(count, first + 500_000) - 1
        database.execute(FILL, {"log_id": log_id, "first": first, "last": last})
    database.execute(
        "INSERT INTO sink_offsets (log_id, partition, first_offset, next_offset)"
        ' SELECT log_id, partition, 0, max("offset") + 1 FROM predictions GROUP BY 1, 2'
    )
    database.execute("VACUUM (ANALYZE) predictions")
    with Reader(database.credentials("reader")) as reader:
        sound_s = min(timed(lambda: reader.accounts(limit=20)) for _ in range(ROUNDS))
        assert all(account.balanced for account in reader.accounts(limit=20))
        database.execute('DELETE FROM predictions WHERE partition = 3 AND "offset" = 1000')
        missing_s = timed(lambda: reader.accounts(limit=20))
        assert sum(account.missing_count for account in reader.accounts(limit=20)) == 1
    print(f"accounts of {count:>12,} rows: {sound_s:6.2f} s sound, {missing_s:6.2f} s with one row missing")


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=100_000, help="events to store")
    parser.add_argument("--verify", default="", help="row counts to account for, separated by commas")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Postgres(Path(folder)) as server:
        database = make_database(server)
        measure_store(database, options.rows)
        for count in filter(None, options.verify.split(",")):
            measure_verify(database, int(count))


if __name__ == "__main__":
    main()
