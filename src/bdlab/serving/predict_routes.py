"""POST /predict and /predict/batch: score, publish, and respond once the broker has acknowledged."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog
from litestar import Request, Response, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import Receive
from uuid_utils.compat import uuid7

from bdlab.events import Input, PredictionEvent, Score, Scorer
from bdlab.inputs import Validator
from bdlab.serving.access import Gate
from bdlab.serving.batching import QUICK_CHARACTERS
from bdlab.serving.openapi import describe_publishing
from bdlab.serving.problems import Problem
from bdlab.serving.protocols import Parts
from bdlab.serving.publishing import Publishing
from bdlab.serving.requests import BodyReader, RequestHeaders, read_headers
from bdlab.serving.response_buffer import ResponseBuffer
from bdlab.serving.responses import Answers, encode_json, json_response

log = structlog.get_logger()

#: Seconds beyond the delivery time-out, which the publisher keeps by itself, until a client gets an error.
_GRACE_S = 5.0
#: Events of a batch that are published before the event loop serves other requests.
PUBLISH_CHUNK = 50

T = TypeVar("T")


class PredictionService:
    """Decodes, scores and publishes inputs."""

    def __init__(self, parts: Parts, publishing: Publishing) -> None:
        self._model = parts.model
        self._codec = parts.model.scorer.codec  # which is that of each model that may take its place
        self.validator = Validator(self._codec.contract)
        self.answers = Answers(self._codec)
        self._publishing = publishing

    async def read(self, decode: Callable[..., T], body: bytes, **limits: int) -> T:
        """Return what `decode` makes of a body, in a thread if the body is large. Raises InputInvalid."""
        if len(body) <= QUICK_CHARACTERS:
            return decode(body, **limits)
        return await self._model.scoring.in_thread(partial(decode, body, **limits))

    async def predict(self, given: Input, headers: RequestHeaders) -> msgspec.Struct:
        """Return the acknowledged prediction. Raises Problem if it was not acknowledged."""
        key = headers.idempotency_key
        event_id = self._codec.idempotent_id(key, given) if key else uuid7()
        self._acquire(1)
        scoring = self._model.scoring  # for the whole request, also if another takes its place
        try:
            score = await scoring.score(given)
            event = self._codec.make(event_id, given, score, model=scoring.scorer.name)
            await self._publishing.one(event, headers)
        finally:
            self._publishing.release(1)
        return self.answers(event, score)

    async def predict_many(self, many: Sequence[Input], headers: RequestHeaders) -> list[msgspec.Struct]:
        """Return the acknowledged predictions in order. Raises Problem with the result of each."""
        self._acquire(len(many))
        try:
            scoring = self._model.scoring
            events, scores = await scoring.in_thread(self._make_events, scoring.scorer, many, headers.idempotency_key)
            return await self._publishing.many(
                events, headers, lambda index: self.answers(events[index], scores[index])
            )
        finally:
            self._publishing.release(len(many))

    def _acquire(self, count: int) -> None:
        if self._model.unfit:
            raise Problem("model-unfit", f"Nothing was published, as it could not be stored: {self._model.unfit}.")
        self._publishing.acquire(count)

    def _make_events(
        self, scorer: Scorer, many: Sequence[Input], key: str
    ) -> tuple[list[PredictionEvent], Sequence[Score]]:
        make, id_of = partial(self._codec.make, model=scorer.name), self._codec.idempotent_id
        ids = [id_of(f"{key}#{index}", given) if key else uuid7() for index, given in enumerate(many)]
        scores = scorer.score_many(many)
        return [make(*parts) for parts in zip(ids, many, scores, strict=True)], scores


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

    @post(**describe_publishing("/predict", contract=contract, direct=one, need=need))
    async def predict(request: Request[Any, Any, Any]) -> Response[answer]:  # type: ignore[valid-type]
        """The response comes after the broker has acknowledged the prediction, which is durable then."""
        return json_response(await one(request.scope, request.receive))

    @post(**describe_publishing("/predict/batch", contract=contract, direct=many, need=need, most=most))
    async def predict_batch(request: Request[Any, Any, Any]) -> Response[list[answer]]:  # type: ignore[valid-type]
        return json_response(await many(request.scope, request.receive))

    return [predict, predict_batch]
