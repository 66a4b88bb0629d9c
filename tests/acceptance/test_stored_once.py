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
from bdlab.credentials import FeedbackTopic
from bdlab.events import encode
from bdlab.kafka.producer import Producer
from bdlab.vault.session import VaultSession
from tests.fix_kafka import Acks
from tests.fix_pipeline import Daemon, Pipeline, running_pipeline
from tests.samples import event, feedback

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

    def publish(self, *records: tuple[bytes | None, bytes | None], service: str = "predict") -> None:
        """To the topic that the service writes."""
        acks = Acks()
        with self.session(service, None) as session:
            where = FeedbackTopic(session) if service == "feedback" else session
            with Producer(where, client_id="tests", source="/tests") as producer:
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
    with running_pipeline(tmp_path_factory.mktemp("stored-once")) as pipeline, pipeline.daemon("consume") as consume:
        yield Running(pipeline, consume)


def totals(report: dict[str, Any]) -> tuple[int, int, int]:
    """Of both topics."""
    stored, duplicates, letters = (
        sum(one[field] for one in report["partitions"]) for field in ("stored", "duplicates", "dead_letters")
    )
    return stored, duplicates, letters


def test_migrating_again_changes_nothing(running: Running) -> None:
    code, output, log = running.bdlab("migrate")
    assert code == 0, log
    things = ("schema", "contract", "topic predictions", "topic feedback")
    assert output.splitlines() == [f"{thing}: unchanged" for thing in things]


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
    place = f"{garbage['partition']}/{garbage['offset']}"
    _, output, _ = running.bdlab("dlq", "show", place)
    assert f"position  {place}" in output
    assert 'value     {"id": "' in output
    apart = str(garbage["partition"]), str(garbage["offset"])
    assert running.bdlab("dlq", "show", *apart)[1] == output

    code, output, _ = running.bdlab("dlq", "replay", "--reason", "utf-8", "--dry-run")
    assert (code, output) == (0, f"{place}: to be sent back\n")
    _, output, _ = running.bdlab("dlq", "replay", "--partition", apart[0], "--offset", apart[1], "--dry-run")
    assert output == f"{place}: to be sent back\n"
    _, output, log = running.bdlab("dlq", "replay", "--all", "--limit", "1", "--dry-run")
    assert len(output.splitlines()) == 1
    assert "more were not looked at: --limit 1 was reached" in log
    code, output, log = running.bdlab("dlq", "replay", "--all", "--json")
    assert code == 1  # the tombstone was not sent back, and what was garbage is garbage again
    outcomes = [json.loads(line) for line in output.splitlines()]
    [again] = [one for one in outcomes if one["replay"]]
    assert again["became"] == "dead"
    assert "not UTF-8 JSON" in again["reason"]
    assert "1 dead again" in log
    report = running.verify()
    assert report["verified"], report
    assert totals(report)[2] == before[2] + 3
    code, output, _ = running.bdlab("dlq", "list", "--json", "--pending", "--reason", "utf-8")
    [open_again] = [json.loads(line) for line in output.splitlines()]
    assert (open_again["state"], open_again["replays"]) == ("returned", 1)
    assert open_again["offset"] == again["replay"]["offset"]


def test_replaying_all_again_sends_nothing_that_came_back_dead(running: Running) -> None:
    before = totals(running.verify())
    code, output, log = running.bdlab("dlq", "replay", "--reason", "utf-8")
    assert (code, output) == (0, "")
    assert "nothing to do" in log
    assert "1 came back dead from a replay before: --again sends them again" in log
    assert totals(running.verify()) == before

    code, output, _ = running.bdlab("dlq", "replay", "--reason", "utf-8", "--again", "--wait", "0")
    assert code == 0
    # A consumer may have recorded it by then.
    assert output.count("sent back") + output.count("dead again") == 1
    assert totals(running.verify())[2] == before[2] + 1
    pending = running.bdlab("dlq", "list", "--json", "--open", "--reason", "utf-8")[1].splitlines()
    assert [json.loads(line)["replays"] for line in pending] == [2]


def test_a_replay_that_succeeds_is_stored_and_no_longer_open(running: Running) -> None:
    rule = "ALTER TABLE predictions {} CONSTRAINT no_poison"
    running.execute_as_owner(rule.format("ADD") + " CHECK (text <> 'poison')")
    running.publish(encode(event(text="poison")))
    assert running.verify()["verified"]
    running.execute_as_owner(rule.format("DROP"))

    code, output, log = running.bdlab("dlq", "replay", "--sqlstate", "23514")
    assert code == 0, output + log
    place, _, told = output.partition(": ")
    assert told.startswith("now ")
    assert told.endswith(", stored\n")
    code, output, log = running.bdlab("dlq", "replay", place)
    assert code == 1
    assert "not sent back: its replay," in output
    assert "state     stored as " in running.bdlab("dlq", "show", place)[1]


def test_dead_letters_are_closed_with_a_reason_and_stay_dead_letters(running: Running) -> None:
    running.publish((b"k", b"x"), (b"k", b"y"))
    before = totals(running.verify())
    listed = [json.loads(line) for line in running.bdlab("dlq", "list", "--json", "--open")[1].splitlines()]
    places = [f"{one['partition']}/{one['offset']}" for one in listed]

    assert running.bdlab("dlq", "discard", places[0])[0] == 2  # why?
    assert running.bdlab("dlq", "discard", "--because", "tests")[0] == 2  # which?
    assert running.bdlab("dlq", "discard", "3-7", "--because", "tests")[0] == 2
    code, output, _ = running.bdlab("dlq", "discard", places[0], "--because", "a [test]", "--dry-run")
    assert (code, output) == (0, f"{places[0]}: to be discarded\n")
    code, output, _ = running.bdlab("dlq", "discard", places[0], "--because", "a [test]")
    assert (code, output) == (0, f"{places[0]}: discarded\n")
    code, output, _ = running.bdlab("dlq", "discard", *places[:2], "--because", "more tests")
    assert code == 1
    assert f"{places[0]}: not discarded: it was discarded: a [test]" in output
    assert "discarded a [test]" in running.bdlab("dlq", "show", places[0])[1]
    check = json.loads(running.bdlab("status", "--json", "--check", "postgres.dead_letters")[1])["checks"][0]
    assert (check["state"], check["detail"]["open"]) == ("healthy", len(places) - 2)

    assert running.bdlab("dlq", "discard", "--all", "--because", "the end of the tests")[0] == 0
    assert running.bdlab("dlq", "list", "--json", "--open")[1] == ""
    assert totals(running.verify()) == before


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
            waiting = json.loads(late.wait_for("waiting for P"))
            assert waiting["event"] == "waiting for PostgreSQL with its schema"
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
    said = encode(feedback())
    running.publish(*(encode(feedback()) for _ in range(9)), said, said, service="feedback")
    report = running.verify()
    assert report["verified"], report
    assert totals(report) == (before[0] + 40, before[1] + 1, before[2])

    for table, key in (("predictions", "id"), ("feedback", "prediction_id")):
        [(gone, partition, offset)] = running.execute_as_owner(
            f"DELETE FROM {table} WHERE id = (SELECT id FROM {table} LIMIT 1)"  # noqa: S608
            f' RETURNING {key}::text, partition, "offset"'
        )
        code, output, _ = running.bdlab("verify")
        assert code == 10
        assert f"{table}/{partition}: 1 recorded nowhere: offsets {offset} (ids {gone} at {offset})" in output
        assert "NOT verified" in output
