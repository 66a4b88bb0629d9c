"""Measure `bdlab.rescorer`, the function that Spark, Ray and Dask call: rows a second and processor time a row.

    python -m benchmarks.rescorer [--rows 100000]

Reviews lie in Parquet as `bdlab export` writes them. One process reads them, scores them and writes the scores, for so
many rows and for ten times as many.
"""

from __future__ import annotations

import csv
import itertools
import resource
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks import common
from benchmarks.bulk import write_reviews

import bdlab

BATCH = 4096


def write_export(file: Path, folder: Path, rescore: Any, count: int) -> None:
    """Write the reviews of a CSV file as the predictions of an export, 50,000 to a file."""
    with file.open(newline="") as source:
        rows = enumerate(itertools.islice(csv.DictReader(source), count))
        for number in itertools.count():
            some = list(itertools.islice(rows, 50_000))
            if not some:
                return
            place = {
                "id": [str(uuid4()) for _ in some],
                "log_id": pa.array([1] * len(some), pa.int32()),
                "partition": pa.array([0] * len(some), pa.int32()),
                "offset": [offset for offset, _ in some],
            }
            inputs = {
                "summary": [row["Summary"] for _, row in some],
                "text": [row["Text"] for _, row in some],
                "helpfulness_numerator": [int(row["HelpfulnessNumerator"]) for _, row in some],
                "helpfulness_denominator": [int(row["HelpfulnessDenominator"]) for _, row in some],
            }
            pq.write_table(pa.table(place | inputs).select(rescore.columns), folder / f"{number:04}.parquet")


def main() -> None:
    parser = common.options(__doc__)
    parser.add_argument("--rows", type=int, default=0, help="of the smaller export")
    given = parser.parse_args()
    few = given.rows or (20_000 if given.quick else 100_000)
    print(f"{common.machine()}\n")
    rescore, rows, cost = bdlab.rescorer(""), [], []
    for count in (few, 10 * few):
        with tempfile.TemporaryDirectory(prefix="bdlab-bench-") as name:
            folder = Path(name, "predictions")
            folder.mkdir()
            write_reviews(Path(name, "reviews.csv"), count)
            write_export(Path(name, "reviews.csv"), folder, rescore, count)
            began, used, scored = time.monotonic(), time.process_time(), 0
            with pq.ParquetWriter(Path(name, "scores.parquet"), rescore.schema) as writer:
                for path in sorted(folder.iterdir()):
                    for batch in rescore(pq.ParquetFile(path).iter_batches(BATCH)):
                        writer.write_batch(batch)
                        scored += batch.num_rows
            seconds, cpu = time.monotonic() - began, time.process_time() - used
            cost.append(cpu / scored * 1e6)
            peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            rows.append(
                [f"{scored:,}", f"{seconds:.1f}", f"{scored / seconds:,.0f}", f"{cost[-1]:.0f}", f"{peak_mb:,.0f}"]
            )
    common.table(["rows", "seconds", "rows/s", "CPU µs a row", "peak MB"], rows)
    print()
    common.target("cost of a row at ten times as many / at once", cost[1] / cost[0], "<=", 1.25)


if __name__ == "__main__":
    common.run(main)
