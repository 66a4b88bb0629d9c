"""A contract's inputs as people write them: the titles of columns, and values as text. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import UNSET

from bdlab.contract import Contract, Field
from bdlab.contract.fields import INT64
from bdlab.events import Input
from bdlab.inputs.body import FieldProblem, InputInvalid, Validator

_NO_MATTER = re.compile(r"[\s_-]+")
_INTEGER = re.compile(r"-?[0-9]{1,19}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_SHOWN = 40


class Titles:
    """Finds a contract's input by the title of a column: its name or column, in any case, and with any
    spaces, dashes and underscores if that leaves no doubt which is meant.
    """

    def __init__(self, contract: Contract) -> None:
        self._exact = {called: field for field in contract.inputs for called in (field.column, field.name)}
        self._loose: dict[str, Field | None] = {}
        for field in contract.inputs:
            for called in {_plain(field.name), _plain(field.column)}:
                self._loose[called] = None if called in self._loose else field

    def __call__(self, title: str) -> Field | None:
        title = title.strip()
        return self._exact.get(title) or self._loose.get(_plain(title))


def _plain(title: str) -> str:
    return _NO_MATTER.sub("", title).casefold()


def title_of(field: Field) -> str:
    """Return the title of the field's column in messages and in files that are made."""
    return field.name[:1].upper() + field.name[1:]


def cell_of(field: Field) -> Callable[[str], Any]:
    """Return what makes the field's JSON value of a text; its bounds, but for an integer's, are not checked.

    An empty text is null if the field may be that, else UNSET, for the field's default. It raises ValueError
    with why the text is no value.
    """
    empty = None if field.nullable else UNSET
    if field.is_text:
        return str if field.required and not field.nullable else lambda text: text or empty
    parse = _PARSERS[field.kind](field)

    def read(text: str) -> Any:
        given = text.strip()
        if given:
            return parse(text if text in field.choices else given)
        if field.required and not field.nullable:
            raise ValueError("is empty")
        return empty

    return read


def argument_of(field: Field) -> Callable[[str], Any]:
    """Return what makes the field's JSON value of an argument: as a cell, but a text may be empty, and
    ``null`` is null if the field may be that.
    """
    read = str if field.is_text else cell_of(field)
    return lambda text: None if field.nullable and text == "null" else read(text)


def input_of(
    validator: Validator, texts: Any, places: Iterable[tuple[str, Any, Callable[[str], Any]]]
) -> Input:
    """Return the input whose values are in `texts`.

    `places` has the name of each field, its text's place in `texts`, and what makes a value of it.
    Raises InputInvalid with every field that is wrong.
    """
    values: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name, place, read in places:
        try:
            value = read(texts[place])
        except ValueError as error:
            wrong[name] = str(error)
        else:
            if value is not UNSET:
                values[name] = value
    try:
        given = validator.given_of_known(values)
    except InputInvalid as error:
        wrong = {problem.field: problem.why for problem in error.problems} | wrong
    if wrong:
        names = [field.name for field in validator.contract.inputs if field.name in wrong]
        names += wrong.keys() - set(names)
        raise InputInvalid([FieldProblem(name, wrong[name]) for name in names], validator.contract.noun)
    return given


def _integer(field: Field) -> Callable[[str], int]:
    low, high = (
        bound if given is None else given
        for given, bound in zip((field.minimum, field.maximum), INT64, strict=True)
    )
    which = "of 64 bits" if field.minimum is field.maximum is None else f"from {low} to {high}"

    def parse(text: str) -> int:
        if _INTEGER.fullmatch(text) and low <= (number := int(text)) <= high:
            return number
        raise _no_value(f"an integer {which}", text)

    return parse


def _number(_: Field) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if _NUMBER.fullmatch(text) and math.isfinite(number := float(text)):
            return number
        raise _no_value("a number", text)

    return parse


def _boolean(_: Field) -> Callable[[str], bool]:
    def parse(text: str) -> bool:
        found = _TRUTHS.get(text.lower())
        if found is None:
            raise _no_value("true or false, yes or no, 1 or 0", text)
        return found

    return parse


def _no_value(wanted: str, text: str) -> ValueError:
    return ValueError(f"has to be {wanted}, and is {text[:_SHOWN]!r}")


#: An enum and a date-time are texts in JSON too.
_PARSERS: dict[str, Callable[[Field], Callable[[str], Any]]] = {
    "string": lambda _: str,
    "date-time": lambda _: str,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
}
