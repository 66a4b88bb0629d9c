"""The event's ids and its JSON both ways."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from bdlab import events
from bdlab.errors import EventTooNew, InvalidEvent, InvalidInput
from bdlab.events import Position, PredictionEvent, Record, Term
from bdlab.serving.responses import Answers, encode_json
from tests.samples import REVIEW, REVIEWS, Review, ReviewScore, event_of

_POSITION = Position("cluster", "predictions", 0, 0)
_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1)


def _event(text: str = "fine", summary: str = "") -> PredictionEvent:
    score = ReviewScore(prediction=4.5, sentiment="positive", confidence=0.9, explanation=(Term("fine", 0.5),))
    return REVIEWS.make(uuid7(), Review(text=text, summary=summary), score, model="reviews@1.0.0")


def _record(value: bytes | None, key: bytes | None, headers: events.Headers = ()) -> Record:
    return Record(_POSITION, key, value, headers)


@given(_text, _text)
def test_an_event_survives_the_topic(text: str, summary: str) -> None:
    event = _event(text, summary)
    key, value = events.encode(event)
    assert event_of(_record(value, key)) == event


@given(_text, _text, st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.floats(1, 5))
def test_an_event_and_its_response_have_the_fields_that_the_review_and_its_score_have(
    text: str, summary: str, helpful: int, votes: int, stars: float
) -> None:
    review = Review(text=text, summary=summary, helpfulness_numerator=helpful, helpfulness_denominator=votes)
    score = ReviewScore(
        prediction=stars, sentiment="positive", confidence=0.9, explanation=(Term(text, 0.5),), known_terms=0.2
    )
    event = REVIEWS.make(uuid7(), review, score, model="reviews@1.0.0")
    for part in (review, score):
        common = set(part.__struct_fields__) & set(event.__struct_fields__)
        assert {name: getattr(event, name) for name in common} == {name: getattr(part, name) for name in common}
    sent = msgspec.json.decode(encode_json(Answers(REVIEWS)(event, score)))
    on_topic = msgspec.json.decode(events.encode(event)[1])
    common = (sent.keys() & on_topic.keys()) - {"created_at"}
    assert {name: sent[name] for name in common} == {name: on_topic[name] for name in common}
    assert sent.keys() - common == {"created_at", "known_terms", "warning"}
    assert sent["created_at"] == event.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert (sent["known_terms"], sent["warning"]) == (score.known_terms, score.warning)


def test_a_uuid7_carries_the_time_and_sorts_by_it() -> None:
    before = time.time_ns() // 1_000_000
    ids = [uuid7() for _ in range(100)]
    after = time.time_ns() // 1_000_000
    assert {each.version for each in ids} == {7}
    assert {each.variant for each in ids} == {"specified in RFC 4122"}
    assert len(set(ids)) == 100
    assert all(before <= each.int >> 80 <= after for each in ids)


def test_the_same_key_and_review_are_the_same_prediction() -> None:
    review = Review(text="fine")
    first = REVIEWS.idempotent_id("order-7", review)
    assert first.version == 8
    assert first == REVIEWS.idempotent_id("order-7", Review(text="fine", summary=""))
    assert first != REVIEWS.idempotent_id("order-8", review)
    assert first != REVIEWS.idempotent_id("order-7", Review(text="fine!"))
    assert first != REVIEWS.idempotent_id("order-7", Review(text="fine", helpfulness_numerator=2))


def test_headers_are_cloudevents_in_binary_mode_with_a_trace() -> None:
    event = _event()
    trace = events.new_traceparent()
    headers = dict(events.headers(event, source="/bdlab/serve", traceparent=trace))
    assert headers["ce_id"] == str(event.id).encode()
    assert headers["ce_specversion"] == b"1.0"
    assert {"ce_type", "ce_source", "ce_time"} <= set(headers)
    assert headers["content-type"] == b"application/json"
    version, trace_id, span_id, flags = trace.split("-")
    assert (version, len(bytes.fromhex(trace_id)), len(bytes.fromhex(span_id)), flags) == ("00", 16, 8, "01")
    assert headers["traceparent"] == trace.encode()


@pytest.mark.parametrize(
    ("source", "word"),
    [
        (b"/bdlab/serve", "serve"),
        (b"/bdlab/predict", "predict"),
        (b"/bdlab/drill", "drill"),
        (b"https://shop.example/check-out", "check-out"),
        (b"crawler", "crawler"),
        (b"", None),
        (None, None),
        (b"/bdlab/", None),
        (b"/bdlab/Serve", None),
        (b"/bdlab/\xff", None),
        (b"/bdlab/a\tb", None),
        (b"/bdlab/serve\n", None),
        (b"/" + b"x" * 41, None),
        (b"/" * 500 + b"serve", None),
    ],
)
def test_the_source_is_the_last_word(source: bytes | None, word: str | None) -> None:
    told = events.read_headers([("other", b"/bdlab/demo"), ("ce_source", source)])
    assert told == (b"1", word and word.encode(), None, None, None)


@pytest.mark.parametrize(
    ("name", "value", "place", "found"),
    [
        ("traceparent", b"00-" + b"ab" * 16 + b"-" + b"1" * 16 + b"-01", 3, b"ab" * 16),
        ("traceparent", b"00-" + b"AB" * 16 + b"-" + b"1" * 16 + b"-01", 3, None),
        ("traceparent", b"00-" + b"0" * 32 + b"-" + b"1" * 16 + b"-01", 3, None),
        ("traceparent", b"00-" + b"ab" * 16 + b"-01", 3, None),
        ("traceparent", None, 3, None),
        ("bdlab-key-name", b"shop-1", 2, b"shop-1"),
        ("bdlab-key-name", b"a\tb", 2, None),
        ("bdlab-key-name", b"\\N", 2, None),
        ("bdlab-key-name", b"x" * 101, 2, None),
        ("bdlab-received-us", b"1769860800000001", 4, b"1769860800000001"),
        ("bdlab-received-us", b"17698608000000010", 4, None),
        ("bdlab-received-us", b"-1", 4, None),
        ("bdlab-received-us", b"2026-01-31T12:00:00Z", 4, None),
    ],
)
def test_what_a_row_keeps_of_a_header_is_valid_or_nothing(
    name: str, value: bytes | None, place: int, found: bytes | None
) -> None:
    told = events.read_headers([("other", b""), (name, value), (name, b"a second one")])
    assert told[place] == found
    assert set(told) <= {b"1", found, None}


def test_the_request_is_told_in_headers_and_not_in_the_json() -> None:
    event = _event()
    plain = events.headers(event, source="/bdlab/serve", traceparent="t")
    origin = events.Origin(received_at=datetime(2026, 1, 31, 12, 0, 0, 1, UTC), key_name="shop")
    told = events.headers(event, source="/bdlab/serve", traceparent="t", origin=origin)
    assert told == [*plain, ("bdlab-received-us", b"1769860800000001"), ("bdlab-key-name", b"shop")]
    assert REVIEWS.event.__struct_fields__ == tuple(json.loads(events.encode(event)[1]))


def test_without_a_source_there_is_none() -> None:
    assert events.read_headers([]) == (b"1", None, None, None, None)


_KEY, _VALUE = events.encode(_event("hello"))


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (None, _KEY, "no value"),
        (_VALUE, None, "no key"),
        (_VALUE, str(uuid4()).encode(), "key is not the event's id"),
        (b"", _KEY, "not UTF-8 JSON"),
        (b"\xff\xfe\x00", _KEY, "not UTF-8 JSON"),
        (_VALUE[:-5], _KEY, "not UTF-8 JSON"),
        (b"[" * 100_000, _KEY, "not"),
        (b'{"a":' * 100_000, _KEY, "unknown field `a`"),
        (b"5", _KEY, "Expected `object`"),
        (_VALUE.replace(b"4.5", b"NaN"), _KEY, "not UTF-8 JSON"),
        (_VALUE.replace(b"4.5", b"1e999"), _KEY, "Number out of range"),
        (_VALUE.replace(b"4.5", b"5.1"), _KEY, "<= 5.0 - at `$.prediction`"),
        (_VALUE.replace(b"4.5", b'"4.5"'), _KEY, "Expected `float`, got `str` - at `$.prediction`"),
        (_VALUE.replace(b'"hello"', b'"\\u0000"'), _KEY, "'text' holds a NUL"),
        (_VALUE.replace(b'"hello"', b'"\\ud800"'), _KEY, "surrogate"),
        (_VALUE.replace(b'"hello"', b'""'), _KEY, "`$.text`"),
        (_VALUE.replace(b'"text"', b'"texts"'), _KEY, "unknown field `texts`"),
        (_VALUE[:-1] + b',"text":"again"}', _KEY, "'text' stands twice"),
        (_VALUE.replace(b'"schema_version":1', b'"schema_version":0'), _KEY, "schema_version is 0"),
        (b'{"schema_version":-7,"other":1}', _KEY, "schema_version is -7"),
        (_VALUE.replace(b'"weight"', b'"unknown":1,"weight"', 1), _KEY, "unknown field `unknown`"),
        (_VALUE.replace(b'"helpfulness_numerator":1', b'"helpfulness_numerator":3000000000'), _KEY, "numerator"),
        (_VALUE.replace(b'"helpfulness_numerator":1', b'"helpfulness_numerator":true'), _KEY, "numerator"),
    ],
    # The bytes hold a random id, and tests are told apart by their names.
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_is_no_event_is_refused_with_a_reason(value: bytes | None, key: bytes | None, reason: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        event_of(_record(value, key))
    assert reason in caught.value.message


def test_an_event_with_other_white_space_is_still_an_event() -> None:
    assert event_of(_record(_VALUE.replace(b":", b": ", 1), _KEY)).id == UUID(_KEY.decode())


@pytest.mark.parametrize(
    ("value", "headers", "reason"),
    [
        (_VALUE.replace(b'"schema_version":1', b'"schema_version":2'), (), "schema_version is 2"),
        (b'{"schema_version":7,"other":1}', (), "schema_version is 7"),
        (_VALUE, (("bdlab-contract", b"2"),), "bdlab-contract is 2"),
        (b"\xff", (("bdlab-contract", b"41"),), "bdlab-contract is 41"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_an_event_of_a_later_version_is_not_judged(value: bytes, headers: events.Headers, reason: str) -> None:
    with pytest.raises(EventTooNew, match=reason):
        event_of(_record(value, _KEY, headers))


def test_the_first_contract_s_number_may_be_said_and_any_other_word_is_refused() -> None:
    assert event_of(_record(_VALUE, _KEY, (("bdlab-contract", b"1"),)))
    for word in (None, b"", b"two", b"-1", b"1" * 5000, "²".encode()):
        with pytest.raises(InvalidEvent, match="contract's number"):
            event_of(_record(_VALUE, _KEY, (("bdlab-contract", word),)))


def test_a_huge_event_is_checked_in_linear_work() -> None:
    names = b",".join(b'"n%d":0' % number for number in range(40_000))
    repeated = b",".join([b'"term":"a","weight":1'] * 20_000)
    for terms, reason in ((names, "unknown field"), (repeated, "'term' stands twice")):
        value = _VALUE.replace(b'"explanation":[', b'"explanation":[{%s},' % terms, 1)
        began = time.process_time()
        with pytest.raises(InvalidEvent, match=reason):
            event_of(_record(value, _KEY))
        # Quadratic work is a minute and more here.
        assert time.process_time() - began < 5


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_never_crash(value: bytes) -> None:
    with pytest.raises(InvalidEvent):
        event_of(_record(value, _KEY))


@pytest.mark.parametrize(
    ("review", "reason"),
    [
        (Review(text="a\x00b"), "'text' holds a NUL"),
        (Review(text="ok", summary="\ud800"), r"'summary' holds half of a surrogate pair \(U\+D800\)"),
        (Review(text="  \n"), "'text' is empty"),
    ],
)
def test_text_that_cannot_be_stored_is_refused_by_field(review: Review, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        REVIEW.given_of(msgspec.to_builtins(review))
