"""`consume`, `verify`, `dlq`, `prune` and `migrate`, as installed, over one running stack."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
import pytest

from bdlab import settings
from bdlab.events import encode
from bdlab.kafka.producer import Producer
from bdlab.vault.session import VaultSession
from tests.fix_kafka import Acks
from tests.fix_pipeline import Daemon, Pipeline, running_pipeline
from tests.samples import event

# Like a storm, never tried again.
pytestmark = [pytest.mark.broker, pytest.mark.flaky(reruns=0)]


@dataclass
class Running:
    """A pipeline whose consumer runs, too."""

    pipeline: Pipeline
    consume: Daemon

    def bdlab(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output and the log of a `bdlab` command."""
        done = self.pipeline.run(*arguments)
        return done.returncode, done.stdout, done.stderr

    def session(self, service: str, role: str | None) -> VaultSession:
        layers = settings.load(environ=self.pipeline.environment())
        return VaultSession(layers, service=service, database_role=role, daemon=False)

    def verify(self) -> dict[str, Any]:
        code, output, log = self.bdlab("verify", "--wait", "60", "--json")
        assert code in {0, 10}, log
        report: dict[str, Any] = json.loads(output)
        assert report["verified"] == (code == 0)
        return report

    def publish(self, *records: tuple[bytes | None, bytes | None]) -> None:
        acks = Acks()
        with (
            self.session("predict", None) as session,
            Producer(session, client_id="tests", source="/tests") as producer,
        ):
            for key, value in records:
                producer.publish_raw(key, value, [], acks)
            acks.positions(len(records), 60)

    def execute_as_owner(self, statement: str) -> list[Any]:
        with self.session("migrate", "bdlab-owner") as session:
            login = session.database()
            connection = psycopg2.connect(
                host=login.server.host,
                port=login.server.port,
                dbname=login.server.dbname,
                user=login.user,
                password=login.password.reveal(),
            )
            try:
                with connection, connection.cursor() as cursor:
                    cursor.execute(statement)
                    return cursor.fetchall() if cursor.description else []
            finally:
                connection.close()

    @contextmanager
    def consumer(self, *options: str) -> Iterator[Daemon]:
        """Another `bdlab consume` of the group."""
        with self.pipeline.daemon("consume", *options) as daemon:
            yield daemon


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with (
        running_pipeline(tmp_path_factory.mktemp("stored-once")) as pipeline,
        pipeline.daemon("consume") as consume,
    ):
        yield Running(pipeline, consume)


def totals(report: dict[str, Any]) -> tuple[int, int, int]:
    stored, duplicates, letters = (
        sum(one[field] for one in report["partitions"]) for field in ("stored", "duplicates", "dead_letters")
    )
    return stored, duplicates, letters


def test_migrating_again_changes_nothing(running: Running) -> None:
    code, output, log = running.bdlab("migrate")
    assert code == 0, log
    assert output.splitlines() == ["schema: unchanged", "topic predictions: unchanged"]


def test_the_consumers_log_names_what_it_stored(running: Running) -> None:
    prediction = event()
    running.publish(encode(prediction))
    assert running.verify()["verified"]
    stored = running.consume.events("batch stored")
    assert any(str(prediction.id) in line.get("ids", []) for line in stored)


def test_dead_letters_are_listed_shown_and_replayed(running: Running) -> None:
    before = totals(running.verify())
    good = encode(event())
    running.publish(good, good, (good[0], b'{"id": "'), (b"k", None))
    report = running.verify()
    assert report["verified"], report
    assert totals(report) == (before[0] + 1, before[1] + 1, before[2] + 2)

    code, output, log = running.bdlab("dlq", "list", "--json")
    assert code == 0, log
    listed = [json.loads(line) for line in output.splitlines()]
    assert sum("a tombstone" in letter["reason"] for letter in listed) == 1
    [garbage] = [letter for letter in listed if "not UTF-8 JSON" in letter["reason"]]
    place = (str(garbage["partition"]), str(garbage["offset"]))
    _, output, _ = running.bdlab("dlq", "show", *place)
    assert 'value     {"id": "' in output

    code, output, _ = running.bdlab("dlq", "replay", "--reason", "utf-8", "--dry-run")
    assert (code, output.rpartition(": ")[2].strip()) == (0, "to be sent back")
    _, output, log = running.bdlab("dlq", "replay", "--all", "--limit", "1", "--dry-run")
    assert len(output.splitlines()) == 1
    assert "more were not looked at: --limit 1 was reached" in log
    code, output, _ = running.bdlab("dlq", "replay", "--all", "--json")
    assert code == 1  # the tombstone was not sent back
    outcomes = [json.loads(line) for line in output.splitlines()]
    assert [bool(one["replay"]) for one in outcomes].count(True) == 1
    report = running.verify()
    assert report["verified"], report
    assert totals(report)[2] == before[2] + 3  # what was garbage is garbage again
    code, output, _ = running.bdlab("dlq", "list", "--json", "--pending", "--reason", "utf-8")
    assert [json.loads(line)["replays"] for line in output.splitlines()] == [1]


def test_a_drain_beside_a_daemon_ends_and_shares_the_work(running: Running) -> None:
    running.publish(*(encode(event()) for _ in range(50)))
    with running.consumer("--until-idle") as draining:
        assert draining.ended() == 0, draining.lines
    assert running.verify()["verified"]


def test_sigterm_ends_a_consumer_with_a_clean_exit(running: Running) -> None:
    with running.consumer("--metrics-port", "0") as consumer:
        url = json.loads(consumer.wait_for("metrics are served"))["url"]
        address = url.removeprefix("http://").partition("/")[0]
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", "/health/live")
        assert connection.getresponse().status == 200
        connection.close()
        consumer.wait_for("partitions start")
        assert consumer.stop(signal.SIGTERM) == 0, consumer.lines
        assert consumer.events("consumer stopped")
    running.publish(encode(event()))
    assert running.verify()["verified"]


def test_consumers_wait_for_postgres_at_their_start_and_through_an_outage(running: Running) -> None:
    postgres = running.pipeline.postgres
    running.publish(encode(event()))
    postgres.stop()
    try:
        running.publish(*(encode(event()) for _ in range(20)))
        with running.consumer("--startup-timeout", "60") as late:
            waiting = json.loads(late.wait_for('"waits_for"'))
            assert waiting["waits_for"] == "PostgreSQL and its schema"
            assert waiting["problem"]
            postgres.start()
            late.wait_for("partitions start")
            report = running.verify()
            assert report["verified"], report
            assert late.stop(signal.SIGTERM) == 0, late.lines
    finally:
        postgres.start()
    running.publish(encode(event()))
    assert running.verify()["verified"]


def test_a_consumer_gives_up_on_what_does_not_come(running: Running) -> None:
    postgres = running.pipeline.postgres
    postgres.stop()
    try:
        with running.consumer("--startup-timeout", "1") as late:
            assert late.ended() == 1
    finally:
        postgres.start()
    [told] = [line for line in late.lines if line.startswith("error: ")]
    assert "waited 1 s" in told
    assert not [line for line in late.lines if "Traceback" in line]


def test_verify_finds_what_was_tampered_with_after_a_prune(running: Running) -> None:
    before = totals(running.verify())
    code, output, log = running.bdlab("prune", "--older-than", "0s", "--json")
    assert code == 0, log
    assert sum(one["stored"] for one in json.loads(output)) == before[0]
    running.publish(*(encode(event()) for _ in range(30)))
    report = running.verify()
    assert report["verified"], report
    assert totals(report) == (before[0] + 30, before[1], before[2])

    [(gone, partition, offset)] = running.execute_as_owner(
        "DELETE FROM predictions WHERE id = (SELECT id FROM predictions LIMIT 1)"
        ' RETURNING id::text, partition, "offset"'
    )
    code, output, _ = running.bdlab("verify")
    assert code == 10
    assert f"partition {partition}: 1 recorded nowhere: offsets {offset} (ids {gone} at {offset})" in output
    assert "NOT verified" in output
