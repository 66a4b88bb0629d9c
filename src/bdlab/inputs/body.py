"""Inputs from JSON: valid ones are decoded fast, and of others each problem is reported."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from operator import attrgetter
from types import NoneType
from typing import Any, NoReturn, TypeVar
from uuid import UUID

import msgspec
from msgspec.structs import replace

from bdlab.contract import Contract, Field
from bdlab.contract.fields import MOMENT, SOURCE
from bdlab.errors import InvalidInput
from bdlab.events import Input, codec_of
from bdlab.inputs.schema import Misspellings

T = TypeVar("T")
BODY = "body"
SHOWN_PROBLEMS = 100
_SHOWN_NAMES, _SHOWN_LENGTH = 10, 40
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_INCONVERTIBLE = (msgspec.ValidationError, UnicodeEncodeError)
# It looks back after the quote, since a pattern that begins with a character is found twice as fast.
_NAMES = re.compile(rb'"(?<=[{,\s]")([^"\\]*+)"\s*+:').findall
_FEW = 8  # counting a name takes a tenth of finding all: for more fields than these they are found


class Repeating(dict[str, Any]):
    """A JSON object that repeats names; `names` has these."""

    names: frozenset[str] = frozenset()


_KINDS = {dict: "an object", Repeating: "an object", list: "an array", str: "a string", bool: "a boolean"}
_KINDS |= {NoneType: "null", float: "a number with a fraction"}


class FieldProblem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is wrong with one field. `index` is the input's place in a list, from 0."""

    field: str
    why: str
    index: int | None = None

    def __str__(self) -> str:
        return f"field {self.field!r} {self.why}" if self.field != BODY else self.why


class InputInvalid(InvalidInput):
    """An input with invalid fields; `problems` has one entry a field, at most SHOWN_PROBLEMS. `noun` is what the
    contract calls an input."""

    def __init__(self, problems: Sequence[FieldProblem], noun: str = "input", *, hint: str = "") -> None:
        self.problems = tuple(problems[:SHOWN_PROBLEMS])
        self.noun = noun
        more = len(problems) - len(self.problems)
        shown = [f"{'' if each.index is None else f'{noun} {each.index}: '}{each}" for each in self.problems]
        super().__init__("; ".join([*shown, *([f"and {more} more"] if more else [])]), hint=hint)


class Validator:
    """Decodes and checks the inputs of a contract."""

    def __init__(self, contract: Contract, kind: Any = None, *, any_of: Sequence[str] = ()) -> None:
        """`kind` is the struct of its inputs if that is not the contract's; one field of `any_of` has to be given."""
        self.contract = contract
        self.any_of = any_of
        self._kind: Any = kind or codec_of(contract).input
        self._one: msgspec.json.Decoder[Input] = msgspec.json.Decoder(self._kind)
        self._many: msgspec.json.Decoder[Any] = msgspec.json.Decoder(list[self._kind])  # type: ignore[name-defined]
        self._fields = {field.name: field for field in contract.inputs}
        self._quoted = tuple(f'"{name}"'.encode() for name in self._fields)
        self._texts = self._of(lambda field: field.is_text)
        self._moments = self._of(lambda field: field.kind == "date-time")
        needed = [repr(name) for name, field in self._fields.items() if field.required]
        shown = ", ".join(needed[:_SHOWN_NAMES]) + ", ..." * (len(needed) > _SHOWN_NAMES)
        self._wanted = "a JSON object" + (f" with the field{'s' * (len(needed) > 1)} {shown}" if needed else "")

    def _of(self, wanted: Callable[[Field], bool]) -> list[tuple[Field, Callable[[Input], Any]]]:
        return [(field, attrgetter(field.column)) for field in self.contract.inputs if wanted(field)]

    @cached_property
    def _misspelt(self) -> Misspellings:
        return Misspellings(list(self._fields))

    def decode(self, data: bytes) -> Input:
        """Return the input in a JSON object. Other fields, and a byte order mark, are ignored. Raises InputInvalid with
        every field that is wrong, misspelt or there twice."""
        return self.decode_plain(data) or self.given_of(self.parse(data.removeprefix(codecs.BOM_UTF8)))

    def decode_plain(self, data: bytes) -> Input | None:
        """Return the input in a JSON object with its fields alone; None if it takes a closer look."""
        try:
            given = self._one.decode(data)
        except _UNDECODABLE:
            return None
        return None if self._may_repeat(data, 1) else self._checked(given)

    def decode_many(self, data: bytes, *, limit: int) -> list[Input]:
        """Return the inputs in a JSON array of 1 to `limit` objects. Raises InputInvalid with the index of each invalid
        input and its fields."""
        data = data.removeprefix(codecs.BOM_UTF8)
        many: list[Input] | None = None
        with suppress(*_UNDECODABLE):
            found = self._many.decode(data)
            many = None if self._may_repeat(data, len(found)) else found
        values = self.parse(data) if many is None else many
        why, plural = "", self.contract.plural
        if not isinstance(values, list):
            why = f"has to be a JSON array of {plural}, and is {_kind(values)}"
        elif not 1 <= len(values) <= limit:
            why = f"holds {len(values)} {plural}; it takes 1 to {limit}"
        self._refuse([FieldProblem(BODY, why)] if why else [])
        if many is None:
            self._refuse(_indexed(values, self.find_problems))
            many = [self.given_of(value) for value in values]
        self._refuse(_indexed(many, self._unstorable))
        return many

    def _checked(self, given: Input) -> Input:
        """Return an input whose values have their types. Raises InputInvalid."""
        if problems := self._unstorable(given):
            self._refuse(problems)
        return given

    def _unstorable(self, given: Input) -> list[FieldProblem]:
        """Return the texts that are empty, or that JSON or Postgres cannot hold, and the moments that are
        outside the years 1 to 9999 in UTC; the others are changed to UTC."""
        problems = [
            FieldProblem(field.name, why)
            for field, value in self._texts
            if (text := value(given)) is not None and (why := _text_problem(field, text))
        ]
        for field, value in self._moments:
            moment: datetime | None = value(given)
            if moment is not None and moment.tzinfo is not UTC:
                try:
                    # So that the same moment has the same idempotent id, however it was written.
                    msgspec.structs.force_setattr(given, field.column, moment.astimezone(UTC))
                except OverflowError:
                    problems.append(FieldProblem(field.name, _problem(field, moment.isoformat())))
        return problems

    def _refuse(self, problems: Sequence[FieldProblem]) -> None:
        if problems:
            raise InputInvalid(problems, self.contract.noun)

    def _may_repeat(self, data: bytes, objects: int) -> bool:
        """Return whether a field's name is there more often than objects; a value may look like it too."""
        if len(self._quoted) > _FEW:
            names = _NAMES(data)
            if objects == 1:
                return len(names) > len(set(names))
            return max(Counter(names).values(), default=0) > objects
        count = data.count
        for name in self._quoted:  # noqa: SIM110 - any() takes twice as long
            if count(name) > objects:
                return True
        return False

    def find_problems(self, value: Any) -> list[FieldProblem]:
        """Return why the decoded JSON `value` is no input; an empty list if it is one."""
        if not isinstance(value, Mapping):
            return [FieldProblem(BODY, f"has to be {self._wanted}, and is {_kind(value)}")]
        problems = [
            FieldProblem(name, f"is no field of {self.contract.one}; is {meant!r} meant?")
            for name in value
            if name not in self._fields and (meant := self._misspelt(name))
        ]
        for name, field in self._fields.items():
            if why := _problem(field, value[name]) if name in value else "is missing" * field.required:
                problems.append(FieldProblem(name, why))
        if self.any_of and not problems and all(value.get(name) is None for name in self.any_of):
            problems.append(FieldProblem(BODY, f"has to give {' or '.join(map(repr, self.any_of))}, and gives none"))
        repeated = value.names if isinstance(value, Repeating) else ()
        problems += [FieldProblem(name, "stands more than once") for name in self._fields if name in repeated]
        return problems

    def given_of(self, value: Any) -> Input:
        """Return the input in a decoded JSON `value`. Other fields are ignored. Raises InputInvalid with every field
        that is wrong."""
        try:
            # It takes much less time than a search for problems, and no other fields.
            given: Input = msgspec.convert(None if isinstance(value, Repeating) else value, self._kind)
        except _INCONVERTIBLE:
            self._refuse(self.find_problems(value))
            known = {name: value[name] for name in self._fields if name in value}
            given = msgspec.convert(known, self._kind)
        return self._checked(given)

    def parse(self, data: bytes) -> Any:
        """Return the JSON value, with Repeating for an object that repeats a name. Raises InputInvalid."""
        try:
            text = data.decode()
            return json.loads(text, parse_float=_number, parse_constant=_no_constant, object_pairs_hook=_object)
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
            why = f"is empty; send {self._wanted}"
        raise InputInvalid([FieldProblem(BODY, why)], self.contract.noun)


def _indexed(values: Sequence[T], find: Callable[[T], Iterable[FieldProblem]]) -> list[FieldProblem]:
    return [replace(problem, index=index) for index, value in enumerate(values) for problem in find(value)]


def _problem(field: Field, value: Any) -> str:
    """Return why the decoded JSON `value` is none of the field's; empty if it is one."""
    wanted, *types = _WANTED[field.kind]
    if field.choices:
        more = ", ..." if len(field.choices) > _SHOWN_NAMES else ""
        wanted = f"one of {', '.join(map(repr, field.choices[:_SHOWN_NAMES]))}{more}"
    if value is None and field.nullable:
        return ""
    if type(value) not in types:
        found = _kind(value)
    elif field.kind == "string" and not field.choices:
        return _text_problem(field, value) or _length_problem(field, len(value))
    elif field.choices or field.kind in _OF_TEXT:
        fits = value in field.choices if field.choices else parses(value, _OF_TEXT[field.kind])
        found = "" if fits else repr(value[:_SHOWN_LENGTH])
    elif field.kind == "boolean":
        found = ""
    else:
        low, high = field.bounds
        wanted, found = f"between {low} and {high}", "" if low <= value <= high else _shown(value)
        if field.maximum is None and value < low == field.minimum:
            wanted = f"at least {low}"
        elif field.minimum is None and value > high == field.maximum:
            wanted = f"at most {high}"
    return f"has to be {wanted}{' or null' if field.nullable else ''}, and is {found}" if found else ""


_WANTED: dict[str, tuple[Any, ...]] = {
    "string": ("a string", str),
    "integer": ("an integer", int),
    "number": ("a number", int, float),
    "boolean": ("true or false", bool),
    "date-time": ("a date and time with its offset from UTC, as 2026-01-31T12:00:00Z", str),
    "uuid": ("a UUID, as the id of a prediction is", str),
    "word": ("a word of at most 40 of a-z, 0-9, - and _ that begins with a letter", str),
}


def _text_problem(field: Field, text: str) -> str:
    if "\x00" in text:
        return f"holds a NUL character (U+0000) at character {text.index(chr(0))}, which cannot be stored"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half, place = f"U+{ord(text[error.start]):04X}", error.start
            return f"holds half of a surrogate pair ({half}) at character {place}, which is not valid Unicode text"
    return "is empty: there is nothing to predict from" if field.min_length and not text.strip() else ""


def _length_problem(field: Field, length: int) -> str:
    least, most = field.min_length, length if field.max_length is None else field.max_length
    wanted = f"at least {least}" if field.max_length is None else f"{least} to {most}"
    return "" if least <= length <= most else f"has to have {wanted} characters, and has {length}"


def parses(text: str, kind: Any = MOMENT) -> bool:
    """Return whether a text is a date and time with an offset, within the years 1 to 9999 in UTC; or one of `kind`."""
    try:
        found = msgspec.convert(text, kind)
        return not isinstance(found, datetime) or bool(found.astimezone(UTC))
    except (*_INCONVERTIBLE, OverflowError):
        return False


_OF_TEXT: dict[str, Any] = {"date-time": MOMENT, "uuid": UUID, "word": SOURCE}


def _shown(value: float) -> str:
    large = isinstance(value, int) and abs(value) >= 10**20
    return f"a number of {int(math.log10(abs(value))) + 1} digits" if large else str(value)


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


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
