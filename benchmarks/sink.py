"""Measure rows a second from Apache Kafka into PostgreSQL: `bdlab consume` beside other ways.

    python -m benchmarks.sink [--rows 200000]

One topic holds events with texts of 300 characters. One and two `bdlab consume --until-idle` store all of it;
so does Debezium's JDBC sink on Kafka Connect (upsert by key, rewritten batches), into a table without the
explanation and without positions. Straight COPY and row by row INSERT write the rows that `bdlab consume`
made into the same table again, from memory. All use one PostgreSQL, in the same rounds. The processor time of
`bdlab consume` is without its start, which is measured on an empty topic.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
from benchmarks import common
from benchmarks.api import make_topic
from benchmarks.common import PARTITIONS, CannotRun, Measured, Stack
from benchmarks.connect import Connect
from confluent_kafka import Consumer, Producer
from uuid_utils.compat import uuid7

from bdlab.stack import ApacheKafka

BATCH = 2000
EMPTY = "predictions-empty"
ROW_BY_ROW = 4_000
TEXT_LENGTH = 300
_DRAW = random.Random(1)
#: Made up, so that texts compress as little as real ones.
_WORDS = ["".join(_DRAW.choices("abcdefghijklmnoprstuvwy", k=_DRAW.randint(2, 8))) for _ in range(3000)]


class World:
    """The stack whose Vault and PostgreSQL are used, and a broker of its own with the events."""

    def __init__(self, stack: Stack, broker: str) -> None:
        self.stack = stack
        self.broker = broker
        self.env = stack.exports | {
            "BDLAB_KAFKA_BOOTSTRAP_SERVERS": broker,
            "BDLAB_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
        }
        self.postgres = stack.pid_of("postgres")
        # The administrator's password is not kept: this server, which is thrown away, lets it in without.
        access = stack.folder / "postgres" / "pg_hba.conf"
        access.write_text(f"host all postgres 127.0.0.1/32 trust\n{access.read_text()}")
        os.kill(self.postgres, signal.SIGHUP)
        self.start_s = 0.0
        self._connection = self.connect()

    def connect(self) -> Any:
        deadline = time.monotonic() + 10
        while True:
            try:
                found = psycopg2.connect(
                    host=self.stack.exports["PGHOST"],
                    port=self.stack.exports["PGPORT"],
                    dbname=self.stack.exports["PGDATABASE"],
                    user="postgres",
                )
            except psycopg2.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                found.autocommit = True
                return found

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    @property
    def jdbc_url(self) -> str:
        exports = self.stack.exports
        place = f"{exports['PGHOST']}:{exports['PGPORT']}/{exports['PGDATABASE']}"
        return f"jdbc:postgresql://{place}?reWriteBatchedInserts=true&sslmode=disable"

    def empty(self) -> None:
        """Take out what is stored, and checkpoint, so that no round pays for the one before."""
        self.sql("TRUNCATE predictions, duplicates, dead_letters, sink_offsets")
        self.sql("CHECKPOINT")


Headers = list[tuple[str, str | bytes | None]]


def sample(world: World) -> tuple[dict[str, Any], Headers]:
    """Return value and headers of an event as `bdlab predict` makes it."""
    common.finish([*world.stack.bdlab, "predict", common.REVIEW], env=world.env)
    consumer = Consumer({"bootstrap.servers": world.broker, "group.id": "sample", "auto.offset.reset": "earliest"})
    consumer.subscribe(["predictions"])
    deadline = time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            message = consumer.poll(1)
            if message is not None and message.error() is None:
                headers = message.headers() or []
                assert isinstance(headers, list)
                return json.loads(message.value() or b""), headers
    finally:
        consumer.close()
    raise CannotRun("the event of `bdlab predict` cannot be read back")


def fill(world: World, topic: str, count: int) -> None:
    """Write so many events into `topic`, alike but for their ids and texts."""
    value, headers = sample(world)
    make_topic(world.broker, topic)
    draw = random.Random(1)
    producer = Producer(
        {
            "bootstrap.servers": world.broker,
            "linger.ms": 50,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    for number in range(count):
        identity = str(uuid7())
        text = " ".join(draw.choices(_WORDS, k=110))[:TEXT_LENGTH]
        body = json.dumps(value | {"id": identity, "text": text}, separators=(",", ":"))
        own: Headers = [(name, identity if name == "ce_id" else found) for name, found in headers]
        producer.produce(topic, body, identity, partition=number % PARTITIONS, headers=own)
        if number % 1000 == 0:
            producer.poll(0)
    if producer.flush(120):
        raise CannotRun("the broker did not take the events")


@contextlib.contextmanager
def used(world: World, found: Measured, rows: int) -> Iterator[None]:
    """Add the processor seconds of PostgreSQL a million rows."""
    before = common.cpu_s(world.postgres)
    yield
    found.add(postgres_s=(common.cpu_s(world.postgres) - before) / rows * 1e6)


def starting(world: World) -> float:
    """Return the processor seconds of a `bdlab consume` that finds nothing to store."""
    usages = [drain(world, EMPTY, 1)[0] for _ in range(2)]
    return min(usage.ru_utime + usage.ru_stime for usage in usages)


def drain(world: World, topic: str, consumers: int) -> list[resource.struct_rusage]:
    """Run so many `bdlab consume` until they have stored the topic, and return what each has used."""
    env = world.env | {
        "BDLAB_KAFKA_TOPIC": topic,
        "BDLAB_KAFKA_GROUP": f"group-{uuid.uuid4().hex[:8]}",
        "BDLAB_STARTUP_TIMEOUT": "60",
    }
    command = [*world.stack.bdlab, "consume", "--until-idle"]
    usages = []
    with (world.stack.folder.parent / "consume.log").open("ab") as log:
        running = [
            subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            for _ in range(consumers)
        ]
        try:
            for one in running:
                _, status, usage = os.wait4(one.pid, 0)
                one.returncode = os.waitstatus_to_exitcode(status)
                usages.append(usage)
                if one.returncode:
                    said = Path(log.name).read_text("utf-8", "replace")[-800:]
                    raise CannotRun(f"bdlab consume ended with {one.returncode}: {said}")
        finally:
            for one in running:
                if one.returncode is None:
                    one.kill()
                    one.wait()
    return usages


def consume(world: World, found: Measured, topic: str, rows: int, consumers: int) -> None:
    """Store the topic with so many `bdlab consume`; the rate is by PostgreSQL's own time stamps."""
    world.empty()
    with used(world, found, rows):
        usages = drain(world, topic, consumers)
    ((stored, first, seconds),) = world.sql(
        "SELECT count(*), count(*) FILTER (WHERE stored_at = earliest), extract(epoch FROM latest - earliest)"
        " FROM predictions, (SELECT min(stored_at) earliest, max(stored_at) latest FROM predictions) span"
        " GROUP BY latest, earliest"
    )
    if stored != rows:
        raise CannotRun(f"{stored} of {rows} rows are stored")
    found.add(
        rate=(rows - first) / max(float(seconds), 0.001),
        cpu_s=(sum(usage.ru_utime + usage.ru_stime for usage in usages) - world.start_s * consumers) / rows * 1e6,
        memory=max(usage.ru_maxrss for usage in usages) / 1024,
    )


def debezium(world: World, found: Measured, connect: Connect, topic: str, rows: int) -> None:
    """Store the topic through Kafka Connect; the rate is from the first rows seen to the last."""
    table = f"debezium_{uuid.uuid4().hex[:8]}"
    before, seen = common.cpu_s(connect.pid), list[tuple[float, int]]()
    with used(world, found, rows):
        connect.add(table, topic, table, world.jdbc_url)
        deadline = time.monotonic() + 180
        while not seen or seen[-1][1] < rows:
            time.sleep(0.25)
            if time.monotonic() > deadline or (why := connect.failure(table)):
                raise CannotRun(f"Debezium stored {seen[-1:]} rows of {rows}: {why[-600:]}")
            with contextlib.suppress(psycopg2.errors.UndefinedTable):
                ((count,),) = world.sql(f"SELECT count(*) FROM {table}")  # noqa: S608
                if count:
                    seen.append((time.perf_counter(), count))
        used_s = common.cpu_s(connect.pid) - before
    connect.remove(table)
    world.sql(f"DROP TABLE {table}")
    found.add(
        rate=(seen[-1][1] - seen[0][1]) / max(seen[-1][0] - seen[0][0], 0.001),
        cpu_s=used_s / rows * 1e6,
        memory=common.memory_mb(connect.pid),
    )


class Copied:
    """The rows that `bdlab consume` made, in memory, to be written into tables like theirs."""

    def __init__(self, world: World) -> None:
        self._world = world
        whole = io.StringIO()
        with world.connect().cursor() as cursor:
            cursor.copy_expert("COPY predictions TO STDOUT", whole)
        self._lines = whole.getvalue().splitlines(keepends=True)
        ((names,),) = world.sql(
            "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute"
            " WHERE attrelid = 'predictions'::regclass AND attnum > 0 AND NOT attisdropped"
            " AND attgenerated = ''"
        )
        self._names = names

    def copy(self, found: Measured) -> None:
        """COPY straight into the table, with a commit for each batch."""
        self._world.empty()
        batches = ["".join(self._lines[first : first + BATCH]) for first in range(0, len(self._lines), BATCH)]
        connection = self._world.connect()
        own, began = time.process_time(), time.perf_counter()
        with used(self._world, found, len(self._lines)), connection.cursor() as cursor:
            for batch in batches:
                cursor.copy_expert(f"COPY predictions ({self._names}) FROM STDIN", io.StringIO(batch))
        seconds = time.perf_counter() - began
        found.add(rate=len(self._lines) / seconds, cpu_s=(time.process_time() - own) / len(self._lines) * 1e6)
        connection.close()

    def row_by_row(self, found: Measured) -> None:
        """INSERT ... ON CONFLICT DO NOTHING with a commit for each row."""
        self._world.empty()
        rows = [
            [None if cell == "\\N" else cell.replace("\\\\", "\\") for cell in line.rstrip("\n").split("\t")]
            for line in self._lines[:ROW_BY_ROW]
        ]
        places = ", ".join(["%s"] * len(rows[0]))
        statement = f"INSERT INTO predictions ({self._names}) VALUES ({places}) ON CONFLICT DO NOTHING"  # noqa: S608
        connection = self._world.connect()
        own, began = time.process_time(), time.perf_counter()
        with used(self._world, found, len(rows)), connection.cursor() as cursor:
            for row in rows:
                cursor.execute(statement, row)
        seconds = time.perf_counter() - began
        found.add(rate=len(rows) / seconds, cpu_s=(time.process_time() - own) / len(rows) * 1e6)
        connection.close()


def run_rounds(given: argparse.Namespace, worlds: dict[str, World], rows: int) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    topic = "predictions-to-store"
    first = worlds["this"]
    common.say(f"writing {rows:,} events")
    fill(first, topic, rows)
    make_topic(first.broker, EMPTY)
    for world in worlds.values():
        world.start_s = starting(world)
    with contextlib.ExitStack() as servers:
        connect: Connect | None = None
        try:
            connect = servers.enter_context(Connect(first.stack.folder.parent, first.broker))
            connect.wait()
        except CannotRun as error:
            common.say(f"left out: {error}")
        for _ in common.rounds(given, 3):
            steps: dict[str, Callable[[Measured], None]] = {
                "bdlab consume": lambda one: consume(first, one, topic, rows, 1),
                "two bdlab consume": lambda one: consume(first, one, topic, rows, 2),
            }
            if "baseline" in worlds:
                what = f"bdlab consume of {given.baseline}"
                steps[what] = lambda one: consume(worlds["baseline"], one, topic, rows, 1)
            for what, step in steps.items():
                step(found.setdefault(what, Measured()))
            copied = Copied(first)
            copied.copy(found.setdefault("straight COPY into the same table", Measured()))
            copied.row_by_row(found.setdefault("row by row INSERT", Measured()))
            first.empty()
            if connect is not None:
                try:
                    one = found.setdefault("Debezium JDBC sink", Measured())
                    debezium(first, one, connect, topic, rows)
                except CannotRun as error:
                    common.say(f"left out: {error}")
                    connect = None
    return {what: one for what, one in found.items() if "rate" in one}


def main() -> None:
    parser = common.options(__doc__, baseline=True)
    parser.add_argument("--rows", type=int, default=0, help="events to store")
    given = parser.parse_args()
    rows = given.rows or (60_000 if given.quick else 200_000)
    print(f"{common.machine()}\n")
    with contextlib.ExitStack() as servers:
        folder = Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="bdlab-bench-")))
        broker = servers.enter_context(ApacheKafka(folder / "broker"))
        make_topic(broker.bootstrap_servers, "predictions")
        stacks = {"this": servers.enter_context(Stack("this", folder, broker="tansu"))}
        if given.baseline:
            command = common.bdlab_of(given.baseline)
            stacks["baseline"] = servers.enter_context(Stack("baseline", folder, bdlab=command, broker="tansu"))
        worlds = {name: World(stack, broker.bootstrap_servers) for name, stack in stacks.items()}
        found = run_rounds(given, worlds, rows)
    show(found)


def show(found: dict[str, Measured]) -> None:
    ours = found["bdlab consume"]
    common.table(
        ["", "rows/s", "bdlab is", "CPU s a million", "in PostgreSQL", "MB"],
        [
            [
                what,
                f"{one['rate']:,.0f}",
                f"{ours['rate'] / one['rate']:.2f} x",
                f"{one['cpu_s']:.1f}",
                f"{one['postgres_s']:.1f}",
                f"{one['memory']:.0f}" if "memory" in one else "",
            ]
            for what, one in found.items()
        ],
    )
    print()
    if "Debezium JDBC sink" in found:
        common.target("bdlab / Debezium", ours["rate"] / found["Debezium JDBC sink"]["rate"], ">=", 1.5)
    straight = found["straight COPY into the same table"]["rate"]
    common.target("bdlab / straight COPY", ours["rate"] / straight, ">=", 0.6)
    common.target("CPU a million rows", ours["cpu_s"], "<=", 22, " s")
    common.target("CPU a million rows in PostgreSQL", ours["postgres_s"], "<=", 22, " s")
    common.target("memory", ours["memory"], "<=", 150, " MB")
    two = found["two bdlab consume"]
    common.target("CPU a million, two consumers / one", two["cpu_s"] / ours["cpu_s"], "<=", 1.15)


if __name__ == "__main__":
    common.run(main)
