"""POST /feedback and /feedback/batch: publish what the right answers were, and respond once that is acknowledged."""

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar.handlers import HTTPRouteHandler
from uuid_utils.compat import uuid7

from bdlab.contract.fields import Copier
from bdlab.feedback import FeedbackCodec, FeedbackEvent
from bdlab.inputs import Validator
from bdlab.serving.protocols import Parts
from bdlab.serving.publishing import Intake, Publishing
from bdlab.serving.requests import RequestHeaders

_NOT_SHOWN = ("timestamp", "schema_version")


def routes(parts: Parts, publishing: Publishing, intake: Intake) -> list[HTTPRouteHandler]:
    codec = FeedbackCodec(parts.model.scorer.codec.contract)
    truths = [field.column for field in codec.contract.truths]
    shown = [(each.name, each.type) for each in msgspec.structs.fields(codec.event) if each.name not in _NOT_SHOWN]
    answer = msgspec.defstruct("FeedbackAnswer", shown, module=__name__, frozen=True, kw_only=True)
    answer_of = Copier(answer, codec.event)

    def events_of(given: Sequence[Any], headers: RequestHeaders) -> list[FeedbackEvent]:
        key, source = headers.idempotency_key, (headers.source or "serve").rpartition("/")[2]
        keys = [key] if len(given) == 1 else [f"{key}#{index}" for index in range(len(given))]
        ids = [codec.idempotent_id(own, one) if key else uuid7() for own, one in zip(keys, given, strict=True)]
        return [codec.make(event_id, one, source=source) for event_id, one in zip(ids, given, strict=True)]

    async def one(given: Any, headers: RequestHeaders) -> msgspec.Struct:
        (event,) = events_of([given], headers)
        publishing.acquire(1)
        try:
            await publishing.one(event, headers)
        finally:
            publishing.release(1)
        return answer_of(event)

    async def many(given: Sequence[Any], headers: RequestHeaders) -> list[msgspec.Struct]:
        events = events_of(given, headers)
        publishing.acquire(len(events))
        try:
            return await publishing.many(events, headers, lambda at: answer_of(events[at]))
        finally:
            publishing.release(len(events))

    return intake.routes("/feedback", Validator(codec.form, codec.given, any_of=truths), answer, one, many)
