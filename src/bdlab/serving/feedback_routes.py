"""POST /feedback and /feedback/batch: publish what the right answers were, and respond once that is acknowledged."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from litestar import Request, Response, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import Receive
from uuid_utils.compat import uuid7

from bdlab.contract.fields import Copier
from bdlab.feedback import FeedbackCodec, FeedbackEvent
from bdlab.inputs import Validator
from bdlab.serving.access import Gate
from bdlab.serving.openapi import describe_publishing
from bdlab.serving.predict_routes import PredictionService
from bdlab.serving.protocols import Parts
from bdlab.serving.publishing import Publishing
from bdlab.serving.requests import BodyReader, RequestHeaders, read_headers
from bdlab.serving.response_buffer import ResponseBuffer
from bdlab.serving.responses import encode_json, json_response

_NOT_SHOWN = ("timestamp", "schema_version")


def routes(
    parts: Parts,
    predictions: PredictionService,
    publishing: Publishing,
    *,
    bodies: BodyReader,
    response_buffer: ResponseBuffer,
    gate: Gate,
) -> list[HTTPRouteHandler]:
    """Return the routes; `predictions` decodes large bodies in its threads."""
    http, codec = parts.settings.http, FeedbackCodec(predictions.validator.contract)
    most = min(http.max_batch, http.max_in_flight)
    truths = [field.column for field in codec.contract.truths]
    validator, need = Validator(codec.form, codec.given, any_of=truths), gate.need("feedback")
    shown = [(each.name, each.type) for each in msgspec.structs.fields(codec.event) if each.name not in _NOT_SHOWN]
    answer = msgspec.defstruct("FeedbackAnswer", shown, module=__name__, frozen=True, kw_only=True)
    answer_of = Copier(answer, codec.event)

    def events_of(given: Sequence[Any], headers: RequestHeaders) -> list[FeedbackEvent]:
        key, source = headers.idempotency_key, (headers.source or "serve").rpartition("/")[2]
        keys = [key] if len(given) == 1 else [f"{key}#{index}" for index in range(len(given))]
        ids = [codec.idempotent_id(own, one) if key else uuid7() for own, one in zip(keys, given, strict=True)]
        return [codec.make(event_id, one, source=source) for event_id, one in zip(ids, given, strict=True)]

    async def one(scope: Any, receive: Receive) -> bytes:
        headers = read_headers(scope)
        given = await predictions.read(validator.decode, await bodies.read(receive, headers))
        gate.spend(scope, 1)
        (event,) = events_of([given], headers)
        publishing.acquire(1)
        try:
            await publishing.one(event, headers)
        finally:
            publishing.release(1)
        return encode_json(answer_of(event))

    async def many(scope: Any, receive: Receive) -> bytes:
        response_buffer.check()
        headers = read_headers(scope)
        given = await predictions.read(validator.decode_many, await bodies.read(receive, headers), limit=most)
        gate.spend(scope, len(given))
        events = events_of(given, headers)
        publishing.acquire(len(events))
        try:
            return encode_json(await publishing.many(events, headers, lambda at: answer_of(events[at])))
        finally:
            publishing.release(len(events))

    described = partial(describe_publishing, contract=codec.form, need=need, any_of=truths)

    @post(**described("/feedback", direct=one))
    async def feedback(request: Request[Any, Any, Any]) -> Response[answer]:  # type: ignore[valid-type]
        """The response comes after the broker has acknowledged the feedback, which is durable then. Whether its
        prediction is known is not looked up: it may be stored later."""
        return json_response(await one(request.scope, request.receive))

    @post(**described("/feedback/batch", direct=many, most=most))
    async def feedback_batch(request: Request[Any, Any, Any]) -> Response[list[answer]]:  # type: ignore[valid-type]
        return json_response(await many(request.scope, request.receive))

    return [feedback, feedback_batch]
