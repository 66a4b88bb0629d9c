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

    def made(given: Any, key: str, headers: RequestHeaders) -> FeedbackEvent:
        event_id = codec.idempotent_id(key, given) if key else uuid7()
        return codec.make(event_id, given, source=(headers.source or "serve").rpartition("/")[2])

    async def one(given: Any, headers: RequestHeaders) -> msgspec.Struct:
        event = made(given, headers.idempotency_key, headers)
        publishing.acquire(1)
        try:
            await publishing.one(event, headers)
        finally:
            publishing.release(1)
        return answer_of(event)

    async def many(given: Sequence[Any], headers: RequestHeaders) -> list[msgspec.Struct]:
        key = headers.idempotency_key
        events = [made(each, key and f"{key}#{index}", headers) for index, each in enumerate(given)]
        publishing.acquire(len(events))
        try:
            return await publishing.many(events, headers, lambda at: answer_of(events[at]))
        finally:
            publishing.release(len(events))

    return intake.routes("/feedback", Validator(codec.form, codec.given, any_of=truths), answer, one, many)
