"""POST /predict and /predict/batch: score, publish, and respond once the broker has acknowledged."""

from collections.abc import Sequence
from functools import partial

import msgspec
from litestar.handlers import HTTPRouteHandler
from uuid_utils.compat import uuid7

from bdlab.events import Input, PredictionEvent, Score, Scorer
from bdlab.inputs import Validator
from bdlab.serving.problems import Problem
from bdlab.serving.protocols import Parts
from bdlab.serving.publishing import Intake, Publishing
from bdlab.serving.requests import RequestHeaders
from bdlab.serving.responses import Answers


def routes(parts: Parts, publishing: Publishing, intake: Intake) -> list[HTTPRouteHandler]:
    model, codec = parts.model, parts.model.scorer.codec  # which is that of each model that may take its place
    answers = Answers(codec)

    def acquire(count: int) -> None:
        if model.unfit:
            raise Problem("model-unfit", f"Nothing was published, as it could not be stored: {model.unfit}.")
        publishing.acquire(count)

    def events_of(scorer: Scorer, many: Sequence[Input], key: str) -> tuple[list[PredictionEvent], Sequence[Score]]:
        make = partial(codec.make, model=scorer.name)
        ids = [codec.idempotent_id(f"{key}#{index}", given) if key else uuid7() for index, given in enumerate(many)]
        scores = scorer.score_many(many)
        return [make(*each) for each in zip(ids, many, scores, strict=True)], scores

    async def one(given: Input, headers: RequestHeaders) -> msgspec.Struct:
        key = headers.idempotency_key
        event_id = codec.idempotent_id(key, given) if key else uuid7()
        acquire(1)
        scoring = model.scoring  # for the whole request, also if another takes its place
        try:
            score = await scoring.score(given)
            event = codec.make(event_id, given, score, model=scoring.scorer.name)
            await publishing.one(event, headers)
        finally:
            publishing.release(1)
        return answers(event, score)

    async def many(given: Sequence[Input], headers: RequestHeaders) -> list[msgspec.Struct]:
        acquire(len(given))
        try:
            scoring = model.scoring
            events, scores = await scoring.in_thread(events_of, scoring.scorer, given, headers.idempotency_key)
            return await publishing.many(events, headers, lambda index: answers(events[index], scores[index]))
        finally:
            publishing.release(len(given))

    return intake.routes("/predict", Validator(codec.contract), answers.kind, one, many)
