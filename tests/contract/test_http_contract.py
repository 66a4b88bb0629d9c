"""What the HTTP API promises about a prediction, over a topic in memory and over a real broker alike."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

import httpx
import msgspec
import pytest

from bdlab.events import PredictionEvent, Record
from bdlab.kafka.admin import Admin
from bdlab.kafka.consumer import Consumer
from bdlab.kafka.producer import Producer
from bdlab.serving import Parts
from bdlab.serving.publisher import AsyncPublisher
from bdlab.serving.running import Running
from tests.brokers import BROKERS
from tests.fix_api import MemoryApi, serving
from tests.fix_kafka import Bookmarks, read_until
from tests.samples import event_of
from tests.static_credentials import StaticCredentials
from tests.waiting import until

REFERENCE = {"text": "This product is terrible!", "summary": "Product review"}
ANSWER_FIELDS = {
    "id",
    "prediction",
    "sentiment",
    "confidence",
    "explanation",
    "model",
    "created_at",
    "known_terms",
    "warning",
}
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class ServedTopic(Protocol):
    client: httpx.Client
    brokers: int

    def records(self, count: int) -> list[Record]:
        """The first `count` records of the topic; waits for them."""
        ...


class MemoryTopic:
    brokers = 1

    def __init__(self, client: httpx.Client, api: MemoryApi) -> None:
        self.client = client
        self._api = api

    def records(self, count: int) -> list[Record]:
        found = self._api.records()
        assert len(found) == count
        return found


class KafkaTopic:
    brokers = BROKERS

    def __init__(self, client: httpx.Client, credentials: StaticCredentials) -> None:
        self.client = client
        self._credentials = credentials

    def records(self, count: int) -> list[Record]:
        with Consumer(self._credentials, positions=Bookmarks()) as consumer:
            found = read_until(consumer.poll, lambda records: len(records) >= count)
        assert len(found) == count
        return found


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.broker)])
def served(request: pytest.FixtureRequest, memory_api: MemoryApi) -> Iterator[ServedTopic]:
    if request.param == "memory":
        with memory_api.producer, serving(memory_api.parts) as client:
            yield MemoryTopic(client, memory_api)
        return
    credentials: StaticCredentials = request.getfixturevalue("topic")
    producer = Producer(credentials, client_id="test", source="/tests")
    with Admin(credentials, timeout_s=30) as admin, producer:

        def parts() -> Parts:
            asyncio.get_running_loop()
            return Parts(
                settings=msgspec.structs.replace(memory_api.settings, kafka=credentials.kafka().server),
                model=Running(memory_api.scorer),
                publisher=AsyncPublisher(producer),
                feedback=AsyncPublisher(producer),
                stored=memory_api.stored,
                vault=memory_api.vault,
                broker=admin,
                feedback_broker=admin,
                keys=memory_api.keys,
                log_published=lambda *_: None,
                flush_log=lambda: 0,
            )

        with serving(parts) as client:
            yield KafkaTopic(client, credentials)


def test_the_reference_request_is_answered_as_documented(served: ServedTopic) -> None:
    answer = served.client.post("/predict", json=REFERENCE)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert set(found) == ANSWER_FIELDS
    assert UUID(found["id"]).version == 7
    assert 1 <= found["prediction"] <= 5
    assert found["sentiment"] == "negative"
    assert 0.5 <= found["confidence"] <= 1
    assert any(term["term"] == "terrible" and term["weight"] < 0 for term in found["explanation"])
    assert (found["known_terms"], found["warning"]) == (1.0, None)
    assert re.fullmatch(r"reviews@\d+\.\d+\.\d+", found["model"])
    made = datetime.strptime(found["created_at"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - made).total_seconds()) < 60


def test_a_review_of_which_the_model_knows_little_is_answered_with_a_warning(served: ServedTopic) -> None:
    german = {"text": "Das Produkt ist sehr schlecht und ich bin enttäuscht. Nie wieder!"}
    alone = served.client.post("/predict", json=german).json()
    [first, second] = served.client.post("/predict/batch", json=[REFERENCE, german]).json()

    assert first["warning"] is None
    for found in (alone, second):
        assert found["known_terms"] < 0.3
        assert "of the review's words" in found["warning"]


def test_an_answered_prediction_is_on_the_topic(served: ServedTopic) -> None:
    body = {**REFERENCE, "HelpfulnessNumerator": 3, "HelpfulnessDenominator": 4}
    answer = served.client.post("/predict", json=body, headers={"traceparent": TRACEPARENT}).json()

    [record] = served.records(1)
    event = event_of(record)
    assert str(event.id) == answer["id"]
    assert (event.text, event.summary) == (REFERENCE["text"], REFERENCE["summary"])
    assert (event.helpfulness_numerator, event.helpfulness_denominator) == (3, 4)
    assert (event.prediction, event.sentiment) == (answer["prediction"], answer["sentiment"])
    headers = dict(record.headers)
    assert headers["traceparent"] == TRACEPARENT.encode()
    assert headers["ce_id"] == answer["id"].encode()


@pytest.mark.parametrize("sent", ["", "00-short-00f067aa0ba902b7-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_an_unusable_traceparent_is_replaced(served: ServedTopic, sent: str) -> None:
    headers = {"traceparent": sent} if sent else {}
    assert served.client.post("/predict", json=REFERENCE, headers=headers).status_code == 200

    [record] = served.records(1)
    found = dict(record.headers)["traceparent"] or b""
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", found)
    assert found != sent.encode()


def test_the_same_key_and_review_is_the_same_prediction(served: ServedTopic) -> None:
    def predicted(key: str, body: dict[str, str]) -> str:
        answer = served.client.post("/predict", json=body, headers={"Idempotency-Key": key})
        assert answer.status_code == 200
        return str(answer.json()["id"])

    first = predicted("order-17", REFERENCE)
    assert UUID(first).version == 8
    assert predicted("order-17", dict(reversed(REFERENCE.items()))) == first
    assert predicted("order-18", REFERENCE) != first
    assert predicted("order-17", {**REFERENCE, "summary": "another"}) != first


def test_a_batch_is_answered_in_its_order(served: ServedTopic) -> None:
    texts = [f"review number {number}, which I love" for number in range(50)]
    answer = served.client.post("/predict/batch", json=[{"text": text} for text in texts])

    assert answer.status_code == 200
    found = answer.json()
    assert all(set(item) == ANSWER_FIELDS for item in found)
    events: dict[str, PredictionEvent] = {str(event.id): event for event in map(event_of, served.records(50))}
    assert [events[item["id"]].text for item in found] == texts


def test_a_batch_with_a_key_has_an_id_for_each_place(served: ServedTopic) -> None:
    def ids() -> list[str]:
        headers = {"Idempotency-Key": "batch-1"}
        answer = served.client.post("/predict/batch", json=[REFERENCE, REFERENCE], headers=headers)
        return [item["id"] for item in answer.json()]

    first = ids()
    assert first[0] != first[1]
    assert ids() == first


def test_the_broker_is_described(served: ServedTopic) -> None:
    # The first question about a group may come before a broker has made the topic of the groups.
    until(lambda: "problem" not in served.client.get("/kafka-status").json())
    answer = served.client.get("/kafka-status")
    assert answer.status_code == 200
    found = answer.json()
    fields = {"connected", "bootstrap_servers", "brokers", "topic", "partitions", "consumer_lag", "feedback"}
    assert set(found) == fields
    assert (found["connected"], found["brokers"], found["partitions"]) == (True, served.brokers, 6)
