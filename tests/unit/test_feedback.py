"""What feedback may say, and how it is on the topic."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from uuid_utils.compat import uuid7

from bdlab.errors import EventTooNew, InvalidEvent
from bdlab.events import Record, encode, headers
from bdlab.feedback import FeedbackCodec, FeedbackEvent
from tests.samples import FEEDBACK, at, feedback, later_reviews

EVENT = feedback(sentiment="negative")
KEY, VALUE = encode(EVENT)


def decoded(value: bytes | None, key: bytes | None = KEY, *head: tuple[str, bytes]) -> FeedbackEvent:
    return FEEDBACK.decode(Record(at(0), key, value, head))[0]


def test_its_key_is_the_prediction_s_id_and_its_type_is_feedback() -> None:
    assert str(EVENT.prediction_id).encode() == KEY
    head = dict(headers(EVENT, source="/bdlab/serve", traceparent="t", key=KEY))
    assert head["ce_id"] == str(EVENT.id).encode()
    assert head["ce_type"] == b"io.bdlab.feedback.v1"
    assert list(json.loads(VALUE)) == [
        *("id", "prediction_id", "prediction", "sentiment", "source", "created_at", "timestamp", "schema_version")
    ]
    event, fields = FEEDBACK.decode(Record(at(0), KEY, VALUE))
    assert event == EVENT
    assert fields


def test_what_is_not_given_is_null_and_a_later_contract_s_truth_too() -> None:
    assert decoded(VALUE.replace(b'"sentiment":"negative",', b"")).sentiment is None
    assert decoded(encode(feedback(UUID(KEY.decode()), prediction=None, sentiment="positive"))[1]).prediction is None


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (None, KEY, "tombstone"),
        (VALUE, None, "no key"),
        (VALUE, str(EVENT.id).encode(), "key is not the event's prediction_id"),
        (VALUE[:-5], KEY, "not UTF-8 JSON"),
        (VALUE.replace(b"2.0", b"5.5"), KEY, "not a feedback event: .* <= 5.0"),
        (VALUE.replace(b"negative", b"mixed"), KEY, "enum value 'mixed'"),
        (VALUE.replace(b"2.0", b"null").replace(b'"negative"', b"null"), KEY, "gives none of prediction, sentiment"),
        (VALUE.replace(b'"tests"', b'"Tests"'), KEY, "source"),
        (VALUE.replace(b'"tests"', b'"tests\\n"'), KEY, "source"),
        (VALUE.replace(b'"sentiment"', b'"confidence"'), KEY, "unknown field `confidence`"),
        (VALUE[:-1] + b',"source":"tests"}', KEY, "'source' stands twice"),
        (VALUE.replace(b'"schema_version":1', b'"schema_version":0'), KEY, "schema_version is 0"),
        (VALUE.replace(str(EVENT.created_at.year).encode(), b"0001"), KEY, None),
        (VALUE.replace(b'"timestamp":"2', b'"timestamp":"0001-01-01T00:00:00+09:00","x":"'), KEY, "unknown field"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_is_no_feedback_is_refused_with_a_reason(value: bytes, key: bytes, reason: str | None) -> None:
    if reason is None:
        assert decoded(value, key)
        return
    with pytest.raises(InvalidEvent, match=reason):
        decoded(value, key)


def test_feedback_of_a_later_contract_or_version_is_not_judged() -> None:
    for value, head in (
        (VALUE.replace(b'"schema_version":1', b'"schema_version":2'), ()),
        (VALUE, (("bdlab-contract", b"2"),)),
    ):
        with pytest.raises(EventTooNew):
            decoded(value, KEY, *head)
    later = FeedbackCodec(later_reviews())
    made = later.make(uuid7(), later.given(prediction_id=EVENT.prediction_id, prediction=1.0), source="tests")
    assert ("bdlab-contract", b"2") in headers(made, source="/bdlab/serve", traceparent="t")


def test_an_idempotency_key_and_the_same_feedback_give_the_same_id() -> None:
    def given(**fields: Any) -> Any:
        return msgspec.convert({"prediction_id": KEY.decode()} | fields, FEEDBACK.given)

    many = ({"prediction": 2}, {"prediction": 2.0, "sentiment": None}, {"prediction": 3}, {"sentiment": "positive"})
    ids = {FEEDBACK.idempotent_id("k", given(**each)) for each in many}
    assert len(ids) == 3
    assert {found.version for found in ids} == {8}
    assert FEEDBACK.idempotent_id("l", given(prediction=2)) not in ids
    with pytest.raises(msgspec.ValidationError, match="none of prediction, sentiment"):
        given(source="shop")


def test_what_is_given_says_who_and_when() -> None:
    when = datetime(2026, 1, 31, tzinfo=UTC)
    given = FEEDBACK.given(prediction_id=EVENT.prediction_id, prediction=1.0, source="shop", created_at=when)
    made = FEEDBACK.make(uuid7(), given, source="serve")
    assert (made.source, made.created_at) == ("shop", when)
    assert (EVENT.source, EVENT.created_at) == ("tests", EVENT.timestamp)
