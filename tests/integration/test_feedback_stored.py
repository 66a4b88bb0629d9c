"""Feedback over the real servers: stored once beside the predictions, accounted for, and pruned with them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from uuid_utils.compat import uuid7

from bdlab.events import Event, encode, headers
from bdlab.postgres.session import queries
from tests.fix_golden import Place
from tests.fix_pipeline import Pipeline
from tests.samples import event, feedback
from tests.waiting import until

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture
def place(pipeline: Pipeline) -> Place:
    found = Place(pipeline)
    found.done("migrate")
    return found


def raw(one: Event, partition: int = 0) -> Any:
    return partition, *encode(one), headers(one, source="/bdlab/tests", traceparent="")


def verified(place: Place) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(place.done("verify", "--json"))
    assert report["verified"]
    return report


def stored(report: dict[str, Any], topic: str) -> list[int]:
    """Rows, duplicates and dead letters of a topic."""
    its = [one for one in report["partitions"] if one["topic"] == topic]
    assert len(its) == 6
    return [sum(one[kind] for one in its) for kind in ("stored", "duplicates", "dead_letters")]


def truths(place: Place) -> dict[str, Any]:
    rows = map(json.loads, place.rows("SELECT id, true_prediction, true_sentiment, feedback_source FROM quality"))
    return {row["id"]: (row["true_prediction"], row["true_sentiment"], row["feedback_source"]) for row in rows}


@contextmanager
def rescoring(place: Place) -> Iterator[Any]:
    """A transaction that re-scores."""
    admin = place.database.admin
    where: dict[str, Any] = {"host": admin.server.host, "port": admin.server.port, "dbname": admin.server.dbname}
    connection = psycopg2.connect(**where, user=admin.user, password=admin.password.reveal())
    try:
        connection.cursor().execute(queries("accounts")["lock_rescored"])
        yield connection
    finally:
        connection.close()


def test_feedback_is_stored_once_and_goes_with_its_prediction(place: Place) -> None:
    one, two, three = (event() for _ in range(3))
    newer = feedback(one.id, prediction=4.0, created_at=MONDAY + timedelta(days=1), source="shop")
    older = feedback(one.id, prediction=1.0, created_at=MONDAY)
    first, second = (feedback(two.id, prediction=stars, created_at=MONDAY) for stars in (3.0, 5.0))
    unknown = feedback(uuid7(), sentiment="positive")
    place.produce([raw(each) for each in (one, two, three)])
    poison = (0, str(one.id).encode(), b"{}", ())
    # The later of two that were made at one time has the greater id.
    mixed = [raw(newer), raw(older), raw(second), raw(first), raw(newer), raw(unknown, 1), poison]
    place.produce(mixed, place.feedback_topic)
    place.done("consume", "--until-idle")
    report = verified(place)
    assert stored(report, place.topic) == [3, 0, 0]
    assert stored(report, place.feedback_topic) == [5, 1, 1]
    assert report["unknown_feedback"] == 1
    said = {str(one.id): (4.0, None, "shop"), str(two.id): (5.0, None, "tests"), str(three.id): (None, None, None)}
    assert truths(place) == said

    # Of the prediction alone: not the dead letter with its key, nor what has its position in the other topic.
    for asked in (str(one.id), "0/0"):
        (trace,) = map(json.loads, place.done("trace", asked, "--json").splitlines())
        assert (trace["outcome"], trace["id"], trace["duplicates"]) == ("stored", str(one.id), [])
    replayed = place.run("dlq", "replay", "--all", "--wait", "0", "--json")
    assert json.loads(replayed.stdout)["replay"]["topic"] == place.feedback_topic

    late = feedback(three.id, prediction=None, sentiment="negative")
    place.produce([raw(late)], place.feedback_topic)
    place.done("consume", "--until-idle")
    assert stored(verified(place), place.feedback_topic) == [6, 1, 2]
    assert truths(place) == said | {str(three.id): (None, "negative", "tests")}
    status = place.run("status", "--json", "--check", "feedback", "--check", "postgres.rows")
    checks = json.loads(status.stdout)["checks"]
    assert [(check["name"], check["state"]) for check in checks] == [
        *(("feedback.topic", "healthy"), ("feedback.lag", "healthy"), ("postgres.rows", "healthy"))
    ]
    assert checks[1]["detail"] == {"lag_events": 0}
    assert checks[2]["detail"] == {"rows": 3, "feedback": 6}

    old = "UPDATE {} SET stored_at = now() - interval '9 days'; UPDATE {} SET recorded_at = now() - interval '9 days'"
    place.database.execute(old.format("predictions", "duplicates"))
    place.database.execute(
        "INSERT INTO rescored (id, model, run, prediction, sentiment, confidence)"
        " SELECT id, 'm@2', id, 1, 'negative', 1 FROM predictions"
    )
    with rescoring(place) as other:
        pruning = threading.Thread(target=place.done, args=("prune", "--older-than", "7d"))
        pruning.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        until(lambda: place.database.execute(waiting) == [(1,)])
        assert place.database.execute("SELECT count(*) FROM predictions") == [(3,)]
        other.rollback()
        pruning.join()
    assert place.database.execute("SELECT count(*) FROM rescored") == [(0,)]
    kept = "SELECT prediction_id::text, prediction IS NULL AND sentiment IS NULL FROM feedback"
    assert dict(place.database.execute(f"{kept} WHERE pruned_at IS NOT NULL")) == dict.fromkeys(said, True)
    assert place.database.execute(f"{kept} WHERE pruned_at IS NULL") == [(str(unknown.prediction_id), False)]
    report = verified(place)
    assert stored(report, place.topic) == [3, 0, 0]
    assert report["unknown_feedback"] == 1
    place.database.execute(old.format("feedback", "dead_letters"))
    place.done("prune", "--older-than", "7d")
    assert place.database.execute("SELECT count(*) FROM feedback") == [(0,)]
    assert stored(verified(place), place.feedback_topic) == [6, 1, 2]


def test_predictions_do_not_wait_for_the_topic_of_the_feedback(place: Place) -> None:
    topic = f"{place.topic}-later"
    other = {"BDLAB_KAFKA_FEEDBACK_TOPIC": topic}
    place.produce([raw(event())])
    done = place.run("consume", "--until-idle", **other)
    assert (done.returncode, "no feedback is stored" in done.stderr) == (0, True)
    with place.daemon("consume", **other) as daemon:
        place.produce([raw(event())])
        until(lambda: place.database.execute("SELECT count(*) FROM predictions") == [(2,)])
        assert [line["topic"] for line in daemon.events("Kafka is not usable")] == [topic]
        place.done("migrate", **other)
        place.produce([raw(feedback())], topic)
        until(lambda: place.database.execute("SELECT count(*) FROM feedback") == [(1,)])
        assert daemon.stop() == 0
