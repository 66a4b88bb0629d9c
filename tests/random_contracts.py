"""Hypothesis strategies: contracts with any field that is allowed, values that fit them, and documents that
may be no contract.
"""

from __future__ import annotations

import copy
import math
import string
from datetime import UTC
from typing import Any

import msgspec
from hypothesis import strategies as st

from bdlab.contract import Contract, Field, column_name, parse_contract
from bdlab.contract.fields import ANSWERS, INT64
from bdlab.contract.schema import MAX_COLUMN_BYTES, RESERVED

KINDS = ("string", "enum", "integer", "number", "boolean", "date-time")

_words = st.text(string.ascii_letters + string.digits + "_ -()äß.", min_size=1, max_size=20)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)
_words_of_choices = st.text(string.ascii_letters + " '\"\\-éß%{}", min_size=1, max_size=12)
_choices = st.lists(_words_of_choices, min_size=1, max_size=5, unique=True)
floats = st.floats(allow_nan=False, allow_infinity=False)


#: Words of SQL, Python, Prometheus and bdlab's own structs and queries, and signs that need quotes.
TROUBLE = (
    *("select", "order", "user", "table", "primary", "null", "default", "current_user", "oid", "all"),
    *("class", "self", "None", "lambda", "__init__", "contract", "event", "fields", "count", "encode"),
    *("le", "quantile", "instance", "job", "__name__", "predictions", "incoming", "bytes", "p", "l", "i"),
    *("a'b", "a`b", "a;--", "a%s", "a%(x)s", "a{b}", "{}", "a/b", "$1", "-a", "--help", "a,b", "a:b", "#a"),
    *("a" * 63, "A" * 63, "aB" * 31, "É" * 63, "x" + "é" * 62, "Größe", "ﬁ", "ａ", "K", "a\u0301", "naïve 東京"),
)
#: These are refused as names.
REFUSED = (
    *("", " ", "a ", "a=b", 'a"b', "a\\b", "a\x00", "a\nb", "a\x7f", "a\u202eb", "\ud800", "年齢", "1st", "_"),
    *("a" * 64, "aB" * 22, "É" * 64, "a" * 201, "id", "ID", "TraceId", "ctid", "xmin", "Offset", "Log ID"),
)


def names() -> st.SearchStrategy[str]:
    """Usable names of fields."""
    return st.sampled_from(TROUBLE).filter(_usable) | _words.filter(_usable)


def _usable(name: str) -> bool:
    column = column_name(name)
    return (
        name == name.strip()
        and '"' not in name
        and bool(column)
        and not column[0].isdigit()
        and len(column) <= MAX_COLUMN_BYTES
        and column not in ANSWERS.union(RESERVED["columns"], RESERVED["of_outputs"])
        and not column.startswith(RESERVED["begin_outputs"])
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


def _document(given: dict[str, Any], output: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "input": {"type": "object", "properties": given, "required": required},
        "output": {"type": "object", "properties": output},
    }


@st.composite
def _given(draw: st.DrawFn, name: str, *, later: bool = False) -> tuple[dict[str, Any], bool]:
    """The JSON Schema of an input, and whether it is required."""
    schema = draw(properties(draw(st.sampled_from(KINDS))))
    way = draw(st.sampled_from(["null", "default"] if later else ["null", "default", "required", "both"]))
    if way in ("null", "both"):
        if "enum" in schema:
            schema["enum"].append(None)
        else:
            schema["type"] = [schema["type"], "null"]
    required = way in ("required", "both")
    field = parse_contract(_document({name: schema}, {"prediction": {"type": "number"}}, [name])).inputs[0]
    if way == "default":
        schema["default"] = msgspec.to_builtins(draw(values(field)))
    if draw(st.booleans()):
        schema["examples"] = msgspec.to_builtins(draw(st.lists(values(field), max_size=2)))
    if later:
        schema["since"] = 2
    return schema, required


@st.composite
def documents(draw: st.DrawFn, *, most: int = 6, later: bool = False) -> dict[str, Any]:
    """The document of a contract, of a regression or a classification; `later` ones may have number 2."""
    chosen = draw(st.lists(names(), min_size=1, max_size=most, unique_by=column_name))
    given: dict[str, Any] = {}
    required = []
    for name in chosen:
        is_later = later and name != chosen[0] and draw(st.booleans())
        given[name], needed = draw(_given(name, later=is_later))
        required += [name] * needed
    output: dict[str, Any] = {"prediction": {"type": "number"}}
    if draw(st.booleans()):
        output = {
            "prediction": {"enum": draw(_choices)},
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
            "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
        }
    for name in {column_name(draw(names()))} - set(map(column_name, chosen)):
        if draw(st.booleans()):
            output[name] = draw(properties(draw(st.sampled_from(KINDS))))
        elif later:
            output[name], _ = draw(_given(name, later=True))
    document = _document(given, output, required)
    if draw(st.booleans()):
        document["columns"] = draw(st.permutations([column_name(name) for name in given]))
    return document


def contracts(*, most: int = 6) -> st.SearchStrategy[Contract]:
    """Contracts of the first number."""
    return documents(most=most).map(parse_contract)


_words_of_contracts = st.sampled_from(
    ["string", "integer", "number", "boolean", "object", "null", "date-time", "prediction", "text", "a"]
)
_numbers = st.sampled_from(
    (
        *(0, 1, -1, 2, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**308, 10**400),
        *(0.0, -0.0, 0.5, 5e-324, 1e308, math.inf, -math.inf, math.nan),
    )
)
_scalars = st.none() | st.booleans() | _numbers | _words_of_contracts | st.text(max_size=5)
_ODD_TEXTS = ("\ud800", "\x00", "2026-01-01T00:00:00", "0001-01-01T00:00:00+23:59")
anything = st.sampled_from(_ODD_TEXTS) | st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_words_of_contracts | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
"""Any JSON, and what JSON of other tools may have."""
_KEYWORDS = (
    *("type", "enum", "format", "minLength", "maxLength", "minimum", "maximum", "default", "description"),
    *("examples", "since", "additionalProperties", "const", "$ref", "pattern"),
)


@st.composite
def changed_documents(draw: st.DrawFn) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A document that was changed in one place, which may make it no contract, and how that may be named."""
    document = copy.deepcopy(draw(documents(later=True)))
    part = draw(st.sampled_from(["input", "input", "output"]))
    schema = document[part]
    fields, required = schema["properties"], schema["required"] if part == "input" else []
    name = draw(st.sampled_from(list(fields)))
    change = draw(st.sampled_from(["nothing", "name", "field", "keyword", "keyword", "part", "document"]))
    if change == "name":
        other = draw(st.sampled_from(REFUSED) | st.sampled_from(TROUBLE) | st.text(max_size=70))
        schema["properties"] = {other if each == name else each: found for each, found in fields.items()}
        required[:] = [other if each == name else each for each in required]
        document.pop("columns", None)
        return document, (repr(other[:200]), *(["output"] if name in ANSWERS else []))
    if change == "field":
        fields[name] = draw(anything)
    elif change == "keyword":
        keyword = draw(st.sampled_from(_KEYWORDS))
        if draw(st.integers(0, 3)):
            fields[name][keyword] = draw(anything)
        else:
            fields[name].pop(keyword, None)
    elif change == "part":
        keyword = draw(st.sampled_from(["type", "properties", "required", "title", "description", "else"]))
        schema[keyword] = draw(anything)
        return document, (part,)
    elif change == "document":
        document[draw(st.sampled_from(["input", "output", "columns", "else"]))] = draw(anything)
        return document, ("contract",)
    return document, (repr(name),)


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
        ends = (None if bound is None else float(bound) for bound in (field.minimum, field.maximum))
        found = st.floats(*ends, allow_nan=False, allow_infinity=False)
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
