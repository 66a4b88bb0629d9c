"""Spans of OpenTelemetry, named by its semantic conventions; nothing of it is imported unless they are asked for."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import entry_points, version
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from bdlab.errors import BrokerError
from bdlab.events import TRACEPARENT, UNKNOWN, Event, Origin, Position
from bdlab.ledger import Entry

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

Done = Callable[[Position | BrokerError], None]
CLOSE_S = 3.0
"""The longest that the end of a process waits for its last spans to be exported."""
_UNTRACED = ("/health", "/metrics")  # asked for again and again by machines
_METHODS = frozenset(("GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"))
_CONTEXT = (b"traceparent", b"tracestate")
_OPERATION = ("messaging.operation.type", "messaging.operation.name")
_HTTP = ("url.path", "url.scheme", "network.protocol.version", "server.address", "server.port", "client.address")
_INTO: dict[str, Any] = {"db.collection.name": "predictions"}
_log = structlog.get_logger()


def start(service: str, environment: Mapping[str, str], **attributes: Any) -> Spans | None:
    """Return what makes the spans of `service` in this process if the OTEL_* variables of `environment` ask for some.
    `attributes` are those of Spans. None if they do not, or if an exporter is not installed, which is logged."""
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    wanted = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(map(environment.get, endpoints)) else "none")
    if wanted == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    otlp = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    try:
        from opentelemetry.sdk import resources, trace  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        own = resources.Resource.create({"service.name": f"bdlab-{service}", "service.version": version("bdlab")})
        resource, limits = own.merge(resources.OTELResourceDetector().detect()), trace.SpanLimits()
        provider = trace.TracerProvider(resource=resource, span_limits=limits, shutdown_on_exit=False)
        for name in wanted.replace(" ", "").split(","):
            (exporter,) = entry_points(group="opentelemetry_traces_exporter", name=otlp if name == "otlp" else name)
            provider.add_span_processor(BatchSpanProcessor(exporter.load()()))
    except (ImportError, ValueError) as error:
        hint = "pip install 'bdlab[otel]', or set OTEL_TRACES_EXPORTER=none"
        _log.warning("no traces: they cannot be exported", exporter=wanted, problem=str(error), hint=hint)
        return None
    return Spans(provider, max_links=limits.max_links, **attributes)


class Spans:
    """Makes the spans of a process. `topic` is the events', `group` the consumers', `database` is what a span of the
    database has, by attribute; a span has at most `max_links` links."""

    def __init__(
        self, provider: TracerProvider, *, max_links: int | None, topic: str, group: str = "", database: Any = None
    ) -> None:
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._provider, self._tracer = provider, provider.get_tracer("bdlab", version("bdlab"))
        self._api, self._extract = trace, TraceContextTextMapPropagator().extract
        self._topic, self._database, self._max_links = topic, _INTO | (database or {}), max_links
        both: dict[str, Any] = {"messaging.system": "kafka", "messaging.destination.name": topic}
        self._send = both | dict.fromkeys(_OPERATION, "send")
        self._process = both | dict.fromkeys(_OPERATION, "process") | {"messaging.consumer.group.name": group}

    def of(self, topic: str, group: str, *, table: str) -> Spans:
        """Return what makes the spans of another topic, which is stored in `table`; it ends with this."""
        database = self._database | {"db.collection.name": table}
        return Spans(self._provider, max_links=self._max_links, topic=topic, group=group, database=database)

    def close(self) -> None:
        """Export what is left, for at most CLOSE_S seconds."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(CLOSE_S)

    def http(self, app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """Return the ASGI application `app` with a span for each request, which `app` sees as its client's."""

        async def traced(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http" or scope["path"].startswith(_UNTRACED):
                await app(scope, receive, send)
                return
            method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
            (server, port), (client, _) = scope.get("server") or ("", 0), scope.get("client") or ("", 0)
            said = (scope["path"], scope["scheme"], scope["http_version"], server, port or 0, client)
            attributes = {"http.request.method": method, **dict(zip(_HTTP, said, strict=True))}
            given = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _CONTEXT}
            name = "HTTP" if method == "_OTHER" else method
            with self._span(name, "SERVER", attributes, context=self._extract(given)) as span:
                headers = [header for header in scope["headers"] if header[0] not in _CONTEXT]
                inner = {**scope, "headers": [*headers, (b"traceparent", _traceparent(span).encode())]}

                async def sending(message: Any) -> None:
                    if message["type"] == "http.response.start":
                        span.set_attribute("http.response.status_code", message["status"])
                        if message["status"] >= 500:
                            self._fail(span, str(message["status"]))
                    await send(message)

                await app(inner, receive, sending)
                if route := inner.get("path_template"):
                    span.update_name(f"{name} {route}")
                    span.set_attribute("http.route", route)

        return traced

    def sending(self, publish: Callable[..., None]) -> Callable[..., None]:
        """Return `publish`, of a producer, with a span for each event, whose trace context goes with the event."""

        def traced(event: Event, done: Done, origin: Origin = UNKNOWN) -> None:
            attributes = self._send | {"messaging.kafka.message.key": str(event.id)}
            parent, kind = self._extract({"traceparent": origin.traceparent}), self._api.SpanKind.PRODUCER
            span = self._tracer.start_span(f"send {self._topic}", parent, kind=kind, attributes=attributes)

            def end(result: Position | BrokerError, then: Done = done) -> None:
                if isinstance(result, Position):
                    span.set_attribute("messaging.destination.partition.id", str(result.partition))
                    span.set_attribute("messaging.kafka.offset", result.offset)
                else:
                    self._fail(span, type(result).__name__, result.message)
                span.end()
                then(result)

            try:
                publish(event, end, msgspec.structs.replace(origin, traceparent=_traceparent(span)))
            except BrokerError as error:  # `done` is never called then
                end(error, lambda _: None)
                raise

        return traced

    def processing(self, batch: Sequence[Entry]) -> AbstractContextManager[Any]:
        """Return the span of a batch, with links to its records' traces; what is logged in it has its trace_id."""
        links = list(islice(self._links(batch), self._max_links))
        attributes = self._process | {"messaging.batch.message_count": len(batch)}
        return self._span(f"process {self._topic}", "CONSUMER", attributes, links=links)

    def storing(self, batch: Sequence[Entry]) -> AbstractContextManager[Any]:
        """Return the span of a batch's transaction."""
        attributes = {"db.system.name": "postgresql", "db.operation.name": "BATCH INSERT", **self._database}
        attributes["db.operation.batch.size"] = len(batch)
        return self._span(f"BATCH INSERT {self._database['db.collection.name']}", "CLIENT", attributes)

    @contextmanager
    def _span(self, name: str, kind: str, attributes: Mapping[str, Any], **options: Any) -> Iterator[Span]:
        make, bound = self._tracer.start_as_current_span, structlog.contextvars.bound_contextvars
        span_of = make(name, kind=self._api.SpanKind[kind], attributes=attributes, **options)
        with span_of as span, bound(trace_id=_traceparent(span)[3:35]):
            yield span

    def _links(self, batch: Sequence[Entry]) -> Iterator[Any]:
        api = self._api
        for entry in batch:
            found = dict(entry.record.headers).get("traceparent") or b""
            if TRACEPARENT.fullmatch(found):
                trace_id, span_id, flags = (int(part, 16) for part in found.split(b"-")[1:])
                yield api.Link(api.SpanContext(trace_id, span_id, is_remote=True, trace_flags=api.TraceFlags(flags)))

    def _fail(self, span: Span, kind: str, why: str | None = None) -> None:
        span.set_attribute("error.type", kind)
        span.set_status(self._api.StatusCode.ERROR, why)


def _traceparent(span: Span) -> str:
    own = span.get_span_context()
    return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"
