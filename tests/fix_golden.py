"""Golden files: what bdlab answered, wrote and stored before, held against what it does now, byte by byte.

The tests in `tests/golden` touch outer surfaces alone (the port, the command, records as bytes, SQL), so that
they outlive every change within. A run compares; `pytest tests/golden --update-golden` writes the files anew.
`tests/golden/before` was made by an earlier version: it is kept, and only made if it is missing.
"""

from __future__ import annotations

import difflib
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import confluent_kafka
import httpx
import pytest

from bdlab import __version__
from bdlab.kafka.admin import Admin
from tests.fix_database import Database, make_bare_database
from tests.fix_kafka import kafka_login, make_topic
from tests.fix_pipeline import Pipeline
from tests.static_credentials import StaticCredentials

FOLDER = Path(__file__).with_name("golden")
Headers = Sequence[tuple[str, bytes | None]]

_BEGAN = datetime.now(UTC) - timedelta(seconds=1)
_MOMENT = re.compile(r"(\d{4})-(\d\d)-(\d\d)([T ])(\d\d):(\d\d):(\d\d)(?:\.\d{1,9})?(Z|[+-]00(?::?00)?)?(?![\d:])")
_UUID7 = re.compile(r"\b([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b")
_MODEL = re.compile(r"\breviews@\d+\.\d+\.\d+\b")
#: Of a row that was just read: in ms, and Tansu does not keep it.
_APPENDED = re.compile(r'"appended_at":(?:null|"<date>[^"]*")(?=,"read_at":"<)')
_PORT = re.compile(r"\b(127\.0\.0\.1|localhost):\d{2,5}\b")


def normalised(text: str, names: Mapping[str, str] | None = None) -> str:
    """`text` with placeholders for what differs from run to run, and for nothing else:

    the `names` of this run, given as what is shown -> what is there; moments since this run began, with their
    punctuation and zone; UUIDs of version 7 since then (those made from a key are of version 8, and stay);
    ports of this machine; the versions of bdlab and of the shipped model; what a broker says of when it appended.
    """
    for shown, there in (names or {}).items():
        if there:
            text = text.replace(there, f"<{shown}>")
    if names and not names.get("topic id", "-"):  # a broker without them
        text = text.replace('"topic_id":""', '"topic_id":"<topic id>"')
    text = _UUID7.sub(_uuid_since, _MOMENT.sub(_moment_since, text))
    text = _APPENDED.sub('"appended_at":"<by the broker>"', text)
    text = _MODEL.sub("reviews@<version>", text)
    return _PORT.sub(r"\1:<port>", text).replace(f'"{__version__}"', '"<version>"')


def _uuid_since(found: re.Match[str]) -> str:
    milliseconds = int(found[1] + found[2], 16)  # RFC 9562, section 5.7
    return "<uuid7>" if milliseconds >= _BEGAN.timestamp() * 1000 else found[0]


def _moment_since(found: re.Match[str]) -> str:
    year, month, day, between, hour, minute, second, zone = found.groups()
    try:
        moment = datetime(*map(int, (year, month, day, hour, minute, second)), tzinfo=UTC)  # type: ignore[misc, arg-type]
    except ValueError:
        return found[0]
    if not _BEGAN.replace(microsecond=0) <= moment <= datetime.now(UTC):
        return found[0]
    fraction = ".ssssss" if "." in found[0] else ""
    return f"<date>{between}<time>{fraction}{zone or ''}"


class Golden:
    """Compares with the files, or writes them; `differences` has the lines that differ."""

    def __init__(self, *, update: bool) -> None:
        self.update = update
        self.differences: list[str] = []

    def holds(self, name: str, text: str) -> None:
        """Note the difference if `text` is not the content of the golden file `name`."""
        path = FOLDER / name
        wanted = path.read_bytes().decode() if path.exists() else ""
        if text != wanted and self.update:
            path.write_bytes(text.encode())
        elif text != wanted:
            lines = (wanted.split("\n"), text.split("\n"))
            self.differences += difflib.unified_diff(*lines, f"tests/golden/{name}", "now", lineterm="")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Iterator[Golden]:
    """Golden files; after the test, which differ fail it, all at once."""
    golden = Golden(update=request.config.getoption("--update-golden"))
    yield golden
    if golden.differences:
        what = "this is not what it was (--update-golden, if it is meant):"
        pytest.fail("\n".join([what, *golden.differences]), pytrace=False)


class Place:
    """Topics and a database of their own on a pipeline's servers, without the schema and the feedback's topic."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.topic = f"golden-{uuid4().hex}"
        self.feedback_topic = f"{self.topic}-feedback"
        self._servers = {"bootstrap.servers": pipeline.broker.bootstrap_servers}
        login = kafka_login(pipeline.broker.bootstrap_servers, topic=self.topic)
        with Admin(make_topic(StaticCredentials(kafka=login)), client_id="golden") as admin:
            log = admin.log_ranges()[0]
        self.database: Database = make_bare_database(pipeline.postgres)
        self.environment = {
            "BDLAB_KAFKA_TOPIC": self.topic,
            "BDLAB_KAFKA_FEEDBACK_TOPIC": self.feedback_topic,
            "BDLAB_KAFKA_GROUP": f"{self.topic}-group",
            "BDLAB_POSTGRES_DBNAME": self.database.admin.server.dbname,
            "BDLAB_LOG_LEVEL": "warning",
            "NO_COLOR": "1",
            "COLUMNS": "100",
        }
        self.names = {"topic": self.topic, "cluster id": log.cluster_id, "topic id": log.topic_id}

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return self._pipeline.run(*arguments, **self.environment | more)

    def done(self, *arguments: str, **more: str) -> str:
        """The standard output of a command that has to succeed."""
        ended = self.run(*arguments, **more)
        assert ended.returncode == 0, f"{arguments}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def daemon(self, *arguments: str, **more: str) -> Any:
        """A context with a running daemon, as `Pipeline.daemon`."""
        return self._pipeline.daemon(*arguments, **self.environment | {"BDLAB_LOG_LEVEL": "info"} | more)

    def serve(self, **more: str) -> Any:
        """A context with a running API, as `Pipeline.serve`."""
        return self._pipeline.serve(**self.environment | more)

    def produce(
        self, records: Sequence[tuple[int, bytes | None, bytes | None, Headers]], topic: str | None = None
    ) -> None:
        """Write records (partition, key, value, headers) in this order, and wait for all of them."""
        failed: list[Any] = []
        producer = confluent_kafka.Producer(self._servers | {"enable.idempotence": True})
        for partition, key, value, headers in records:
            producer.produce(
                topic or self.topic,
                partition=partition,
                key=key,
                value=value,
                headers=list(headers),
                on_delivery=lambda error, _: failed.extend([error] if error else []),
            )
        assert producer.flush(30) == 0
        assert not failed, failed

    def read(self, count: int) -> list[Any]:
        """The first `count` records of the topic, by partition and offset."""
        settings = {"group.id": "golden", "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        consumer = confluent_kafka.Consumer(self._servers | settings)
        found: list[Any] = []
        try:
            topics = consumer.list_topics(self.topic, timeout=10).topics
            consumer.assign([confluent_kafka.TopicPartition(self.topic, at, 0) for at in topics[self.topic].partitions])
            deadline = time.monotonic() + 30
            while len(found) < count:
                assert time.monotonic() < deadline, f"only {len(found)} of {count} records are there"
                found += [message for message in consumer.consume(100, 0.2) if not message.error()]
        finally:
            consumer.close()
        return sorted(found, key=lambda message: (message.partition(), message.offset()))

    def rows(self, query: str) -> list[str]:
        """Each row of a query as JSON with its columns in order, and moments in UTC."""
        text = f"SET timezone = 'UTC'; SELECT row_to_json(q)::text FROM ({query}) q"  # noqa: S608
        return [row for (row,) in self.database.execute(text)]


def ended(title: str, done: subprocess.CompletedProcess[str], files: Mapping[str, str] | None = None) -> str:
    """A command's exit code and outputs as a block of a golden file, with `files` that it wrote."""
    parts = [f"== {title}", f"exit {done.returncode}"]
    for name, text in {"stdout": done.stdout, "stderr": done.stderr, **(files or {})}.items():
        if text:
            parts += [f"-- {name}", *text.removesuffix("\n").split("\n")]
    return "\n".join(parts) + "\n\n"


def printable(data: bytes | None, most: int = 160) -> str:
    """Bytes on one line: what is no text as escapes, and what is long in short."""
    if data is None:
        return "(none)"
    text = data.decode("utf-8", "backslashreplace")
    shown = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text[:most])
    return shown if len(text) <= most else f"{shown}... ({len(data)} bytes)"


def answered(title: str, sent: str, answer: httpx.Response, shown: Sequence[str] = ()) -> str:
    """A request and its answer as a block of a golden file, with the headers `shown`."""
    kind = answer.headers.get("content-type", "")
    names = [name for name in ("retry-after", "allow", *shown) if name in answer.headers]
    head = [f"{answer.status_code} {kind}", *(f"{name}: {answer.headers[name]}" for name in names)]
    whole = "" if answer.text.endswith("\n") else "(no line break at its end)\n"
    return "\n".join([f"== {title}", sent, *head, answer.text.removesuffix("\n")]) + f"\n{whole}\n"
