"""A contract's inputs as people write them: the titles of columns, and values as text. Pure."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import UNSET

from bdlab.contract import Contract, Field
from bdlab.contract.fields import FLOAT64, INT64
from bdlab.events import Input
from bdlab.inputs.body import FieldProblem, InputInvalid, Validator

_NO_MATTER = re.compile(r"[\s_-]+")
_SHOWN = 40
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_TRUTH = re.compile("|".join(_TRUTHS), re.IGNORECASE)
#: Of kinds that are no texts in JSON: what they are, how they are written, and what makes a value of that.
_FORMS: dict[str, tuple[str, re.Pattern[str], Callable[[str], Any]]] = {
    "integer": ("an integer from {0[0]} to {0[1]}", re.compile(r"-?[0-9]{1,19}"), int),
    "number": ("a number", re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"), float),
    "boolean": ("true or false, yes or no, 1 or 0", _TRUTH, lambda text: _TRUTHS[text.lower()]),
}


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
    needed = field.required and not field.nullable
    if field.is_text:
        return str if needed else lambda text: text or empty
    wanted, form, value_of = _FORMS.get(field.kind, ("", None, str))
    low, high = field.bounds if field.kind == "integer" else FLOAT64
    wanted = "an integer of 64 bits" if (low, high) == INT64 else wanted.format(field.bounds)

    def read(text: str) -> Any:
        given = text.strip()
        if not given:
            if needed:
                raise ValueError("is empty")
            return empty
        if form is None:
            return text if text in field.choices else given
        if form.fullmatch(given):
            value: Any = value_of(given)
            if low <= value <= high:
                return value
        raise ValueError(f"has to be {wanted}, and is {given[:_SHOWN]!r}")

    return read


def argument_of(field: Field) -> Callable[[str], Any]:
    """Return what makes the field's JSON value of an argument: as a cell, but a text may be empty, and
    ``null`` is null if the field may be that.
    """
    read = str if field.is_text else cell_of(field)
    return lambda text: None if field.nullable and text == "null" else read(text)


def input_of(validator: Validator, texts: Any, places: Iterable[tuple[str, Any, Callable[[str], Any]]]) -> Input:
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
        given = validator.given_of(values)
    except InputInvalid as error:
        wrong = {problem.field: problem.why for problem in error.problems} | wrong
    if wrong:
        names = [field.name for field in validator.contract.inputs if field.name in wrong]
        raise InputInvalid([FieldProblem(name, wrong[name]) for name in names], validator.contract.noun)
    return given
