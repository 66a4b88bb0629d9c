"""What the routes that publish have in common: how inputs are taken, how much may wait, what is counted, and what a
client is told."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import structlog
from litestar import Request, Response, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import Receive

from bdlab.errors import BrokerError, EventTooLarge, NotAcknowledged
from bdlab.events import Event, new_traceparent
from bdlab.inputs import Validator
from bdlab.inputs.schema import input_schema
from bdlab.serving.access import Gate
from bdlab.serving.batching import QUICK_CHARACTERS
from bdlab.serving.in_progress import Deadlines
from bdlab.serving.metrics import Metrics
from bdlab.serving.openapi import Endpoint, describe
from bdlab.serving.problems import Problem, from_error
from bdlab.serving.protocols import Parts, Publisher
from bdlab.serving.publisher import DeliveryHealth
from bdlab.serving.requests import BodyReader, RequestHeaders, read_headers
from bdlab.serving.response_buffer import ResponseBuffer
from bdlab.serving.responses import BatchItem, encode_json, json_response

log = structlog.get_logger()
_GRACE_S = 5.0  # beyond the delivery time-out, which the publisher keeps by itself, until a client gets an error
_PUBLISH_CHUNK = 50  # events of a batch that are published before the event loop serves other requests


class Publishing:
    """Publishes events of one `kind`, a counter of metrics.toml, within the bound on all that wait for the broker."""

    def __init__(
        self, publisher: Publisher, kind: str, parts: Parts, metrics: Metrics, delivery_health: DeliveryHealth
    ) -> None:
        self._publisher = publisher
        self._kind = kind
        self._max_in_flight = parts.settings.http.max_in_flight
        self._log_published = parts.log_published
        self.deadlines = Deadlines(parts.settings.kafka.delivery_timeout_s + _GRACE_S)
        self._metrics = metrics
        self._delivery_health = delivery_health

    def acquire(self, count: int) -> None:
        """Take the room of `count` events, which `release` gives back. Raises Problem if there is not so much."""
        waiting = self._metrics.waiting
        if waiting + count > self._max_in_flight:
            self._metrics.missed(self._kind, "busy", count)
            raise Problem(
                "busy",
                f"{waiting} events wait for the broker; the limit is {self._max_in_flight}. "
                "Nothing was published: retry a little later.",
            )
        self._metrics.waiting += count

    def release(self, count: int) -> None:
        self._metrics.waiting -= count

    async def one(self, event: Event, headers: RequestHeaders) -> None:
        """Publish, and return once it is acknowledged. Raises Problem."""
        try:
            await self._publish(event, headers)
        except BrokerError as error:
            raise from_error(error, event_id=str(event.id)) from error

    async def many(
        self, events: Sequence[Event], headers: RequestHeaders, answer: Callable[[int], msgspec.Struct]
    ) -> list[msgspec.Struct]:
        """Publish, and return the answer to each by its index. Raises Problem with the result of each."""
        publishing: list[asyncio.Task[None]] = []
        for event in events:
            publishing.append(asyncio.create_task(self._publish(event, headers)))
            if len(publishing) % _PUBLISH_CHUNK == 0:
                await asyncio.sleep(0)
        found = await asyncio.gather(*publishing, return_exceptions=True)
        if not any(found):
            return [*map(answer, range(len(events)))]
        results = []
        for index, (event, error) in enumerate(zip(events, found, strict=True)):
            if error is None:
                fields: dict[str, Any] = {"status": "acknowledged", "result": answer(index)}
            elif isinstance(error, BrokerError):
                status = "invalid" if isinstance(error, EventTooLarge) else "not acknowledged"
                fields = {"status": status, "why": error.message}
            else:
                raise error
            results.append(BatchItem(index=index, id=event.id, **fields))
        missing = sum(error is not None for error in found)
        raise Problem(
            "partly-acknowledged",
            f"The broker has acknowledged {len(events) - missing} of {len(events)} events; `results` "
            "has each. Send the others again, or the whole list with the same Idempotency-Key.",
            results=tuple(results),
        )

    async def _publish(self, event: Event, headers: RequestHeaders) -> None:
        started = time.perf_counter()
        origin = headers if headers.traceparent else msgspec.structs.replace(headers, traceparent=new_traceparent())
        trace_id = origin.traceparent[3:35]
        try:
            with self.deadlines:
                position = await self._publisher.publish(event, origin)
        except TimeoutError:
            self._metrics.missed(self._kind, "not_acknowledged")
            why = f"the broker did not acknowledge the event within {self.deadlines.limit_s:g} s"
            self._delivery_health.failed(why)
            hint = "Retry with the same Idempotency-Key: the event may or may not be on the topic."
            raise NotAcknowledged(why, hint=hint) from None
        except BrokerError as error:
            self._metrics.missed(self._kind, "not_acknowledged")
            if not isinstance(error, EventTooLarge):
                self._delivery_health.failed(error.message)
            log.warning("not published", id=str(event.id), trace_id=trace_id, problem=error.message)
            raise
        self._metrics.acknowledged(self._kind, time.perf_counter() - started)
        self._delivery_health.succeeded()
        self._log_published(str(event.id), position, trace_id)


@dataclass(frozen=True)
class Intake:
    """Takes inputs out of requests: each is decoded, and counted against the limit of its key."""

    parts: Parts
    bodies: BodyReader
    response_buffer: ResponseBuffer
    gate: Gate

    def routes(
        self,
        path: str,
        validator: Validator,
        answer: Any,
        publish: Callable[[Any, RequestHeaders], Awaitable[Any]],
        publish_many: Callable[[Any, RequestHeaders], Awaitable[Any]],
    ) -> list[HTTPRouteHandler]:
        """Return the route at `path`, which is named as the scope that it needs, and that of lists. `publish` returns
        the `answer` to an input once it is acknowledged."""
        bodies, gate, model, http = self.bodies, self.gate, self.parts.model, self.parts.settings.http
        most = min(http.max_batch, http.max_in_flight)
        schema = input_schema(validator.contract, validator.any_of)
        described = partial(describe, contract=validator.contract, need=gate.need(path[1:]))

        async def decoded(decode: Callable[..., Any], body: bytes, **limits: int) -> Any:
            """Decode a body, in a thread if it is large. Raises InputInvalid."""
            if len(body) <= QUICK_CHARACTERS:
                return decode(body, **limits)
            return await model.scoring.in_thread(partial(decode, body, **limits))

        async def one(scope: Any, receive: Receive) -> bytes:
            headers = read_headers(scope)
            given = await decoded(validator.decode, await bodies.read(receive, headers))
            gate.spend(scope, 1)
            return encode_json(await publish(given, headers))

        async def many(scope: Any, receive: Receive) -> bytes:
            self.response_buffer.check()
            headers = read_headers(scope)
            given = await decoded(validator.decode_many, await bodies.read(receive, headers), limit=most)
            gate.spend(scope, len(given))
            return encode_json(await publish_many(given, headers))

        def route(path: str, body: Any, direct: Endpoint, answer: Any) -> HTTPRouteHandler:
            @post(**described(path, body=body, direct=direct))
            async def handler(request: Request[Any, Any, Any]) -> Response[answer]:
                return json_response(await direct(request.scope, request.receive))

            return handler

        lists = {"items": schema, "type": "array", "maxItems": most, "minItems": 1}
        return [route(path, schema, one, answer), route(f"{path}/batch", lists, many, list[answer])]
