"""`bdlab trace` over the real servers: every outcome of an event, by each way to name it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from uuid_utils.compat import uuid7

from bdlab.events import encode, headers
from tests.brokers import KIND
from tests.fix_golden import Place
from tests.fix_pipeline import Pipeline
from tests.samples import event

POST = {"text": "This product is terrible!", "summary": "Product review"}
NAMES = ["received", "scored", "published", "appended", "read", "stored"]


@pytest.fixture
def place(pipeline: Pipeline) -> Place:
    found = Place(pipeline)
    found.done("migrate")
    return found


def trace(place: Place, what: str, *options: str, code: int = 0) -> list[dict[str, Any]]:
    done = place.run("trace", what, "--json", *options)
    assert done.returncode == code, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def known(found: dict[str, Any]) -> dict[str, str]:
    assert [hop["name"] for hop in found["hops"]] == NAMES
    assert all(bool(hop["at"]) != bool(hop["note"]) for hop in found["hops"])
    return {hop["name"]: hop["at"] for hop in found["hops"] if hop["at"]}


def at(found: dict[str, Any]) -> str:
    return f"{found['position']['partition']}/{found['position']['offset']}"


def test_each_outcome_is_told_with_what_is_known_of_each_hop(place: Place) -> None:
    trace_id = uuid4().hex
    began = datetime.now(UTC)
    with place.serve() as (_, client):
        parent = {"traceparent": f"00-{trace_id}-{'1' * 16}-01"}
        posted = client.post("/predict/batch", json=[POST, POST], headers=parent).json()
        key = {"Idempotency-Key": "once"}
        twice = [client.post("/predict", json=POST, headers=key).json()["id"] for _ in range(2)]
    assert twice[0] == twice[1]
    of_predict = json.loads(place.done("predict", "Great taste", "--json"))
    id_of_letter = str(uuid7())
    place.produce([(0, id_of_letter.encode(), b"{}", [("traceparent", parent["traceparent"].encode())])])

    # Nothing is stored yet.
    waiting = trace(place, posted[0]["id"])
    assert [one["outcome"] for one in waiting] == ["on the topic"]
    assert waiting[0]["ahead"] >= 0
    appended = {"appended"} if KIND != "tansu" else set()
    assert set(known(waiting[0])) == {"received", "scored", "published", *appended}
    assert {one["outcome"] for one in trace(place, trace_id)} == {"on the topic"}
    assert len(trace(place, trace_id)) == 3
    assert trace(place, at(waiting[0])) == waiting

    place.done("consume", "--until-idle")
    (stored,) = trace(place, posted[0]["id"])
    moments = known(stored)
    assert set(moments) == {*NAMES} - {"appended"} | appended
    times = [datetime.fromisoformat(one) for one in moments.values()]
    assert began - timedelta(seconds=1) < min(times) < max(times) < datetime.now(UTC)
    assert (stored["outcome"], stored["model"], stored["source"], stored["contract"], stored["trace_id"]) == (
        "stored", posted[0]["model"], "serve", 1, trace_id,
    )  # fmt: skip
    assert trace(place, at(stored)) == [stored]
    assert {one["id"] for one in trace(place, parent["traceparent"])} == {one["id"] for one in posted}
    assert trace(place, trace_id, "--since", "2020-01-01") == trace(place, trace_id)

    (first,) = trace(place, twice[0])
    (second,) = trace(place, first["duplicates"][0])
    assert (first["outcome"], second["outcome"]) == ("stored", "duplicate")
    assert second["duplicate_of"] == first["position"]

    (by_hand,) = trace(place, of_predict["id"])
    assert by_hand["source"] == "predict"
    assert "received" not in known(by_hand)
    assert "not over HTTP" in by_hand["hops"][0]["note"]

    (letter,) = trace(place, id_of_letter)
    assert (letter["outcome"], letter["trace_id"]) == ("dead letter", trace_id)
    assert "missing required field" in letter["reason"]
    assert trace(place, at(letter)) == [letter]
    place.done("dlq", "replay", at(letter), "--wait", "0")
    place.done("consume", "--until-idle")
    letters = trace(place, id_of_letter)
    assert [one["outcome"] for one in letters] == ["dead letter", "dead letter"]
    assert at(letter) in {at(one) for one in letters if one["replayed_to"] in {at(other) for other in letters}}

    for nothing in (str(uuid4()), str(uuid7()), uuid4().hex, "0/999999", "99/0"):
        (nowhere,) = trace(place, nothing, code=10)
        assert nowhere["outcome"] == "never seen"
    shown = place.done("trace", posted[0]["id"]).splitlines()
    assert shown[0] == f"stored       {posted[0]['id']}"
    assert [line.split()[0] for line in shown[-6:]] == NAMES


def test_clocks_that_differ_and_rows_from_before_are_told(place: Place) -> None:
    ahead = event()
    record = (*encode(ahead), headers(ahead, source="/tests", traceparent=""))
    place.produce([(0, *record)])
    place.done("consume", "--until-idle")
    place.database.execute("UPDATE predictions SET received_at = now() + interval '1 hour', read_at = NULL")
    (found,) = trace(place, str(ahead.id))
    notes = {hop["name"]: hop["note"] for hop in found["hops"]}
    assert "clocks of two machines differ" in notes["scored"]
    assert "from before" in notes["read"]
    assert found["hops"][1]["ms"] < -1000
    nowhere = {"BDLAB_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    away = json.loads(place.done("trace", str(ahead.id), "--json", **nowhere))
    assert (away["outcome"], away["contract"]) == ("stored", None)
    assert "the broker does not tell" in away["hops"][2]["note"]
    refused = place.run("trace", str(event().id), **nowhere)
    assert refused.returncode == 1, refused.stdout


def test_what_was_pruned_is_not_called_never_seen(place: Place) -> None:
    old, kept = event(), event()
    place.produce([(0, *encode(old), []), (0, *encode(kept), [])])
    place.done("consume", "--until-idle")
    place.database.execute(f"UPDATE predictions SET stored_at = now() - interval '60 days' WHERE id = '{old.id}'")  # noqa: S608
    place.database.execute(
        "UPDATE predictions SET stored_at = now() + interval '1 minute' WHERE stored_at > now() - interval '1 day'"
    )
    place.done("prune", "--older-than", "30d")
    for what in (str(old.id), "0/0"):
        (found,) = trace(place, what, code=10)
        assert found["outcome"] == "pruned"
