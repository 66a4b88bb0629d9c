"""POST /predict and /predict/batch: score, publish, and respond once the broker has acknowledged."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog
from litestar import Request, Response, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import Receive
from uuid_utils.compat import uuid7

from bdlab.errors import BrokerError, EventTooLarge, NotAcknowledged
from bdlab.events import Input, PredictionEvent, Score, new_traceparent
from bdlab.inputs import Validator
from bdlab.serving.access import Gate
from bdlab.serving.batching import QUICK_CHARACTERS, AsyncScorer
from bdlab.serving.in_progress import Deadlines
from bdlab.serving.metrics import Metrics
from bdlab.serving.openapi import describe_prediction
from bdlab.serving.problems import Problem, from_error
from bdlab.serving.protocols import Parts
from bdlab.serving.publisher import DeliveryHealth
from bdlab.serving.requests import BodyReader, RequestHeaders, read_headers
from bdlab.serving.response_buffer import ResponseBuffer
from bdlab.serving.responses import Answers, BatchItem, encode_json, json_response

log = structlog.get_logger()

#: Seconds beyond the delivery time-out, which the publisher keeps by itself, until a client gets an error.
_GRACE_S = 5.0
#: Events of a batch that are published before the event loop serves other requests.
PUBLISH_CHUNK = 50

T = TypeVar("T")


class PredictionService:
    """Decodes, scores and publishes inputs, with a bound on the predictions in flight."""

    def __init__(self, parts: Parts, metrics: Metrics, delivery_health: DeliveryHealth) -> None:
        self._publisher = parts.publisher
        self._scorer = parts.scorer
        self._model = parts.scorer.name
        self._codec = parts.scorer.codec
        self.validator = Validator(self._codec.contract)
        self.answers = Answers(self._codec)
        self._scoring = AsyncScorer(parts.scorer)
        self._max_in_flight = parts.settings.http.max_in_flight
        self._log_published = parts.log_published
        self.deadlines = Deadlines(parts.settings.kafka.delivery_timeout_s + _GRACE_S)
        self._metrics = metrics
        self._delivery_health = delivery_health

    async def read(self, decode: Callable[..., T], body: bytes, **limits: int) -> T:
        """Return what `decode` makes of a body, in a thread if the body is large. Raises InputInvalid."""
        if len(body) <= QUICK_CHARACTERS:
            return decode(body, **limits)
        return await self._scoring.in_thread(partial(decode, body, **limits))

    async def predict(self, given: Input, headers: RequestHeaders) -> msgspec.Struct:
        """Return the acknowledged prediction. Raises Problem if it was not acknowledged."""
        key = headers.idempotency_key
        event_id = self._codec.idempotent_id(key, given) if key else uuid7()
        self._acquire(1)
        try:
            score = await self._scoring.score(given)
            event = self._codec.make(event_id, given, score, model=self._model)
            await self._publish(event, headers)
        except BrokerError as error:
            raise from_error(error, prediction_id=str(event_id)) from error
        finally:
            self._metrics.waiting -= 1
        return self.answers(event, score)

    async def predict_many(self, many: Sequence[Input], headers: RequestHeaders) -> list[msgspec.Struct]:
        """Return the acknowledged predictions in order. Raises Problem with the result of each."""
        self._acquire(len(many))
        try:
            events, scores = await self._scoring.in_thread(self._make_events, many, headers.idempotency_key)
            publishing: list[asyncio.Task[None]] = []
            for event in events:
                publishing.append(asyncio.create_task(self._publish(event, headers)))
                if len(publishing) % PUBLISH_CHUNK == 0:
                    await asyncio.sleep(0)
            found = await asyncio.gather(*publishing, return_exceptions=True)
        finally:
            self._metrics.waiting -= len(many)
        if any(found):
            raise self._partial_failure(events, scores, found)
        return list(map(self.answers, events, scores))

    def _make_events(self, many: Sequence[Input], key: str) -> tuple[list[PredictionEvent], Sequence[Score]]:
        make, id_of = partial(self._codec.make, model=self._model), self._codec.idempotent_id
        ids = [id_of(f"{key}#{index}", given) if key else uuid7() for index, given in enumerate(many)]
        scores = self._scorer.score_many(many)
        return [make(*parts) for parts in zip(ids, many, scores, strict=True)], scores

    async def _publish(self, event: PredictionEvent, headers: RequestHeaders) -> None:
        started = time.perf_counter()
        origin = headers if headers.traceparent else msgspec.structs.replace(headers, traceparent=new_traceparent())
        trace_id = origin.traceparent[3:35]
        try:
            with self.deadlines:
                position = await self._publisher.publish(event, origin)
        except TimeoutError:
            self._metrics.missed("not_acknowledged")
            why = f"the broker did not acknowledge the event within {self.deadlines.limit_s:g} s"
            self._delivery_health.failed(why)
            raise NotAcknowledged(
                why, hint="Retry with the same Idempotency-Key: the event may or may not be on the topic."
            ) from None
        except BrokerError as error:
            self._metrics.missed("not_acknowledged")
            if not isinstance(error, EventTooLarge):
                self._delivery_health.failed(error.message)
            log.warning("not published", id=str(event.id), trace_id=trace_id, problem=error.message)
            raise
        self._metrics.acknowledged(time.perf_counter() - started)
        self._delivery_health.succeeded()
        self._log_published(str(event.id), position, trace_id)

    def _acquire(self, count: int) -> None:
        waiting = self._metrics.waiting
        if waiting + count > self._max_in_flight:
            self._metrics.missed("busy", count)
            raise Problem(
                "busy",
                f"{waiting} predictions wait for the broker; the limit is {self._max_in_flight}. "
                "Nothing was published: retry a little later.",
            )
        self._metrics.waiting += count

    def _partial_failure(
        self, events: Sequence[PredictionEvent], scores: Sequence[Score], found: Sequence[BaseException | None]
    ) -> Problem:
        results = []
        for index, (event, score, error) in enumerate(zip(events, scores, found, strict=True)):
            if error is None:
                fields: dict[str, Any] = {"status": "acknowledged", "result": self.answers(event, score)}
            elif isinstance(error, BrokerError):
                status = "invalid" if isinstance(error, EventTooLarge) else "not acknowledged"
                fields = {"status": status, "why": error.message}
            else:
                raise error
            results.append(BatchItem(index=index, id=event.id, **fields))
        missing = sum(error is not None for error in found)
        return Problem(
            "partly-acknowledged",
            f"The broker has acknowledged {len(events) - missing} of {len(events)} predictions; `results` "
            "has each. Send the others again, or the whole list with the same Idempotency-Key.",
            results=tuple(results),
        )


def routes(
    parts: Parts, predictions: PredictionService, bodies: BodyReader, response_buffer: ResponseBuffer, gate: Gate
) -> list[HTTPRouteHandler]:
    http = parts.settings.http
    most = min(http.max_batch, http.max_in_flight)
    validator, answer = predictions.validator, predictions.answers.kind
    contract, need = validator.contract, gate.need("predict")

    async def one(scope: Any, receive: Receive) -> bytes:
        headers = read_headers(scope)
        body = await bodies.read(receive, headers)
        given = await predictions.read(validator.decode, body)
        gate.spend(scope, 1)
        return encode_json(await predictions.predict(given, headers))

    async def many(scope: Any, receive: Receive) -> bytes:
        response_buffer.check()
        headers = read_headers(scope)
        body = await bodies.read(receive, headers)
        inputs = await predictions.read(validator.decode_many, body, limit=most)
        gate.spend(scope, len(inputs))
        return encode_json(await predictions.predict_many(inputs, headers))

    @post(**describe_prediction("/predict", contract, one, need))
    async def predict(request: Request[Any, Any, Any]) -> Response[answer]:  # type: ignore[valid-type]
        """The response comes after the broker has acknowledged the prediction, which is durable then."""
        return json_response(await one(request.scope, request.receive))

    @post(**describe_prediction("/predict/batch", contract, many, need, most=most))
    async def predict_batch(request: Request[Any, Any, Any]) -> Response[list[answer]]:  # type: ignore[valid-type]
        return json_response(await many(request.scope, request.receive))

    return [predict, predict_batch]
