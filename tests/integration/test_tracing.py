"""A prediction's spans, from the client's trace to the batch that stores it, as a collector gets them."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from tests.fix_pipeline import Pipeline
from tests.otlp import Collector, Seen, collecting

REVIEW = {"text": "Great taste, will buy again."}
CLIENT = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
TRACEPARENT = f"00-{CLIENT[0]}-{CLIENT[1]}-01"


def stored_batch(collector: Collector, sent: Seen) -> Seen:
    """The span of the batch that is linked with a record's."""
    (found,) = collector.wait_for(lambda span: (sent.trace_id, sent.span_id) in span.links)
    return found


def test_a_trace_goes_from_the_client_through_the_topic_to_the_batch(pipeline: Pipeline) -> None:
    with (
        collecting() as collector,
        pipeline.daemon("consume", **collector.environment()) as consumer,
        pipeline.serve(**collector.environment(), OTEL_RESOURCE_ATTRIBUTES="team=reviews") as (api, client),
    ):
        headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=7"}
        answer = client.post("/predict", json=REVIEW, headers=headers)
        assert answer.status_code == 200
        assert client.get("/health/live").status_code == 200
        prediction = answer.json()["id"]

        (request,) = collector.wait_for(lambda span: span.name == "POST /predict")
        assert (request.trace_id, request.parent_id, request.kind) == (*CLIENT, "server")
        assert request.trace_state == "vendor=7"
        assert request.attributes.items() >= {
            "http.request.method": "POST",
            "http.route": "/predict",
            "http.response.status_code": 200,
            "url.path": "/predict",
            "server.port": client.base_url.port,
        }.items()  # fmt: skip
        assert request.process["service.name"] == "bdlab-serve"
        assert request.process["team"] == "reviews"

        (sent,) = collector.wait_for(lambda span: span.kind == "producer")
        assert (sent.name, sent.trace_id, sent.parent_id) == ("send predictions", CLIENT[0], request.span_id)
        line = json.loads(api.wait_for('"published"'))
        assert line["trace_id"] == CLIENT[0]
        assert sent.attributes == {
            "messaging.system": "kafka",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": "predictions",
            "messaging.destination.partition.id": str(line["partition"]),
            "messaging.kafka.offset": line["offset"],
            "messaging.kafka.message.key": prediction,
        }

        batch = stored_batch(collector, sent)
        assert (batch.name, batch.kind, batch.parent_id) == ("process predictions", "consumer", "")
        assert batch.service == "bdlab-consume"
        assert batch.attributes["messaging.batch.message_count"] == len(batch.links) >= 1
        assert batch.attributes["messaging.consumer.group.name"] == "bdlab-db-consumer"
        (insert,) = collector.wait_for(lambda span: span.parent_id == batch.span_id)
        assert (insert.trace_id, insert.kind) == (batch.trace_id, "client")
        assert insert.attributes.items() >= {"db.system.name": "postgresql", "db.namespace": "bdlab"}.items()
        consumer.wait_for(batch.trace_id)
        (stored,) = [line for line in consumer.events("batch stored") if prediction in line["ids"]]
        assert stored["trace_id"] == batch.trace_id

        with closing(pipeline.database()) as connection, connection.cursor() as rows:
            rows.execute("SELECT trace_id FROM predictions WHERE id = %s", [prediction])
            assert rows.fetchone() == (CLIENT[0],)

        # A request that fails, and one without a trace of its client's.
        assert client.post("/predict", json={}).status_code == 422
        (refused,) = collector.wait_for(lambda span: span.attributes.get("http.response.status_code") == 422)
        assert not refused.failed
        assert refused.parent_id == ""
    assert not [span for span in collector.spans if "health" in str(span.attributes.get("url.path"))]


def test_each_worker_makes_spans_and_their_end_sends_the_last_ones(pipeline: Pipeline) -> None:
    slow = {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}  # only their end exports

    def post(_: int) -> int:
        return client.post("/predict", json=REVIEW, headers={"Connection": "close"}).status_code

    with collecting() as collector:
        with pipeline.serve("--workers", "2", **collector.environment() | slow) as (daemon, client):
            with ThreadPoolExecutor(8) as pool:
                assert set(pool.map(post, range(40))) == {200}
            assert collector.spans == []
            assert daemon.stop() == 0
        sent = [span for span in collector.spans if span.kind == "producer"]
        assert len({span.trace_id for span in sent}) == len(sent) == 40
        assert {span.span_id for span in collector.spans} >= {span.parent_id for span in sent}


def test_predict_traces_each_event_within_none(pipeline: Pipeline) -> None:
    with collecting() as collector:
        done = pipeline.run("predict", "--json", "Great taste, will buy again.", **collector.environment())
        assert done.returncode == 0, done.stderr
        (sent,) = collector.spans
        assert (sent.service, sent.name, sent.parent_id) == ("bdlab-predict", "send predictions", "")
        assert sent.attributes["messaging.kafka.message.key"] == json.loads(done.stdout)["id"]
        off = pipeline.run("predict", "Great taste.", **collector.environment(), OTEL_SDK_DISABLED="true")
        assert off.returncode == 0
        none = pipeline.run("predict", "Great taste.", **collector.environment(), OTEL_TRACES_SAMPLER="always_off")
        assert none.returncode == 0
        assert collector.spans == [sent]


def test_a_collector_that_is_away_delays_neither_a_request_nor_the_end(pipeline: Pipeline) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        away = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "OTEL_BSP_SCHEDULE_DELAY": "10",
        }
        with pipeline.serve(**away) as (daemon, client):
            client.post("/predict", json=REVIEW)
            silent.settimeout(60)
            with silent.accept()[0]:  # the export is under way
                began = time.monotonic()
                for _ in range(20):
                    assert client.post("/predict", json=REVIEW).status_code == 200
                assert time.monotonic() - began < 5
                ending = time.monotonic()
                assert daemon.stop() == 0
                assert time.monotonic() - ending < 15
        assert not [line for line in daemon.lines if "Traceback" in line]


def test_an_exporter_that_is_not_installed_is_told_and_stops_nothing(pipeline: Pipeline) -> None:
    with pipeline.serve(OTEL_TRACES_EXPORTER="zipkin") as (daemon, client):
        assert "pip install 'bdlab[otel]'" in daemon.wait_for("no traces")
        assert client.post("/predict", json=REVIEW).status_code == 200
