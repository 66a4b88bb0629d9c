"""Measure `bdlab rescore`: rows a second and their cost, for so many rows and for ten times as many.

    python -m benchmarks.rescore [--rows 100000]

Reviews lie in `predictions` as `bdlab consume` leaves them. `bdlab rescore` on all cores scores all of them;
`bdlab predict --file --no-publish` scores the same reviews from a file. The processor time of both is without their
start, which is measured on a run that has nothing to do. `verify --rescored` accounts for the result.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

from benchmarks import common
from benchmarks.bulk import predicted, write_reviews
from benchmarks.common import CannotRun, Measured, Stack, cpu_s
from benchmarks.sink import World

FILL = """
INSERT INTO predictions (id, summary, text, helpfulness_numerator, helpfulness_denominator, prediction, sentiment,
                         confidence, explanation, model, created_at, log_id, partition, "offset")
SELECT gen_random_uuid(), summary, text, numerator, denominator, 2.5, 'negative', 0.9, '[]', 'reviews@1.0.0', now(),
       (SELECT log_id FROM logs WHERE topic = 't'), number % 6, number / 6
FROM (SELECT *, row_number() OVER () - 1 AS number FROM given WHERE text <> '') g;
INSERT INTO sink_offsets (log_id, partition, first_offset, next_offset)
SELECT log_id, partition, 0, max("offset") + 1 FROM predictions GROUP BY 1, 2
"""


def fill(world: World, file: Path) -> None:
    """Put the reviews of a file into the table."""
    world.empty()
    with contextlib.closing(world.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO logs (cluster_id, topic) VALUES ('c', 't') ON CONFLICT DO NOTHING")
        cursor.execute("CREATE TEMP TABLE given (summary text, text text, numerator int, denominator int)")
        with file.open("rb") as source:
            cursor.copy_expert("COPY given FROM STDIN (FORMAT csv, HEADER)", source)
        cursor.execute(FILL)
        cursor.execute("VACUUM ANALYZE predictions")


def main() -> None:
    parser = common.options(__doc__)
    parser.add_argument("--rows", type=int, default=0, help="of the smaller table")
    given = parser.parse_args()
    few = given.rows or (20_000 if given.quick else 100_000)
    print(f"{common.machine()}\n")
    rows, found = [], {few: Measured(), 10 * few: Measured()}
    with contextlib.ExitStack() as servers:
        folder = Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="bdlab-bench-")))
        stack = servers.enter_context(Stack("this", folder, broker="tansu"))
        world = World(stack, "")
        again = [*stack.bdlab, "rescore", "--card", "shipped", "--json"]
        empty = folder / "empty.csv"
        write_reviews(empty, 1)
        for count, measured in found.items():
            common.say(f"{count:,} reviews")
            file = folder / "reviews.csv"
            what = write_reviews(file, count)
            fill(world, file)
            for _ in common.rounds(given, 2 if count == few else 1):
                world.sql("TRUNCATE rescored, rescore_ranges")
                before = cpu_s(world.postgres)
                ended = common.finish(again, env=stack.exports)
                postgres_s = cpu_s(world.postgres) - before
                if json.loads(ended.output)["predictions"] != count:
                    raise CannotRun(f"not all of {count} were scored: {ended.output}")
                verified = common.finish(
                    [*stack.bdlab, "verify", "--rescored", json.loads(ended.output)["model"]], env=stack.exports
                )
                start, plain = common.finish(again, env=stack.exports), predicted(stack.bdlab, file, folder / "out.csv")
                plain_start = predicted(stack.bdlab, empty, folder / "out.csv")
                measured.add(
                    seconds=ended.seconds,
                    rate=count / (ended.seconds - start.seconds),
                    cpu_us=(ended.cpu_s - start.cpu_s) / count * 1e6,
                    postgres_us=postgres_s / count * 1e6,
                    memory=ended.peak_mb,
                    verify=verified.seconds,
                    plain_rate=count / (plain.seconds - plain_start.seconds),
                    plain_us=(plain.cpu_s - plain_start.cpu_s) / count * 1e6,
                )
            rows.append(
                [
                    f"{count:,}",
                    f"{measured['seconds']:.1f}",
                    *(f"{measured[name]:,.0f}" for name in ("rate", "cpu_us", "postgres_us", "memory")),
                    f"{measured['verify']:.1f}",
                    *(f"{measured[name]:,.0f}" for name in ("plain_rate", "plain_us")),
                ]
            )
        print(f"{what}\n")
    head = ["rows", "seconds", "rows/s", "CPU µs a row", "in PostgreSQL", "peak MB", "verify s"]
    common.table([*head, "predict --file rows/s", "its CPU µs a row"], rows)
    print()
    one, ten = found.values()
    cost = [each["cpu_us"] + each["postgres_us"] for each in (one, ten)]
    common.target("cost of a row at ten times as many / at once", cost[1] / cost[0], "<=", 1.25)
    common.target("CPU of a row / that of predict --file", one["cpu_us"] / one["plain_us"], "<=", 1.25)
    common.target("memory at ten times as many / at once", ten["memory"] / one["memory"], "<=", 1.25)


if __name__ == "__main__":
    common.run(main)
