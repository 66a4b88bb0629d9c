"""Measure the time that `bdlab verify` takes to account for so many rows.

    python -m benchmarks.accounts [ROWS ...]

Seconds with none and with one missing, over rows that are written into PostgreSQL directly.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bdlab.postgres.reader import Reader
from bdlab.stack import Postgres
from tests.fix_database import Database, make_database
from tests.samples import CLUSTER

ROUNDS = 3

FILL = """
INSERT INTO predictions (id, summary, text, helpfulness_numerator, helpfulness_denominator, prediction,
                         sentiment, confidence, explanation, model, created_at,
                         log_id, partition, "offset")
SELECT gen_random_uuid(), 'Product review', repeat('x', 300), 1, 1, 2.5,
       'negative', 0.9, '[]', 'reviews@1.0.0', now(), %(log_id)s, n %% 6, n / 6
FROM generate_series(%(first)s, %(last)s) n
"""


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


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


def main(counts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder, Postgres(Path(folder)) as server:
        database = make_database(server)
        for count in counts:
            measure_verify(database, count)


if __name__ == "__main__":
    main([int(count) for count in sys.argv[1:]] or [1_000_000])
