"""The prediction event: what is on the topic, and JSON both ways. Pure."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from bdlab.errors import EventTooNew, InvalidEvent, InvalidInput

SCHEMA_VERSION = 1
CONTRACT_VERSION = 1
"""The number of the newest contract that this version reads; without CONTRACT_HEADER it is 1."""
CONTRACT_HEADER = "bdlab-contract"
"""Header of an event whose contract is not the first one: the contract's number, in decimal ASCII."""
EVENT_TYPE = "io.bdlab.prediction.v1"

FEW_TERMS = 0.5
"""A model that knows a smaller share of a review's words says little; reviews like its own are above."""

_BAD_STARS, _GOOD_STARS = 2.5, 3.5

MAX_COUNT = 2**31 - 1
"""Postgres keeps the helpfulness counts as `integer`."""

Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Sentiment = Literal["negative", "positive"]


class Review(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={
        "helpfulness_numerator": "HelpfulnessNumerator",
        "helpfulness_denominator": "HelpfulnessDenominator",
    },
):
    """What is predicted from. The helpfulness columns keep the names of the Amazon reviews' CSV."""

    text: Annotated[str, Meta(min_length=1)]
    summary: str = ""
    helpfulness_numerator: Count = 1
    helpfulness_denominator: Count = 1


class Term(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A term of the review and what it added to the rating, in stars."""

    term: str
    weight: float


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """What a scorer makes of a review.

    `prediction` is the expected rating in stars, 1 to 5; `confidence` is the probability, 0.5 to 1, of
    `sentiment`; `explanation` has the strongest terms first. `known_terms` is the share, 0 to 1, of the
    review's different words that the model knows; None for a model that does not tell.
    """

    prediction: float
    sentiment: Sentiment
    confidence: float
    explanation: tuple[Term, ...] = ()
    known_terms: float | None = None

    @property
    def warning(self) -> str:
        """Why the score says little; empty for one that can be taken at its word."""
        reasons = []
        if self.known_terms is not None and self.known_terms < FEW_TERMS:
            reasons.append(f"the model knows {self.known_terms:.0%} of the review's words")
        if self.prediction > _GOOD_STARS and self.sentiment == "negative":
            reasons.append(f"{self.prediction:.1f} stars and a negative sentiment contradict each other")
        if self.prediction < _BAD_STARS and self.sentiment == "positive":
            reasons.append(f"{self.prediction:.1f} stars and a positive sentiment contradict each other")
        return "; ".join(reasons)


class PredictionEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scored review. `created_at` is when it was scored, `timestamp` when it was handed to the broker."""

    id: UUID
    summary: str
    text: Annotated[str, Meta(min_length=1)]
    helpfulness_numerator: Count
    helpfulness_denominator: Count
    prediction: Annotated[float, Meta(ge=1, le=5)]
    sentiment: Sentiment
    confidence: Annotated[float, Meta(ge=0, le=1)]
    explanation: tuple[Term, ...]
    model: Annotated[str, Meta(min_length=1, max_length=200)]
    created_at: Annotated[datetime, Meta(tz=True)]
    timestamp: Annotated[datetime, Meta(tz=True)]
    schema_version: int = SCHEMA_VERSION


class Position(msgspec.Struct, frozen=True, order=True):
    """Where an event is. A log that was lost and made again has another `cluster_id`, a topic that was
    deleted and made again another `topic_id`; that is empty if the broker has none or nobody has asked.
    """

    cluster_id: str
    topic: str
    partition: int
    offset: int
    topic_id: str = ""


Headers = Sequence[tuple[str, bytes | None]]


class Record(msgspec.Struct, frozen=True):
    """One record of the topic as it came, not yet decoded."""

    position: Position
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


_CONTRACT_DIGITS = 9
_MAX_SOURCE = 200
_LAST_WORD = re.compile(rb"(?:^|/)([a-z][a-z0-9_-]{0,39})\Z")

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(PredictionEvent)


def uuid7() -> UUID:
    """A new UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix time in milliseconds, then random bits."""
    random = int.from_bytes(os.urandom(10))
    value = (time.time_ns() // 1_000_000) << 80 | random
    return _stamp(value, version=7)


def idempotent_id(key: str, review: Review) -> UUID:
    """The UUIDv8 (RFC 9562, section 5.8) of an Idempotency-Key and the canonical review.

    The same key with the same review is the same prediction; with another review it is another one.
    """
    digest = hashlib.sha256(b"\x00".join((key.encode("utf-8", "surrogatepass"), _encoder.encode(review))))
    return _stamp(int.from_bytes(digest.digest()[:16]), version=8)


def _stamp(value: int, *, version: int) -> UUID:
    value &= ~(0xF000 << 64) & ~(0xC000 << 48)
    return UUID(int=value | version << 76 | 0x8000 << 48)


def check_storable(review: Review) -> None:
    """Raise InvalidInput, naming the field, for text that neither JSON nor Postgres can hold."""
    for field in ("text", "summary"):
        value: str = getattr(review, field)
        if "\x00" in value:
            raise InvalidInput(f"field {field!r} holds a NUL character (U+0000), which cannot be stored")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"field {field!r} holds half of a surrogate pair (U+{ord(value[error.start]):04X}) "
                f"at character {error.start}, which is no valid Unicode text"
            ) from None
    if not review.text.strip():
        raise InvalidInput("field 'text' is empty: there is nothing to predict from")


def now() -> datetime:
    return datetime.now(UTC)


def make_event(event_id: UUID, review: Review, score: Score, *, model: str) -> PredictionEvent:
    """The event of a scored review, stamped with the present time (UTC)."""
    moment = now()
    return PredictionEvent(
        id=event_id,
        summary=review.summary,
        text=review.text,
        helpfulness_numerator=review.helpfulness_numerator,
        helpfulness_denominator=review.helpfulness_denominator,
        prediction=score.prediction,
        sentiment=score.sentiment,
        confidence=score.confidence,
        explanation=score.explanation,
        model=model,
        created_at=moment,
        timestamp=moment,
    )


def encode(event: PredictionEvent) -> tuple[bytes, bytes]:
    """Key and value of the event on the topic."""
    return str(event.id).encode(), _encoder.encode(event)


def headers(event: PredictionEvent, *, source: str, traceparent: str) -> list[tuple[str, bytes | None]]:
    """CloudEvents 1.0 headers in Kafka's binary mode, and the W3C trace context.

    `source` is a URI reference of the producer; a row keeps its last word.
    Source: CloudEvents' Kafka protocol binding, section 3.2.
    """
    return [
        ("ce_id", str(event.id).encode()),
        ("ce_type", EVENT_TYPE.encode()),
        ("ce_source", source.encode()),
        ("ce_specversion", b"1.0"),
        ("ce_time", event.timestamp.isoformat().encode()),
        ("content-type", b"application/json"),
        ("traceparent", traceparent.encode()),
    ]


def source_of(head: Headers) -> str | None:
    """The last word of an event's source, which names the command or the purpose that it came from: `serve`
    of `/bdlab/serve`. None where there is none.
    """
    for name, value in head:
        if name == "ce_source" and value is not None and len(value) <= _MAX_SOURCE:
            return _last_word(value)
    return None


@lru_cache(maxsize=256)
def _last_word(source: bytes) -> str | None:
    found = _LAST_WORD.search(source)
    return found[1].decode() if found else None


def new_traceparent() -> str:
    """A new root of a trace, sampled (W3C Trace Context, section 3.2)."""
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"


def decode(record: Record) -> PredictionEvent:
    """The event in `record`. Raises InvalidEvent with a reason that a person understands, and EventTooNew.

    An event that a later version wrote is never called invalid: that version will read it.
    """
    _refuse_newer("the header " + CONTRACT_HEADER, _contract(record.headers), CONTRACT_VERSION)
    if record.value is None:
        raise InvalidEvent("the record has no value (a tombstone); the topic is never compacted")
    if record.key is None:
        raise InvalidEvent("the record has no key; it has to be the prediction's id")
    try:
        event = _decoder.decode(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidEvent(_reason(record.value, error)) from error
    if event.schema_version != SCHEMA_VERSION:
        raise InvalidEvent(_foreign(event.schema_version))
    if _encoder.encode(event) != record.value:
        _refuse_repeated_fields(record.value)
    if record.key != str(event.id).encode():
        raise InvalidEvent(f"the record's key is not the event's id {event.id}")
    for field in ("text", "summary", "model"):
        if "\x00" in getattr(event, field):
            raise InvalidEvent(f"field {field!r} holds a NUL character (U+0000), which Postgres cannot store")
    for field in ("created_at", "timestamp"):
        _refuse_beyond_calendar(field, getattr(event, field))
    if any("\x00" in term.term for term in event.explanation):
        raise InvalidEvent("field 'explanation' holds a NUL character (U+0000), which Postgres cannot store")
    return event


def _reason(value: bytes, error: Exception) -> str:
    if isinstance(error, msgspec.ValidationError):
        version = _foreign_schema_version(value)
        return f"not a prediction event: {error}" if version is None else _foreign(version)
    return f"not UTF-8 JSON: {error}"


def _foreign(schema_version: int) -> str:
    """Why another version than this one's is no event; raises EventTooNew for a later one."""
    _refuse_newer("schema_version", schema_version, SCHEMA_VERSION)
    return f"schema_version is {schema_version}, and this version reads {SCHEMA_VERSION} only"


def _refuse_newer(name: str, found: int, known: int) -> None:
    if found > known:
        raise EventTooNew(
            f"{name} is {found}, and this version of bdlab reads no later one than {known}",
            hint="Put the version of bdlab that writes such events in its place.",
        )


def _contract(headers: Headers) -> int:
    for name, value in headers:
        if name == CONTRACT_HEADER:
            if value is None or not value.isdigit() or len(value) > _CONTRACT_DIGITS:
                raise InvalidEvent(f"the header {CONTRACT_HEADER} is no contract's number")
            return int(value)
    return 1


def _foreign_schema_version(value: bytes) -> int | None:
    try:
        found = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    version = found.get("schema_version") if isinstance(found, Mapping) else None
    return version if type(version) is int and version != SCHEMA_VERSION else None


def _refuse_beyond_calendar(field: str, moment: datetime) -> None:
    """A moment may be in the years 1 to 9999 where it was written, and in neither of them in UTC."""
    try:
        moment.astimezone(UTC)
    except OverflowError:
        raise InvalidEvent(f"field {field!r}, {moment.isoformat()}, is beyond the years 1 to 9999") from None


def _refuse_repeated_fields(value: bytes) -> None:
    """JSON lets a field stand twice, and which one counts is anybody's guess: refuse it.

    Only for events that this version did not write itself, since those are canonical.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(items)
        if len(fields) != len(items):
            twice = next(name for name, times in Counter(name for name, _ in items).items() if times > 1)
            raise InvalidEvent(f"field {twice!r} stands twice in the JSON")
        return fields

    json.loads(value, object_pairs_hook=pairs)
