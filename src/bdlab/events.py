"""The prediction event of a contract: its key, value and headers on the topic, and who scores its input. Pure."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid8

from bdlab.contract import Contract, Field
from bdlab.contract.fields import Copier, prediction_types
from bdlab.errors import EventTooNew, InvalidEvent
from bdlab.plain_json import PlainJson, object_of

SCHEMA_VERSION = 1
CONTRACT_HEADER = "bdlab-contract"
"""The header with an event's contract number, in decimal ASCII; contract 1 needs no header."""


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """The input of a prediction: the base of a contract's inputs, which have its fields."""

    if TYPE_CHECKING:  # its fields are known when the contract is

        def __init__(self, **fields: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...


class Term(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A term of the review, and the stars that it added to the rating."""

    term: str
    weight: float


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """The result of scoring an input: the base of a contract's scores, which have its outputs. `explanation` has the
    strongest terms first. `known_terms` is the share, 0 to 1, of the different words of the input that the model knows,
    or None if the model does not report it; `warning` is why the score is not reliable, None if there is no reason for
    doubt."""

    explanation: tuple[Term, ...] = ()
    known_terms: float | None = None
    warning: str | None = None

    if TYPE_CHECKING:  # its fields are known when the contract is

        def __init__(self, **fields: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a record says: the base of the events of each kind. `timestamp` is when it was handed to the producer."""

    CONTRACT: ClassVar[int] = 1
    """The contract's number."""
    KIND: ClassVar[str] = "prediction"
    KEY: ClassVar[str] = "id"
    """The field that is the record's key."""

    if TYPE_CHECKING:  # an event's own type has these between its fields
        id: UUID
        created_at: datetime
        timestamp: datetime
        schema_version: int

        def __init__(self, **fields: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...


E = TypeVar("E", bound=Event)


class PredictionEvent(Event, frozen=True, kw_only=True, gc=False):
    """A scored input: the base of a contract's events, which have its fields. `created_at` is when it was scored."""

    if TYPE_CHECKING:
        explanation: tuple[Term, ...]
        model: str


class Position(msgspec.Struct, frozen=True, order=True, gc=False):
    """The position of a record. A log that was lost and created again has another `cluster_id`; a topic that
    was deleted and created again has another `topic_id`, which is empty if it is not known."""

    cluster_id: str
    topic: str
    partition: int
    offset: int
    topic_id: str = ""


Headers = Sequence[tuple[str, bytes | None]]


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record of the topic, not decoded yet. `appended_ms` is when the broker appended it, in ms since 1970 by its
    clock; None if its topic keeps the producer's time. `read_at` is when it was read, None if nobody noted it."""

    position: Position
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    appended_ms: int | None = None
    read_at: datetime | None = None


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where an event comes from, as its record's headers tell it; empty or None if it is not known. `source` is a
    CloudEvents source. `received_at` is when the head of its request came, in UTC, and `key_name` the name of the
    request's API key."""

    traceparent: str = ""
    source: str = ""
    received_at: datetime | None = None
    key_name: str | None = None


UNKNOWN = Origin()
Told = tuple[bytes | None, bytes | None, bytes | None, bytes | None, bytes | None]
"""What a record's headers tell: the contract's number, of which nothing is checked; and for the row the source (the
last word of `ce_source`: `serve` of `/bdlab/serve`), the key's name, the trace id, and when the request came (µs since
1970, in decimal), each None if it is missing or not valid."""
TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""A `traceparent` (W3C Trace Context, section 3.2)."""
_FIRST, _CONTRACT_DIGITS, _MAX_SOURCE = b"1", 9, 200
_LAST_WORD = re.compile(rb"(?:^|/)([a-z][a-z0-9_-]{0,39})\Z")
_TRACE_LENGTH, _HEX, _NO_TRACE = 55, b"0123456789abcdef", b"0" * 32
_RECEIVED_HEADER, _KEY_HEADER = "bdlab-received-us", "bdlab-key-name"
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_US_DIGITS = 16  # up to the year 2286
_KEY_NAME = re.compile(rb"[!-\[\]-~]{1,100}")  # what COPY reads as it stands
_encoder = msgspec.json.Encoder()
_NUL = b"\\u0000"


class Codec(Generic[E]):
    """Decodes the events of one kind of a contract; `event` is their type, a subclass of Event."""

    def __init__(self, contract: Contract, event: type[E], fields: Iterable[Field]) -> None:
        """`fields` are those of the contract that `event` has."""
        self.contract = contract
        self.event = event
        self._decoder = msgspec.json.Decoder(event)
        self._key = attrgetter(event.KEY)
        self._moments = [*(field.column for field in fields if field.kind == "date-time"), "created_at", "timestamp"]

    @cached_property
    def plain(self) -> PlainJson:
        """Return what finds an event's fields without decoding."""
        return PlainJson(self.event)

    def idempotent_id(self, key: str, given: Any) -> UUID:
        """Return the UUIDv8 (RFC 9562, section 5.8) of an Idempotency-Key and what was given with it, as JSON. The same
        key with the same gives the same id; with anything else it gives another id."""
        digest = hashlib.sha256(b"\x00".join((key.encode("utf-8", "surrogatepass"), _encoder.encode(given)))).digest()
        number = int.from_bytes(digest[:16])
        return uuid8(number >> 80, number >> 64 & 0xFFF, number & (1 << 62) - 1)

    def decode(self, record: Record, told: Told | None = None) -> tuple[E, re.Match[bytes] | None]:
        """Return the event in `record`, and its fields as PlainJson finds them; `told` is what its headers tell. Raises
        InvalidEvent with the reason, and EventTooNew: an event of a later version or contract is never reported as
        invalid, since those who know that can read it."""
        said = (told or read_headers(record.headers))[0]
        number = 1 if said == _FIRST else _contract(said)
        if number > self.event.CONTRACT:
            hint = "Run `bdlab migrate` with the newer model's card; consumers then go on by themselves."
            why = f"the header {CONTRACT_HEADER} is {number}, and the contract here is {self.event.CONTRACT}"
            raise EventTooNew(why, hint=hint)
        if record.value is None:
            raise InvalidEvent("the record has no value: it is a tombstone, and the topic is never compacted")
        if record.key is None:
            raise InvalidEvent("the record has no key; the key has to be the prediction's id")
        try:
            event = self._decoder.decode(record.value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if not isinstance(error, msgspec.ValidationError):
                raise InvalidEvent(f"not UTF-8 JSON: {error}") from error
            _check_version(_schema_version(record.value))
            raise InvalidEvent(f"not a {self.event.KIND} event: {error}") from error
        if event.schema_version != SCHEMA_VERSION:
            _check_version(event.schema_version)
        fields = self.plain(record.value, event)
        if fields is None:
            self._check_unusual(record.value, event)
        if _encoder.encode(key := self._key(event))[1:-1] != record.key:  # a fifth of the cost of str(UUID)
            raise InvalidEvent(f"the record's key is not the event's {event.KEY} {key}")
        return event, fields

    def _check_unusual(self, value: bytes, event: E) -> None:
        """Raise InvalidEvent if JSON that PlainJson does not read has something that cannot be stored."""
        if _encoder.encode(event) != value:
            try:
                json.loads(value, object_pairs_hook=object_of)
            except ValueError as error:
                raise InvalidEvent(f"field {error}") from None
        # JSON has no other way to write U+0000; an escaped backslash may stand before the same characters.
        for field in event.__struct_fields__ if _NUL in value else ():
            if _NUL in _encoder.encode(getattr(event, field)).replace(rb"\\", b""):
                raise InvalidEvent(f"field {field!r} holds a NUL character (U+0000), which Postgres cannot store")
        for name in self._moments:
            moment = getattr(event, name)
            try:
                _ = moment and moment.astimezone(UTC)
            except OverflowError:
                why = f"field {name!r}, {moment.isoformat()}, is not within the years 1 to 9999 in UTC"
                raise InvalidEvent(why) from None


class EventCodec(Codec[PredictionEvent]):
    """Makes, encodes and decodes the predictions of a contract, whose types it has. `input`, `score` and `event` are
    subclasses of Input, Score and PredictionEvent."""

    def __init__(self, contract: Contract) -> None:
        self.input, self.score, kind = prediction_types(
            contract, Input, Score, PredictionEvent, explanation=tuple[Term, ...], schema_version=SCHEMA_VERSION
        )
        super().__init__(contract, kind, contract)
        self._make = Copier(self.event, self.input, self.score)
        later = [field for field in contract.inputs if field.since > 1]
        self._canonical = [*contract.at(1).inputs, *later] if later else None

    def idempotent_id(self, key: str, given: Input) -> UUID:
        """Return the id as `Codec` does, of the canonical input: it has the fields of the first contract, then later
        ones that differ from their default."""
        found: Any = given
        if self._canonical:  # later fields would change the id of what was asked before they were there
            values = ((field, getattr(given, field.column)) for field in self._canonical)
            found = {field.name: value for field, value in values if field.since == 1 or value != field.default}
        return super().idempotent_id(key, found)

    def make(self, event_id: UUID, given: Input, score: Score, *, model: str) -> PredictionEvent:
        """Return the event of a scored input, with the present time (UTC)."""
        moment = datetime.now(UTC)
        return self._make(given, score, id=event_id, model=model, created_at=moment, timestamp=moment)


class Scorer(Protocol):
    """Scores inputs; may be called from several threads at once. `name` is in every event (`reviews@1.1.0`); `sha256`
    is of the file that it scores with; `codec` has the types of its inputs and scores, and their contract. If
    `blocking` is true, a call takes milliseconds, and many inputs in a call take little more than one: an event loop
    should make calls in a thread, with the inputs that came in during the last call. If `forkable` is false, it has
    threads of its own, without which it would wait for ever in a forked process."""

    name: str
    sha256: str
    blocking: bool
    forkable: bool
    codec: EventCodec

    def score(self, given: Input, /) -> Score: ...
    def score_many(self, inputs: Sequence[Input], /) -> list[Score]: ...


_codecs: dict[bytes, EventCodec] = {}


def codec_of(contract: Contract) -> EventCodec:
    """Return the codec of a contract: the same for the same, so that its values can be compared."""
    document = _encoder.encode(contract.document)
    return _codecs.get(document) or _codecs.setdefault(document, EventCodec(contract))


def encode(event: Event) -> tuple[bytes, bytes]:
    """Return the record's key and value."""
    return str(getattr(event, event.KEY)).encode(), _encoder.encode(event)


def headers(
    event: Event, *, source: str, traceparent: str, origin: Origin = UNKNOWN, key: bytes = b""
) -> list[tuple[str, bytes | None]]:
    """Return the record's headers: CloudEvents 1.0 in Kafka's binary mode, the W3C trace context, and its request's.
    `source` is a URI reference of the producer; the row keeps its last word. `key` is that of `encode`. What `origin`
    says of the request is not in the JSON: consumers from before it refuse a field that they do not know. Source:
    CloudEvents' Kafka protocol binding, section 3.2."""
    received, name = origin.received_at, origin.key_name
    return [
        ("ce_id", (event.KEY == "id" and key) or str(event.id).encode()),
        *_constant_headers(event.KIND, source),
        ("ce_time", event.timestamp.isoformat().encode()),
        ("traceparent", traceparent.encode()),
        *([(_RECEIVED_HEADER, str(microseconds(received)).encode())] if received else ()),
        *([(_KEY_HEADER, name.encode())] if name else ()),
        *([(CONTRACT_HEADER, str(event.CONTRACT).encode())] if event.CONTRACT > 1 else ()),
    ]


@lru_cache(maxsize=16)
def _constant_headers(kind: str, source: str) -> tuple[tuple[str, bytes], ...]:
    fixed = {"ce_type": f"io.bdlab.{kind}.v1", "ce_source": source, "ce_specversion": "1.0"}
    return tuple((name, value.encode()) for name, value in (fixed | {"content-type": "application/json"}).items())


def read_headers(headers: Headers) -> Told:
    """Return what the headers tell, in one pass, as this is done for each record. The first of a name counts."""
    contract: bytes | None = _FIRST
    source = key = trace = received = None
    for name, value in reversed(headers):
        if name == "ce_source":
            source = _last_word(value) if value and len(value) <= _MAX_SOURCE else None
        elif name == "traceparent":
            trace = _trace_id(value) if value else None
        elif name == _RECEIVED_HEADER:
            received = value if value and value.isdigit() and len(value) <= _US_DIGITS else None
        elif name == _KEY_HEADER:
            key = value if value and _KEY_NAME.fullmatch(value) else None
        elif name == CONTRACT_HEADER:
            contract = value
    return contract, source, key, trace, received


def _trace_id(traceparent: bytes) -> bytes | None:
    """Return the trace id, by a check that takes half the time of the pattern."""
    found = traceparent[3:35]
    plain = len(traceparent) == _TRACE_LENGTH and not found.translate(None, _HEX)
    return found if plain and found != _NO_TRACE else None


@lru_cache(maxsize=256)
def _last_word(source: bytes) -> bytes | None:
    return found[1] if (found := _LAST_WORD.search(source)) else None


def microseconds(moment: datetime) -> int:
    """Return the microseconds from 1970 to a moment with a time zone."""
    return (moment - _EPOCH) // _MICROSECOND


def new_traceparent() -> str:
    """Return the `traceparent` of a new, sampled trace (W3C Trace Context, section 3.2)."""
    number = os.urandom(24).hex()
    return f"00-{number[:32]}-{number[32:]}-01"


def _check_version(schema_version: int) -> None:
    """Raise InvalidEvent for an earlier version, EventTooNew for a later one."""
    if schema_version > SCHEMA_VERSION:
        why = f"schema_version is {schema_version}, and this version of bdlab reads none later than {SCHEMA_VERSION}"
        raise EventTooNew(why, hint="Install the version of bdlab that writes such events.")
    if schema_version != SCHEMA_VERSION:
        raise InvalidEvent(f"schema_version is {schema_version}, and this version reads only {SCHEMA_VERSION}")


def _contract(number: bytes | None) -> int:
    if number is None or not number.isdigit() or len(number) > _CONTRACT_DIGITS:
        raise InvalidEvent(f"the header {CONTRACT_HEADER} is not a contract's number")
    return int(number)


def _schema_version(value: bytes) -> int:
    try:
        found = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return SCHEMA_VERSION
    version = found.get("schema_version") if isinstance(found, Mapping) else None
    return version if type(version) is int else SCHEMA_VERSION
