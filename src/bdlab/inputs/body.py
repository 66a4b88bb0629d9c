"""Reviews from JSON: valid ones are decoded fast, and of others each problem is reported."""

from __future__ import annotations

import codecs
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Generic, NoReturn, TypeVar, cast

import msgspec

from bdlab.errors import InvalidInput
from bdlab.events import MAX_COUNT, Review
from bdlab.inputs.schema import COUNT_FIELDS, FIELDS, TEXT_FIELDS, misspelt

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

BODY = "body"
SHOWN_PROBLEMS = 100


class Repeating(dict[str, Any]):
    """A JSON object that repeats names; `names` has these."""

    names: frozenset[str] = frozenset()


_KINDS = {
    dict: "an object",
    Repeating: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    type(None): "null",
}


class FieldProblem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is wrong with one field. `index` is the review's place in a list, from 0."""

    field: str
    why: str
    index: int | None = None

    def __str__(self) -> str:
        where = "" if self.index is None else f"review {self.index}: "
        return f"{where}field {self.field!r} {self.why}" if self.field != BODY else f"{where}{self.why}"


class InputInvalid(InvalidInput):
    """A review with invalid fields; `problems` has one entry a field, at most SHOWN_PROBLEMS."""

    def __init__(self, problems: Sequence[FieldProblem], *, hint: str = "") -> None:
        self.problems = tuple(problems[:SHOWN_PROBLEMS])
        more = len(problems) - len(self.problems)
        shown = [*map(str, self.problems), *([f"and {more} more"] if more else [])]
        super().__init__("; ".join(shown), hint=hint)


class _Decoders(Generic[S]):
    """What it takes to decode valid JSON objects of a struct type fast, made from its fields once."""

    def __init__(self, kind: type[S]) -> None:
        fields = cast("msgspec.inspect.StructType", msgspec.inspect.type_info(kind)).fields
        self.one = msgspec.json.Decoder(kind)
        self.many = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        self._quoted = tuple(f'"{field.encode_name}"'.encode() for field in fields)
        self._texts = tuple(
            (field.encode_name, attrgetter(field.name))
            for field in fields
            if isinstance(field.type, msgspec.inspect.StrType)
        )

    def may_repeat(self, data: bytes, objects: int) -> bool:
        """Return whether a field's name is there more often than objects; a value may look like it too."""
        count = data.count
        for name in self._quoted:  # noqa: SIM110 - any() takes twice as long
            if count(name) > objects:
                return True
        return False

    def text_problems(self, value: S) -> list[FieldProblem]:
        return [
            FieldProblem(name, why) for name, text in self._texts if (why := _text_problem(text(value), name))
        ]


_reviews = _Decoders(Review)


def decode(data: bytes) -> Review:
    """Return the review in a JSON object. Other fields, and a byte order mark, are ignored.

    Raises InputInvalid with every field that is wrong, misspelt or there twice.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    error = None
    try:
        review = _reviews.one.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as found:
        error = found
    if error or _reviews.may_repeat(data, 1):
        review = review_of(parse(data), error)
    check(review)
    return review


def decode_plain(data: bytes) -> Review | None:
    """Return the review in a JSON object with the fields of the API alone; None if it takes a closer look."""
    try:
        review = _reviews.one.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if _reviews.may_repeat(data, 1):
        return None
    check(review)
    return review


def decode_many(data: bytes, *, limit: int) -> list[Review]:
    """Return the reviews in a JSON array of 1 to `limit` objects.

    Raises InputInvalid with the index of each invalid review and its fields.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    error = None
    try:
        reviews = _reviews.many.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as found:
        error = found
    if error or _reviews.may_repeat(data, len(reviews)):
        values = parse(data)
        if not isinstance(values, list):
            why = f"has to be a JSON array of reviews, and is {_kind(values)}"
            raise InputInvalid([FieldProblem(BODY, why)])
        _check_number(values, limit)
        _raise_if_any(_indexed(values, find_problems))
        reviews = [review_of(value, error) for value in values]
    _check_number(reviews, limit)
    _raise_if_any(_indexed(reviews, _reviews.text_problems))
    return reviews


def _indexed(values: Sequence[T], find: Callable[[T], Iterable[FieldProblem]]) -> list[FieldProblem]:
    return [
        msgspec.structs.replace(problem, index=index)
        for index, value in enumerate(values)
        for problem in find(value)
    ]


def _raise_if_any(problems: Sequence[FieldProblem]) -> None:
    if problems:
        raise InputInvalid(problems)


def _check_number(reviews: Sequence[object], limit: int) -> None:
    if not 1 <= len(reviews) <= limit:
        raise InputInvalid([FieldProblem(BODY, f"holds {len(reviews)} reviews; it takes 1 to {limit}")])


def check(review: Review) -> None:
    """Raise InputInvalid for a text that is empty, or that JSON or Postgres cannot hold."""
    _raise_if_any(_reviews.text_problems(review))


def find_problems(value: Any) -> list[FieldProblem]:
    """Return why the decoded JSON `value` is not a review; an empty list if it is one."""
    if not isinstance(value, Mapping):
        return [FieldProblem(BODY, f"has to be a JSON object with the field 'text', and is {_kind(value)}")]
    problems = [
        FieldProblem(name, f"is no field of a review; is {meant!r} meant?")
        for name in value
        if name not in FIELDS and (meant := misspelt(name))
    ]
    reasons = {field: _text_problem(value.get(field, ""), field) for field in TEXT_FIELDS}
    reasons |= {field: _count_problem(value.get(field, 1)) for field in COUNT_FIELDS}
    if "text" not in value:
        reasons["text"] = "is missing"
    problems += [FieldProblem(field, why) for field, why in reasons.items() if why]
    if isinstance(value, Repeating):
        problems += [FieldProblem(field, "stands more than once") for field in FIELDS if field in value.names]
    return problems


def _text_problem(value: Any, field: str) -> str:
    if not isinstance(value, str):
        return f"has to be a string, and is {_kind(value)}"
    if "\x00" in value:
        return f"holds a NUL character (U+0000) at character {value.index(chr(0))}, which cannot be stored"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return (
            f"holds half of a surrogate pair (U+{ord(value[error.start]):04X}) at character {error.start}, "
            "which is not valid Unicode text"
        )
    if field == "text" and not value.strip():
        return "is empty: there is nothing to predict from"
    return ""


def _count_problem(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return f"has to be an integer, and is {_kind(value)}"
    if not 0 <= value <= MAX_COUNT:
        shown = str(value) if abs(value) < 10**20 else f"a number of {int(math.log10(abs(value))) + 1} digits"
        return f"has to be between 0 and {MAX_COUNT}, and is {shown}"
    return ""


def _kind(value: Any) -> str:
    if isinstance(value, float):
        return "a number with a fraction"
    return _KINDS.get(type(value), "a number")


def review_of(value: Any, error: Exception | None = None) -> Review:
    """Return the review in a decoded JSON `value`; `error` is why msgspec did not decode it.

    Raises InputInvalid with every field that is wrong. Other fields are ignored.
    """
    _raise_if_any(find_problems(value))
    if isinstance(error, RecursionError):
        raise InputInvalid([FieldProblem(BODY, "is nested too deeply")])
    try:
        return msgspec.convert({field: value[field] for field in FIELDS if field in value}, Review)
    except msgspec.ValidationError as found:
        raise InputInvalid([FieldProblem(BODY, f"is not a review: {found}")]) from None


def parse(data: bytes) -> Any:
    """Return the JSON value, with Repeating for an object that repeats a name. Raises InputInvalid."""
    try:
        return json.loads(
            data.decode(), parse_float=_number, parse_constant=_no_constant, object_pairs_hook=_object
        )
    except UnicodeDecodeError as found:
        why = f"is not UTF-8: byte 0x{data[found.start]:02x} at offset {found.start}"
    except json.JSONDecodeError as found:
        line = f"line {found.lineno} " if b"\n" in data.strip() else ""
        why = f"is not valid JSON: {found.msg} at {line}column {found.colno}"
    except RecursionError:
        why = "is nested too deeply"
    except ValueError as found:
        why = f"is not valid JSON: {found}"
    if not data.strip():
        why = "is empty; send a JSON object with the field 'text'"
    raise InputInvalid([FieldProblem(BODY, why)])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    marked = Repeating(found)
    marked.names = frozenset(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    return marked


def _number(text: str) -> float:
    """Return an integer if there is no fraction, as in JSON Schema: 5.0 and 5 give the same id."""
    number = float(text)
    return int(number) if number.is_integer() else number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
