"""When spans are made, and what they say in rare cases; tests/integration/test_tracing.py has a whole trace."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bdlab import tracing
from bdlab.errors import BrokerUnavailable
from bdlab.events import Origin, Position, Record
from bdlab.ledger import DeadLetter
from bdlab.tracing import Spans

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Made:
    """Spans that stay in this process."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.spans = Spans(provider, max_links=2, topic="predictions")

    def only(self) -> ReadableSpan:
        (found,) = self._exporter.get_finished_spans()
        return found

    def request(self, status: int, **scope: Any) -> ReadableSpan:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": status})

        async def send(message: Any) -> None:
            pass

        given = {"type": "http", "method": "GET", "path": "/x", "scheme": "http", "http_version": "1.1", "headers": []}
        asyncio.run(self.spans.http(app)(given | scope, None, send))  # type: ignore[arg-type]
        return self.only()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SERVICE_NAME": "reviews"},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"},
        ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"},
    ],
)
def test_without_an_order_there_are_no_spans(environment: dict[str, str]) -> None:
    with structlog.testing.capture_logs() as logs:
        assert tracing.start("serve", environment, topic="predictions") is None
    assert logs == []


@pytest.mark.parametrize(
    "environment", [ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {"OTEL_TRACES_EXPORTER": "console,zipkin"}]
)
def test_an_exporter_that_is_missing_is_named_with_what_to_do(environment: dict[str, str]) -> None:
    with structlog.testing.capture_logs() as logs:
        assert tracing.start("serve", environment, topic="predictions") is None
    (line,) = logs
    assert line["log_level"] == "warning"
    assert "bdlab[otel]" in line["hint"]


@pytest.mark.parametrize("environment", [ENDPOINT, {"OTEL_TRACES_EXPORTER": "otlp, console"}])
def test_an_endpoint_or_an_exporter_is_an_order(environment: dict[str, str]) -> None:
    made = tracing.start("serve", environment, topic="predictions")
    assert made is not None
    made.close()


def test_a_server_error_fails_its_span_and_an_unknown_method_has_no_name() -> None:
    span = Made().request(503, method="BREW", path="/nothing", server=("10.0.0.7", 8000), client=("10.0.0.8", 4))
    assert span.name == "HTTP"
    assert not span.status.is_ok
    assert dict(span.attributes or {}) == {
        "http.request.method": "_OTHER",
        "url.path": "/nothing",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "server.address": "10.0.0.7",
        "server.port": 8000,
        "client.address": "10.0.0.8",
        "http.response.status_code": 503,
        "error.type": "503",
    }


@pytest.mark.parametrize("said", ["", "00-zz-01", f"ff{TRACEPARENT[2:]}", f"00-{'0' * 32}-{'1' * 16}-01"])
def test_a_traceparent_that_is_not_valid_begins_a_new_trace(said: str) -> None:
    span = Made().request(200, headers=[(b"traceparent", said.encode())])
    assert span.parent is None
    assert span.status.is_ok


def test_a_batch_is_linked_with_at_most_so_many_traces_and_fails_with_what_it_raises() -> None:
    made, records = Made(), [{}, {"traceparent": b"none"}, *({"traceparent": TRACEPARENT.encode()},) * 3]
    batch = [
        DeadLetter(record=Record(Position("c", "t", 0, at), None, None, list(said.items())), reason="no event")
        for at, said in enumerate(records)
    ]
    with pytest.raises(BrokerUnavailable), made.spans.processing(batch):
        raise BrokerUnavailable("away")
    span = made.only()
    assert [format(link.context.trace_id, "032x") for link in span.links] == [TRACEPARENT[3:35]] * 2
    assert (span.attributes or {})["messaging.batch.message_count"] == 5
    assert not span.status.is_ok


def test_an_event_that_is_refused_at_once_ends_its_span() -> None:
    class Event:
        id = UUID(int=1)

    def refuse(event: object, done: object, origin: Origin) -> None:
        assert origin.traceparent.startswith(TRACEPARENT[:36])
        assert origin.traceparent != TRACEPARENT
        assert origin.source == "/bdlab/drill"
        raise BrokerUnavailable("too many events wait for the broker")

    made, completed = Made(), list[object]()
    with pytest.raises(BrokerUnavailable):
        made.spans.sending(refuse)(Event(), completed.append, Origin(traceparent=TRACEPARENT, source="/bdlab/drill"))
    assert completed == []
    assert (made.only().attributes or {})["error.type"] == "BrokerUnavailable"
