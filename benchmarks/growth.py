"""Measure how cost grows: requests and rows of one core, and ten times as many events.

    python -m benchmarks.growth [--rows 40000]

So many events, and ten times as many, go from Apache Kafka into PostgreSQL: seconds, processor seconds, and
the disk that both take then. What grows with the number of events costs ten times as much.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from benchmarks import common
from benchmarks.api import Field, hit, make_topic
from benchmarks.common import Measured, Stack
from benchmarks.sink import EMPTY, World, consume, fill, starting

from bdlab.stack import ApacheKafka


def disk_mb(folder: Path, name: str) -> float:
    """Return the MB of the files below `folder` in folders whose name begins with `name`."""
    files = (file for place in folder.rglob(f"{name}-*") if place.is_dir() for file in place.iterdir())
    return sum(file.stat().st_blocks * 512 for file in files) / 1e6


def main() -> None:
    parser = common.options(__doc__)
    parser.add_argument("--rows", type=int, default=0, help="events of the smaller log")
    given = parser.parse_args()
    few = given.rows or (10_000 if given.quick else 40_000)
    print(f"{common.machine()}\n")
    rows = []
    with contextlib.ExitStack() as servers:
        folder = Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="bdlab-bench-")))
        broker = servers.enter_context(ApacheKafka(folder / "broker"))
        make_topic(broker.bootstrap_servers)
        make_topic(broker.bootstrap_servers, EMPTY)
        stack = servers.enter_context(Stack("this", folder, broker="tansu"))
        world = World(stack, broker.bootstrap_servers)
        world.start_s = starting(world)
        for count in (few, 10 * few):
            topic, found = f"events-{count}", Measured()
            common.say(f"{count:,} events")
            fill(world, topic, count)
            consume(world, found, topic, count, 1)
            ((table_mb,),) = world.sql("SELECT pg_total_relation_size('predictions') / 1e6")
            env = world.env | {"BDLAB_KAFKA_TOPIC": topic}
            verified = common.finish([*stack.bdlab, "verify", "--wait", "5"], env=env)
            rows.append(
                [
                    f"{count:,}",
                    f"{count / found['rate']:.1f}",
                    f"{found['cpu_s'] * count / 1e6:.1f}",
                    f"{found['postgres_s'] * count / 1e6:.1f}",
                    f"{verified.seconds:.1f}",
                    f"{disk_mb(folder / 'broker', topic):.0f}",
                    f"{float(table_mb):.0f}",
                ]
            )
            per_core = 1e6 / found["cpu_s"]
            in_postgres = 1e6 / found["postgres_s"]
        field = Field(folder, servers)
        field.serve("bdlab", "bdlab serve", stack, broker.bootstrap_servers)
        for _ in common.rounds(given, 3):
            hit(field.contenders["bdlab"], 4)
        requests = 1e6 / field.contenders["bdlab"].found["cpu_us"]
    common.table(["events", "stored in s", "CPU s", "in PostgreSQL", "verify s", "Kafka MB", "PostgreSQL MB"], rows)
    print(f"\none core of `bdlab serve`:   {requests:8,.0f} acknowledged requests/s, to Apache Kafka")
    print(f"one core of `bdlab consume`: {per_core:8,.0f} rows/s")
    print(f"one core of PostgreSQL:      {in_postgres:8,.0f} rows/s")


if __name__ == "__main__":
    common.run(main)
