"""Reviews from JSON: fast where they are right, and exact about what is wrong where they are not."""

from __future__ import annotations

import codecs
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import msgspec

from bdlab.errors import InvalidInput
from bdlab.events import MAX_COUNT, Review, check_storable
from bdlab.reviews.schema import COUNT_FIELDS, FIELDS, TEXT_FIELDS, misspelt

BODY = "body"
SHOWN_PROBLEMS = 100


class Repeating(dict[str, Any]):
    """A JSON object in which a name stands more than once; `names` has those."""

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
    """What is wrong with one field. `index` is the review's place in a list of them, from 0."""

    field: str
    why: str
    index: int | None = None

    def __str__(self) -> str:
        where = "" if self.index is None else f"review {self.index}: "
        return f"{where}field {self.field!r} {self.why}" if self.field != BODY else f"{where}{self.why}"


class ReviewInvalid(InvalidInput):
    """A review that cannot be predicted from; `problems` has one entry a field, and the first ones only
    where there are very many.
    """

    def __init__(self, problems: Sequence[FieldProblem], *, hint: str = "") -> None:
        self.problems = tuple(problems[:SHOWN_PROBLEMS])
        more = len(problems) - len(self.problems)
        told = [*map(str, self.problems), *([f"and {more} more"] if more else [])]
        super().__init__("; ".join(told), hint=hint)


_QUOTED = tuple(f'"{field}"'.encode() for field in FIELDS)

_one = msgspec.json.Decoder(Review)
_many = msgspec.json.Decoder(list[Review])


def decode(data: bytes) -> Review:
    """The review in a JSON object; fields that are none of a review's, and a byte order mark, are left out.

    Raises ReviewInvalid with every field that is wrong, also one that is misspelt or stands twice.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        review = _one.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        review = _read_again(data, error)
    else:
        if _may_repeat(data, 1):
            review = _read_again(data)
    check(review)
    return review


def decode_many(data: bytes, *, limit: int) -> list[Review]:
    """The reviews in a JSON array of 1 to `limit` objects. Raises ReviewInvalid, naming index and field."""
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        reviews = _many.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reviews = _read_many_again(data, limit, error)
    else:
        if _may_repeat(data, len(reviews)):
            reviews = _read_many_again(data, limit)
    _check_number(reviews, limit)
    problems: list[FieldProblem] = []
    for index, review in enumerate(reviews):
        try:
            check(review)
        except ReviewInvalid as error:
            problems += [msgspec.structs.replace(problem, index=index) for problem in error.problems]
    if problems:
        raise ReviewInvalid(problems)
    return reviews


def _check_number(reviews: Sequence[object], limit: int) -> None:
    if not 1 <= len(reviews) <= limit:
        raise ReviewInvalid([FieldProblem(BODY, f"holds {len(reviews)} reviews; it takes 1 to {limit}")])


def check(review: Review) -> None:
    """Raise ReviewInvalid for text that cannot be stored, or is empty."""
    try:
        check_storable(review)
    except InvalidInput:
        raise ReviewInvalid(find_problems(msgspec.to_builtins(review, str_keys=True))) from None


def find_problems(value: Any) -> list[FieldProblem]:
    """What keeps the decoded JSON `value` from being a review; empty where nothing does."""
    if not isinstance(value, Mapping):
        return [FieldProblem(BODY, f"has to be a JSON object with the field 'text', and is {_kind(value)}")]
    problems = [
        FieldProblem(name, f"is no field of a review; is {meant!r} meant?")
        for name in value
        if name not in FIELDS and (meant := misspelt(name))
    ]
    for field in TEXT_FIELDS:
        why = _text_problem(value[field], field) if field in value else _absent(field)
        if why:
            problems.append(FieldProblem(field, why))
    for field in COUNT_FIELDS:
        why = _count_problem(value[field]) if field in value else ""
        if why:
            problems.append(FieldProblem(field, why))
    if isinstance(value, Repeating):
        problems += [FieldProblem(field, "stands more than once") for field in FIELDS if field in value.names]
    return problems


def without_others(value: Mapping[str, Any]) -> dict[str, Any]:
    """Only the fields of a review."""
    return {field: value[field] for field in FIELDS if field in value}


def _may_repeat(data: bytes, reviews: int) -> bool:
    """Whether a field's name stands more often than there are reviews; it may also be a field's value."""
    return any(data.count(name) > reviews for name in _QUOTED)


def _absent(field: str) -> str:
    return "is missing" if field == "text" else ""


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
            "which is no valid Unicode text"
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


def _read_again(data: bytes, error: Exception | None = None) -> Review:
    """The review that msgspec refused with `error`, or that may repeat a field. Raises ReviewInvalid."""
    value = parse(data)
    problems = find_problems(value)
    if problems:
        raise ReviewInvalid(problems)
    return _convert(value, error)


def _read_many_again(data: bytes, limit: int, error: Exception | None = None) -> list[Review]:
    value = parse(data)
    if not isinstance(value, list):
        why = f"has to be a JSON array of reviews, and is {_kind(value)}"
        raise ReviewInvalid([FieldProblem(BODY, why)])
    _check_number(value, limit)
    problems = [
        msgspec.structs.replace(problem, index=index)
        for index, item in enumerate(value)
        for problem in find_problems(item)
    ]
    if problems:
        raise ReviewInvalid(problems)
    return [_convert(item, error) for item in value]


def _convert(value: Mapping[str, Any], error: Exception | None) -> Review:
    if isinstance(error, RecursionError):
        raise ReviewInvalid([FieldProblem(BODY, "is nested too deeply")])
    try:
        return msgspec.convert(without_others(value), Review)
    except msgspec.ValidationError as found:
        raise ReviewInvalid([FieldProblem(BODY, f"is no review: {found}")]) from None


def parse(data: bytes) -> Any:
    """The JSON value, objects that repeat a name marked. Raises ReviewInvalid where it is none."""
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
    raise ReviewInvalid([FieldProblem(BODY, why)])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    marked = Repeating(found)
    marked.names = frozenset(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    return marked


def _number(text: str) -> float:
    """An integer where there is no fraction, as JSON Schema has it: 5.0 is 5, before an id is made of it."""
    number = float(text)
    return int(number) if number.is_integer() else number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
