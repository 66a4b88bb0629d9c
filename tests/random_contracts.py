"""Hypothesis strategies: contracts with any field that is allowed, and values that fit them."""

from __future__ import annotations

import string
from datetime import UTC
from typing import Any

from hypothesis import strategies as st

from bdlab.contract import Contract, Field, column_name, parse_contract
from bdlab.contract.fields import ANSWERS, INT64, MAX_COLUMN_BYTES, RESERVED

KINDS = ("string", "enum", "integer", "number", "boolean", "date-time")

_words = st.text(string.ascii_letters + string.digits + "_ -()äß.", min_size=1, max_size=20)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)
_choices = st.lists(
    st.text(string.ascii_letters + " '\"-", min_size=1, max_size=12), min_size=1, max_size=5, unique=True
)
floats = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def names(draw: st.DrawFn) -> str:
    """A usable name of a field."""
    return draw(_words.filter(_usable))


def _usable(name: str) -> bool:
    column = column_name(name)
    return (
        name == name.strip()
        and '"' not in name
        and bool(column)
        and not column[0].isdigit()
        and len(column) <= MAX_COLUMN_BYTES
        and column not in RESERVED | ANSWERS
    )


@st.composite
def properties(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """The JSON Schema of a field of this kind, without null and default."""
    if kind == "enum":
        return {"enum": draw(_choices)}
    if kind == "date-time":
        return {"type": "string", "format": "date-time"}
    found: dict[str, Any] = {"type": kind}
    if kind == "string" and draw(st.booleans()):
        found |= {"minLength": draw(st.integers(0, 3)), "maxLength": draw(st.integers(3, 50))}
    if kind in ("integer", "number") and draw(st.booleans()):
        bounds = st.integers(-(2**40), 2**40) if kind == "integer" else st.floats(-1e9, 1e9)
        found["minimum"], found["maximum"] = sorted(draw(st.lists(bounds, min_size=2, max_size=2)))
    return found


@st.composite
def contracts(draw: st.DrawFn, *, most: int = 6) -> Contract:
    """A contract of the first number, of a regression or a classification."""
    chosen = draw(st.lists(names(), min_size=1, max_size=most, unique_by=column_name))
    given: dict[str, Any] = {}
    required = []
    for name in chosen:
        schema = draw(properties(draw(st.sampled_from(KINDS))))
        if draw(st.booleans()):
            if "enum" in schema:
                schema["enum"].append(None)
            else:
                schema["type"] = [schema["type"], "null"]
        elif draw(st.booleans()) and schema.get("type") == "boolean":
            schema["default"] = draw(st.booleans())
        else:
            required.append(name)
        given[name] = schema
    output: dict[str, Any] = {"prediction": {"type": "number"}}
    if draw(st.booleans()):
        output = {
            "prediction": {"enum": draw(_choices)},
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
            "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
        }
    return parse_contract(
        {
            "input": {"type": "object", "properties": given, "required": required},
            "output": {"type": "object", "properties": output},
        }
    )


def values(field: Field) -> st.SearchStrategy[Any]:
    """Values that fit a field, as its struct has them."""
    found: st.SearchStrategy[Any]
    if field.choices:
        found = st.sampled_from(field.choices)
    elif field.kind == "string":
        most = 30 if field.max_length is None else field.max_length
        found = st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="\x00"),
            min_size=field.min_length,
            max_size=max(most, field.min_length),
        ).filter(lambda text: bool(text.strip()) or not field.min_length)
    elif field.kind == "integer":
        low = INT64[0] if field.minimum is None else int(field.minimum)
        high = INT64[1] if field.maximum is None else int(field.maximum)
        found = st.integers(low, high)
    elif field.kind == "number":
        found = st.floats(field.minimum, field.maximum, allow_nan=False, allow_infinity=False)
    elif field.kind == "date-time":
        found = st.datetimes(timezones=st.just(UTC))
    elif field.kind == "boolean":
        found = st.booleans()
    else:
        found = st.dictionaries(texts, floats, max_size=3)
    return found | st.none() if field.nullable else found


def fields_of(fields: tuple[Field, ...]) -> st.SearchStrategy[dict[str, Any]]:
    """Values for all of these fields, by column."""
    return st.fixed_dictionaries({field.column: values(field) for field in fields})
