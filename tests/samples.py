"""Events and records to test with."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from bdlab.contract import Contract, parse_contract, review_contract
from bdlab.events import Event, EventCodec, Input, Position, PredictionEvent, Record, Score, Term, codec_of, encode
from bdlab.feedback import FeedbackCodec, FeedbackEvent
from bdlab.inputs import Validator
from bdlab.ledger import Accepted, DeadLetter

REVIEWS = codec_of(review_contract())
FEEDBACK = FeedbackCodec(review_contract())

if TYPE_CHECKING:

    class Review(Input, frozen=True, kw_only=True):
        def __init__(self, **fields: Any) -> None: ...

    class ReviewScore(Score, frozen=True, kw_only=True):
        def __init__(self, **fields: Any) -> None: ...

    class ReviewEvent(PredictionEvent, frozen=True, kw_only=True):
        def __init__(self, **fields: Any) -> None: ...

else:
    Review, ReviewScore, ReviewEvent = REVIEWS.input, REVIEWS.score, REVIEWS.event

REVIEW = Validator(review_contract())
"""What reviews are checked with."""

CLUSTER = "cluster-a"
TOPIC = "predictions"
MOMENT = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)


def at(offset: int, partition: int = 0, cluster_id: str = CLUSTER, topic: str = TOPIC) -> Position:
    return Position(cluster_id, topic, partition, offset)


def event(event_id: UUID | None = None, *, text: str = "This product is terrible!") -> PredictionEvent:
    return ReviewEvent(
        id=event_id or uuid7(),
        summary="Product review",
        text=text,
        helpfulness_numerator=1,
        helpfulness_denominator=2,
        prediction=1.37,
        sentiment="negative",
        confidence=0.97,
        explanation=(Term("terrible", -1.9),),
        model="reviews@1.0.0",
        created_at=MOMENT,
        timestamp=MOMENT,
    )


def later_reviews(default: int = 3) -> Contract:
    """The contract of the reviews, number 2: with the field `stars`."""
    found = copy.deepcopy(review_contract().document)
    found["input"]["properties"]["stars"] = {"type": "integer", "default": default, "since": 2, "minimum": 0}
    return parse_contract(found | {"columns": [*found["columns"], "stars"]})


def later_event(codec: EventCodec, **fields: Any) -> PredictionEvent:
    """A review's event with the fields of another contract too."""
    return msgspec.convert(msgspec.structs.asdict(event()) | fields, codec.event)


def event_of(found: Record) -> PredictionEvent:
    return REVIEWS.decode(found)[0]


def feedback(prediction_id: UUID | None = None, **fields: Any) -> FeedbackEvent:
    """What the right answer was: two stars, unless `fields` say otherwise."""
    given = FEEDBACK.given(prediction_id=prediction_id or uuid7(), **({"prediction": 2.0} | fields))
    return FEEDBACK.make(uuid7(), given, source="tests")


def record(position: Position, of: Event | None = None) -> Record:
    key, value = encode(of or event())
    later = [("bdlab-contract", b"%d" % of.CONTRACT)] if of and of.CONTRACT > 1 else []
    return Record(position, key, value, [("ce_specversion", b"1.0"), *later])


def accepted(position: Position, of: Event | None = None) -> Accepted:
    found = record(position, of)
    return Accepted(found, *(FEEDBACK if of and of.KIND == "feedback" else REVIEWS).decode(found))


def dead(position: Position, *, key: bytes | None = b"k", value: bytes | None = b"\xff") -> DeadLetter:
    return DeadLetter(record=Record(position, key, value, [("h", None)]), reason="not UTF-8 JSON: no")


def rows(offsets: Iterable[int], partition: int = 0) -> list[Accepted]:
    return [accepted(at(offset, partition)) for offset in offsets]
