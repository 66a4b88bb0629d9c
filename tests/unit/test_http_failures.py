"""What the API answers when the broker, the database or Vault is not well, over twins in memory."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from bdlab.errors import BrokerError, EventTooLarge, ModelError, NotAcknowledged
from bdlab.events import Event, PredictionEvent, Score
from bdlab.model import load_scorer
from bdlab.probes import BrokerState
from bdlab.serving import Parts, make_app, stored_routes
from bdlab.settings import HttpSettings, KafkaSettings, Settings
from tests.fix_api import MemoryApi, SilentBroker, serving
from tests.samples import REVIEWS, Review
from tests.waiting import until

REVIEW = {"text": "I love it", "summary": "good"}
PROBLEM = "application/problem+json"


def test_without_an_acknowledgement_the_answer_is_503_with_the_id(memory_api: MemoryApi, api: httpx.Client) -> None:
    memory_api.log.online = False
    started = time.monotonic()
    answer = api.post("/predict", json=REVIEW)

    assert answer.status_code == 503
    assert time.monotonic() - started < memory_api.settings.kafka.delivery_timeout_s + 2
    assert answer.headers["content-type"] == PROBLEM
    assert int(answer.headers["retry-after"]) > 0
    found = answer.json()
    assert found["status"] == 503
    assert UUID(found["id"]).version == 7

    memory_api.log.online = True
    assert api.post("/predict", json=REVIEW).status_code == 200
    assert len(memory_api.records()) == 1


def test_a_publisher_that_never_answers_is_given_up(memory_api: MemoryApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdlab.serving.publishing._GRACE_S", 0.5)
    with memory_api.producer, serving(memory_api.parts) as client:
        assert memory_api.publisher is not None
        memory_api.publisher.hold()
        started = time.monotonic()
        answer = client.post("/predict", json=REVIEW)
        took_s = time.monotonic() - started
        memory_api.publisher.release()
    assert answer.status_code == 503
    assert "id" in answer.json()
    assert 1.5 <= took_s < 5


def test_a_body_that_does_not_end_is_408_and_no_other_waits_for_it(
    memory_api: MemoryApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bdlab.serving.requests.BODY_TIMEOUT_S", 0.5)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with memory_api.producer, serving(memory_api.parts) as client:
        address = (client.base_url.host, client.base_url.port or 0)
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(head + b'Content-Length: 100\r\n\r\n{"text": ')
            assert client.post("/predict", json=REVIEW).status_code == 200
            assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
    assert len(memory_api.records()) == 1


def test_too_many_in_flight_are_turned_away_at_once() -> None:
    memory = MemoryApi(Settings(http=HttpSettings(max_in_flight=3), kafka=KafkaSettings(delivery_timeout_s=10)))
    with memory.producer, serving(memory.parts) as client, ThreadPoolExecutor(3) as pool:
        assert memory.publisher is not None
        memory.publisher.hold()
        waiting = [pool.submit(client.post, "/predict", json=REVIEW) for _ in range(3)]
        for _ in range(3):
            assert memory.publisher.arrived.acquire(timeout=10)

        for path, body in (("/predict", REVIEW), ("/predict/batch", [REVIEW])):
            answer = client.post(path, json=body)
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert answer.json()["type"] == "urn:bdlab:problem:busy"
            assert "id" not in answer.json()

        memory.publisher.release()
        assert [future.result().status_code for future in waiting] == [200] * 3
        assert client.post("/predict", json=REVIEW).status_code == 200
    assert len(memory.records()) == 4


def test_a_batch_of_which_some_are_not_acknowledged_says_which(memory_api: MemoryApi, api: httpx.Client) -> None:
    def failure(event: Event) -> BrokerError | None:
        assert isinstance(event, PredictionEvent)
        if event.text == "lost":
            return NotAcknowledged("no acknowledgement")
        return EventTooLarge("too large") if event.text == "large" else None

    assert memory_api.publisher is not None
    memory_api.publisher.failures = failure
    texts = ["a", "lost", "b", "large"]
    answer = api.post("/predict/batch", json=[{"text": text} for text in texts])

    assert answer.status_code == 503
    assert answer.headers["content-type"] == PROBLEM
    assert answer.headers["retry-after"]
    results = answer.json()["results"]
    assert [item["index"] for item in results] == [0, 1, 2, 3]
    assert [item["status"] for item in results] == ["acknowledged", "not acknowledged", "acknowledged", "invalid"]
    on_topic = {(record.key or b"").decode() for record in memory_api.records()}
    assert {item["id"] for item in results if item["status"] == "acknowledged"} == on_topic
    assert results[0]["result"]["id"] == results[0]["id"]
    assert results[1]["why"] == "no acknowledgement"


def test_an_event_too_large_for_the_broker_is_413(memory_api: MemoryApi, api: httpx.Client) -> None:
    assert memory_api.publisher is not None
    memory_api.publisher.failures = lambda _: EventTooLarge("larger than the topic takes", hint="Shorten it.")
    answer = api.post("/predict", json=REVIEW)
    assert answer.status_code == 413
    assert "Shorten it." in answer.json()["detail"]


def test_a_client_that_leaves_loses_nothing(memory_api: MemoryApi, api: httpx.Client) -> None:
    assert memory_api.publisher is not None
    memory_api.publisher.hold()
    with pytest.raises(httpx.ReadTimeout):
        api.post("/predict", json=REVIEW, timeout=0.3)
    memory_api.publisher.release()
    with memory_api.log.changed:
        assert memory_api.log.changed.wait_for(lambda: len(memory_api.records()) == 1, timeout=10)


class OneModelError:
    """A scorer that fails, for reviews that ask for it, in a way of the model's or in one of its own."""

    name = "broken@1"
    sha256 = "0" * 64
    blocking = False
    codec = REVIEWS
    forkable = True

    def score(self, review: Review) -> Score:
        if review.text == "defect":
            raise ZeroDivisionError("a secret of the implementation")
        raise ModelError("the model has no answer")

    def score_many(self, reviews: list[Review]) -> list[Score]:
        return [self.score(review) for review in reviews]


def test_a_failing_model_is_503_and_a_defect_is_500_without_its_text() -> None:
    memory = MemoryApi(scorer=OneModelError())  # type: ignore[arg-type] # reviews as a list
    with memory.producer, serving(memory.parts) as client:
        answer = client.post("/predict", json={"text": "x"})
        assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM)
        answer = client.post("/predict", json={"text": "defect"})
        assert (answer.status_code, answer.headers["content-type"]) == (500, PROBLEM)
        assert "secret" not in answer.text
        assert client.get("/health").json()["model_loaded"] is False
        assert client.get("/health/ready").status_code == 503


# The state of what it stands on.

HEALTHY = {
    "status": "healthy",
    "model_loaded": True,
    "vault_connected": True,
    "kafka_connected": True,
    "model_problem": "",
    "database_connected": True,
}


def test_all_is_well(api: httpx.Client) -> None:
    answer = api.get("/health")
    assert answer.status_code == 200
    found = answer.json()
    assert found.pop("version")
    assert found.pop("model") == load_scorer().name
    assert found == HEALTHY
    assert api.get("/health/live").json() == {"status": "alive"}
    assert api.get("/health/ready").json() == {"ready": True, "problems": []}


def test_without_a_broker_it_is_unhealthy_and_not_ready(memory_api: MemoryApi, api: httpx.Client) -> None:
    memory_api.log.online = False
    answer = api.get("/health")
    assert answer.status_code == 503
    assert answer.json().items() >= {"status": "unhealthy", "kafka_connected": False}.items()
    assert api.get("/health/ready").status_code == 503
    assert "broker" in api.get("/health/ready").json()["problems"][0]
    status = api.get("/kafka-status")
    assert (status.status_code, status.json()["connected"]) == (503, False)
    assert api.get("/health/live").status_code == 200


class NoTopic:
    def state(self) -> BrokerState:
        return BrokerState(connected=True, brokers=1, topic="predictions", problem="topic is missing")


def test_without_the_topic_it_is_unhealthy_and_not_ready(memory_api: MemoryApi) -> None:
    def parts() -> Parts:
        return msgspec.structs.replace(memory_api.parts(), broker=NoTopic())

    with memory_api.producer, serving(parts) as client:
        answer = client.get("/health")
        assert answer.status_code == 503
        assert answer.json().items() >= {"status": "unhealthy", "kafka_connected": True}.items()
        assert "topic is missing" in client.get("/health/ready").json()["problems"][0]


def test_while_nothing_is_acknowledged_it_is_unhealthy_though_the_broker_answers(
    memory_api: MemoryApi, api: httpx.Client
) -> None:
    """As a cluster that lost its in-sync majority, which answers questions and takes no event."""
    assert memory_api.publisher is not None
    memory_api.publisher.failures = lambda _: NotAcknowledged("too few replicas")
    assert api.post("/predict", json=REVIEW).status_code == 503
    answer = api.get("/health")
    assert answer.status_code == 503
    assert answer.json().items() >= {"status": "unhealthy", "kafka_connected": True}.items()
    assert api.get("/health/ready").json()["problems"] == ["predictions are not acknowledged: too few replicas"]
    memory_api.publisher.failures = lambda _: EventTooLarge("too large")
    assert api.post("/predict", json=REVIEW).status_code == 413
    assert api.get("/health").status_code == 503
    memory_api.publisher.failures = lambda _: None
    assert api.post("/predict", json=REVIEW).status_code == 200
    assert api.get("/health").status_code == 200


def test_a_replica_without_requests_becomes_ready_again_by_itself(
    memory_api: MemoryApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bdlab.serving.publisher.LINGER_S", 2.0)
    with memory_api.producer, serving(memory_api.parts) as client:
        assert memory_api.publisher is not None
        memory_api.publisher.failures = lambda _: NotAcknowledged("too few replicas")
        assert client.post("/predict", json=REVIEW).status_code == 503
        assert client.get("/health/ready").status_code == 503
        until(lambda: client.get("/health/ready").status_code == 200)


def _run_out(memory: MemoryApi) -> None:
    memory.vault.found = msgspec.structs.replace(memory.vault.found, credentials_valid=False, token_ttl_s=0.0)


def _seal(memory: MemoryApi) -> None:
    memory.vault.found = msgspec.structs.replace(
        memory.vault.found, connected=False, authenticated=False, sealed=True, problem="sealed"
    )


def _lose_vault(memory: MemoryApi) -> None:
    memory.vault.found = msgspec.structs.replace(
        memory.vault.found, connected=False, authenticated=False, sealed=None, problem="unreachable"
    )


def _lose_database(memory: MemoryApi) -> None:
    memory.stored.online = False


@pytest.mark.parametrize(
    ("lose", "field"),
    [(_seal, "vault_connected"), (_lose_vault, "vault_connected"), (_lose_database, "database_connected")],
)
def test_without_vault_or_database_it_is_degraded_and_ready(
    memory_api: MemoryApi, api: httpx.Client, lose: Callable[[MemoryApi], None], field: str
) -> None:
    lose(memory_api)
    answer = api.get("/health")
    assert answer.status_code == 200
    assert answer.json().items() >= {**HEALTHY, "status": "degraded", field: False}.items()
    assert api.get("/health/ready").status_code == 200
    assert api.post("/predict", json=REVIEW).status_code == 200


def test_with_credentials_that_vault_does_not_renew_it_is_not_ready(memory_api: MemoryApi, api: httpx.Client) -> None:
    _run_out(memory_api)
    answer = api.get("/health/ready")
    assert answer.status_code == 503
    assert "no longer accepts this service's credentials" in answer.json()["problems"][0]


@pytest.mark.parametrize("lose", [_seal, _lose_vault])
def test_a_vault_that_is_away_drains_no_replica_however_long(
    memory_api: MemoryApi, api: httpx.Client, lose: Callable[[MemoryApi], None]
) -> None:
    lose(memory_api)
    _run_out(memory_api)
    assert api.get("/health").json()["status"] == "degraded"
    assert api.get("/health/ready").status_code == 200
    assert api.post("/predict", json=REVIEW).status_code == 200


def test_vault_is_described(memory_api: MemoryApi, api: httpx.Client) -> None:
    answer = api.get("/vault-status")
    assert answer.status_code == 200
    assert answer.json() == {
        "connected": True,
        "authenticated": True,
        "sealed": False,
        "secrets_engine": "kv v2 at kv/",
        "token_ttl_s": 3600.0,
        "policies": ["serve"],
    }


def test_a_vault_that_is_away_is_503(memory_api: MemoryApi, api: httpx.Client) -> None:
    _lose_vault(memory_api)
    answer = api.get("/vault-status")
    assert answer.status_code == 503
    assert answer.json()["problem"] == "unreachable"


def test_a_probe_that_hangs_holds_nobody_up(memory_api: MemoryApi) -> None:
    silent = SilentBroker()

    def parts() -> Parts:
        return msgspec.structs.replace(memory_api.parts(), broker=silent)

    with memory_api.producer, serving(parts) as client, ThreadPoolExecutor(8) as pool:
        started = time.monotonic()
        answers = list(pool.map(lambda _: client.get("/health"), range(8)))
        assert time.monotonic() - started < 6
        assert {answer.status_code for answer in answers} == {503}
        assert client.get("/health/live").status_code == 200
        assert client.post("/predict", json=REVIEW).status_code == 200
        assert silent.asked == 1
        silent.answer.set()


# What is stored.


def test_queries_that_hang_are_503_and_those_behind_them_are_never_run(
    memory_api: MemoryApi, api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[UUID] = []
    answer = threading.Event()

    def hang(prediction_id: UUID) -> None:
        asked.append(prediction_id)
        answer.wait(30)

    monkeypatch.setattr(stored_routes, "QUERY_TIMEOUT_S", 0.5)
    with monkeypatch.context() as patch, ThreadPoolExecutor(8) as pool:
        patch.setattr(memory_api.stored, "get", hang)
        try:
            answers = list(pool.map(lambda _: api.get(f"/predictions/{uuid4()}"), range(8)))
            assert {found.status_code for found in answers} == {503}
            assert api.post("/predict", json=REVIEW).status_code == 200
        finally:
            answer.set()
    assert api.get(f"/predictions/{uuid4()}").status_code == 404
    assert len(asked) == stored_routes.CONCURRENT_QUERIES


def test_stored_predictions_are_read_newest_first(memory_api: MemoryApi, api: httpx.Client) -> None:
    ids = [api.post("/predict", json={"text": f"review {number}"}).json()["id"] for number in range(12)]
    assert [row["id"] for row in api.get("/predictions").json()] == ids[:1:-1]
    assert [row["id"] for row in api.get("/predictions?limit=3").json()] == ids[:-4:-1]
    row = api.get(f"/predictions/{ids[4]}").json()
    assert (row["id"], row["text"]) == (ids[4], "review 4")
    assert {"partition", "offset"} <= set(row["position"])


def test_drills_and_demonstrations_are_told_apart_and_left_out(memory_api: MemoryApi, api: httpx.Client) -> None:
    ids = {}
    for source in ("", "drill", "demo"):
        said = {"Bdlab-Source": source} if source else {}
        answer = api.post("/predict", json=REVIEW, headers=said)
        [batched] = api.post("/predict/batch", json=[REVIEW], headers=said).json()
        ids[source or "tests"] = {answer.json()["id"], batched["id"]}
    sources = {dict(record.headers)["ce_source"] for record in memory_api.records()}
    assert sources == {b"/tests", b"/bdlab/drill", b"/bdlab/demo"}

    def listed(query: str) -> set[str]:
        return {row["id"] for row in api.get(f"/predictions{query}").json()}

    assert listed("") == listed("?source=real") == ids["tests"]
    assert listed("?source=drill") == ids["drill"]
    assert listed("?limit=9&source=all") == set().union(*ids.values())
    assert listed("?source=predict") == set()
    for source, those in ids.items():
        assert {api.get(f"/predictions/{one}").json()["source"] for one in those} == {source}
    [error] = api.get("/predictions?source=mine").json()["errors"]
    assert "one of all, demo, drill, predict, real, serve, and is 'mine'" in error["why"]


@pytest.mark.parametrize("said", [["serve"], [""], ["Drill"], ["drill", "drill"], ["/bdlab/drill"]])
def test_a_source_that_nobody_knows_is_refused(memory_api: MemoryApi, api: httpx.Client, said: list[str]) -> None:
    for path, body in (("/predict", REVIEW), ("/predict/batch", [REVIEW])):
        answer = api.post(path, json=body, headers=[("Bdlab-Source", one) for one in said])
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "Bdlab-Source"
    assert memory_api.records() == []


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "ten", "1.5", "", "9" * 30, "٣"])
def test_a_limit_out_of_range_is_named(api: httpx.Client, limit: str) -> None:
    answer = api.get("/predictions", params={"limit": limit})
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    assert answer.json()["errors"][0]["field"] == "limit"


def test_an_unknown_id_is_404_and_no_id_is_422(api: httpx.Client) -> None:
    answer = api.get(f"/predictions/{uuid4()}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)
    answer = api.get("/predictions/not-an-id")
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)


def test_an_id_is_written_in_one_way(api: httpx.Client) -> None:
    known = api.post("/predict", json=REVIEW).json()["id"]
    assert api.get(f"/predictions/{known.upper()}").json()["id"] == known
    for other in (known.replace("-", ""), f"%7B{known}%7D", f"urn:uuid:{known}", f"%20{known}"):
        assert api.get(f"/predictions/{other}").status_code == 422


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/predictions?feeling=negative", "there are: limit, source"),
        ("/predictions?limit=5&Limit=5", "there are: limit, source"),
        ("/predictions?limit=5&limit=6", "stands more than once"),
        ("/predictions?limit", "an integer from 1 to 1000, and is ''"),
        ("/predictions?limit=5&=", "there are: limit, source"),
        ("/predictions?%6cimit=0", "an integer from 1 to 1000, and is '0'"),
        ("/health?verbose", "is no query parameter of /health; there is none"),
        ("/health/live?a=1", "there is none"),
        ("/metrics?name=x", "there is none"),
        ("/vault-status?" + "n" * 5000, "there is none"),
        ("/openapi.json?a=1", "there is none"),
        ("/docs?a=1", "there is none"),
    ],
)
def test_a_query_parameter_that_nobody_knows_is_422(api: httpx.Client, path: str, why: str) -> None:
    answer = api.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    (error,) = answer.json()["errors"]
    assert why in error["why"]
    assert len(answer.content) < 1000


def test_options_of_a_route_are_told_whatever_the_query(api: httpx.Client) -> None:
    for path in ("/predictions?limit=5", "/predict?a=1"):
        answer = api.options(path)
        assert (answer.status_code, "OPTIONS" in answer.headers["allow"]) == (204, True)


def test_a_query_parameter_is_refused_before_anything_is_published(memory_api: MemoryApi, api: httpx.Client) -> None:
    for path, body in (("/predict", REVIEW), ("/predict/batch", [REVIEW])):
        assert api.post(f"{path}?dry_run=1", json=body).status_code == 422
    assert memory_api.records() == []
    for path in ("/predictions?", "/predictions?&", "/predictions?limit=5.0", "/predictions?limit=%35"):
        assert api.get(path).status_code == 200


def test_a_database_that_is_away_is_503(memory_api: MemoryApi, api: httpx.Client) -> None:
    memory_api.stored.online = False
    for path in ("/predictions", f"/predictions/{uuid4()}"):
        answer = api.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM)
        assert answer.headers["retry-after"]
    assert api.post("/predict", json=REVIEW).status_code == 200


# A shutdown.


def test_a_stop_waits_for_what_is_in_flight(memory_api: MemoryApi) -> None:
    with memory_api.producer, ThreadPoolExecutor(1) as pool:
        with serving(memory_api.parts) as client:
            publisher = memory_api.publisher
            assert publisher is not None
            publisher.hold()
            waiting = pool.submit(httpx.post, f"{client.base_url}/predict", json=REVIEW, timeout=20)
            assert publisher.arrived.acquire(timeout=10)
            threading.Timer(0.5, publisher.release).start()
        assert waiting.result().status_code == 200


def test_whoever_comes_at_the_last_moment_is_answered_before_the_parts_close(memory_api: MemoryApi) -> None:
    """As one does whose TLS handshake ends when the server has seen its last connection close."""
    stored_at_the_end: list[int] = []

    async def scenario() -> None:
        app = make_app(memory_api.parts(), on_shutdown=lambda: stored_at_the_end.append(len(memory_api.records())))
        publisher = memory_api.publisher
        assert publisher is not None
        publisher.hold()
        to_app: asyncio.Queue[Any] = asyncio.Queue()
        from_app: asyncio.Queue[Any] = asyncio.Queue()
        scope: Any = {"type": "lifespan", "state": {}}
        life = asyncio.ensure_future(app(scope, to_app.get, from_app.put))
        await to_app.put({"type": "lifespan.startup"})
        assert (await from_app.get())["type"] == "lifespan.startup.complete"
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            inside = asyncio.create_task(client.post("/predict", json=REVIEW))
            assert await asyncio.to_thread(publisher.arrived.acquire, timeout=10)
            await to_app.put({"type": "lifespan.shutdown"})
            for _ in range(1000):
                late = await client.post("/predict/batch", json=[])
                if late.status_code == 503:
                    break
                await asyncio.sleep(0.01)
            assert late.json()["type"] == "urn:bdlab:problem:ending"
            assert late.headers["retry-after"]
            assert not stored_at_the_end
            publisher.release()
            assert (await inside).status_code == 200
        assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
        await life

    with memory_api.producer:
        asyncio.run(scenario())
    assert stored_at_the_end == [1]
