"""Reviews from JSON: fast where they are right, and exact about what is wrong where they are not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import msgspec

from bdlab.errors import InvalidInput
from bdlab.events import MAX_COUNT, Review, check_storable

BODY = "body"
TEXT_FIELDS = ("text", "summary")
COUNT_FIELDS = ("HelpfulnessNumerator", "HelpfulnessDenominator")

_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


class FieldProblem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is wrong with one field. `index` is the review's place in a list of them, from 0."""

    field: str
    why: str
    index: int | None = None

    def __str__(self) -> str:
        where = "" if self.index is None else f"review {self.index}: "
        return f"{where}field {self.field!r} {self.why}" if self.field != BODY else f"{where}{self.why}"


class ReviewInvalid(InvalidInput):
    """A review that cannot be predicted from; `problems` has one entry a field."""

    def __init__(self, problems: Sequence[FieldProblem], *, hint: str = "") -> None:
        super().__init__("; ".join(map(str, problems)), hint=hint)
        self.problems = tuple(problems)


_one = msgspec.json.Decoder(Review)
_many = msgspec.json.Decoder(list[Review])


def decode(data: bytes) -> Review:
    """The review in a JSON object. Raises ReviewInvalid with every field that is wrong."""
    try:
        review = _one.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _explain(data, error, many=False)
    check(review)
    return review


def decode_many(data: bytes, *, limit: int) -> list[Review]:
    """The reviews in a JSON array of 1 to `limit` objects. Raises ReviewInvalid, naming index and field."""
    try:
        reviews = _many.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _explain(data, error, many=True)
    if not 1 <= len(reviews) <= limit:
        raise ReviewInvalid([FieldProblem(BODY, f"holds {len(reviews)} reviews; it takes 1 to {limit}")])
    problems: list[FieldProblem] = []
    for index, review in enumerate(reviews):
        try:
            check(review)
        except ReviewInvalid as error:
            problems += [msgspec.structs.replace(problem, index=index) for problem in error.problems]
    if problems:
        raise ReviewInvalid(problems)
    return reviews


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
    problems: list[FieldProblem] = []
    for field in TEXT_FIELDS:
        why = _text_problem(value[field], field) if field in value else _absent(field)
        if why:
            problems.append(FieldProblem(field, why))
    for field in COUNT_FIELDS:
        why = _count_problem(value[field]) if field in value else ""
        if why:
            problems.append(FieldProblem(field, why))
    return problems


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


def _explain(data: bytes, error: Exception, *, many: bool) -> NoReturn:
    """Raise ReviewInvalid for `data` that msgspec refused with `error`, with all that is wrong."""
    try:
        value = json.loads(data.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError as found:
        why = f"is not UTF-8: byte 0x{data[found.start]:02x} at offset {found.start}"
    except json.JSONDecodeError as found:
        line = f"line {found.lineno} " if b"\n" in data.strip() else ""
        why = f"is not valid JSON: {found.msg} at {line}column {found.colno}"
    except RecursionError:
        why = "is nested too deeply"
    except ValueError as found:
        why = f"is not valid JSON: {found}"
    else:
        raise ReviewInvalid(_problems_of_list(value) if many else _or_generic(value, error)) from None
    if not data.strip():
        why = "is empty; send a JSON object with the field 'text'"
    raise ReviewInvalid([FieldProblem(BODY, why)]) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _or_generic(value: Any, error: Exception) -> list[FieldProblem]:
    if isinstance(error, RecursionError):
        return [FieldProblem(BODY, "is nested too deeply")]
    return find_problems(value) or [FieldProblem(BODY, f"is no review: {error}")]


def _problems_of_list(value: Any) -> list[FieldProblem]:
    if not isinstance(value, list):
        return [FieldProblem(BODY, f"has to be a JSON array of reviews, and is {_kind(value)}")]
    found = [
        msgspec.structs.replace(problem, index=index)
        for index, item in enumerate(value)
        for problem in find_problems(item)
    ]
    return found or [FieldProblem(BODY, "is nested too deeply")]
