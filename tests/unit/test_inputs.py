"""Inputs of any contract: what is valid, which fields of others are wrong and why, and the schema of them."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bdlab.contract import Contract, Field, example_of, parse_contract
from bdlab.inputs import InputInvalid, Validator
from bdlab.inputs.schema import Misspellings, input_schema
from tests.plants import CODEC, CONTRACT, PLANT
from tests.random_contracts import contracts, fields_of

PLANTS = Validator(CONTRACT)


def body(**changed: Any) -> bytes:
    return json.dumps(PLANT | changed).encode()


def problems(data: bytes, validator: Validator = PLANTS) -> list[tuple[str, str]]:
    with pytest.raises(InputInvalid) as refused:
        validator.decode(data)
    return [(problem.field, problem.why) for problem in refused.value.problems]


# What is wrong, and why.

MOMENT = "has to be a date and time with its offset from UTC, as 2026-01-31T12:00:00Z"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("Name", "R", "has to have 2 to 20 characters, and has 1"),
        ("Name", "R" * 21, "has to have 2 to 20 characters, and has 21"),
        ("Name", "é☕" * 10, ""),
        ("Name", "   ", "is empty: there is nothing to predict from"),
        ("Name", None, "has to be a string, and is null"),
        ("note", 5, "has to be a string or null, and is a number"),
        ("note", "", ""),
        ("note", "a\0", "holds a NUL character (U+0000) at character 1, which cannot be stored"),
        ("Leaf colour", "Green", "has to be one of 'green', 'dark red', \"it's white\", and is 'Green'"),
        ("Leaf colour", None, "has to be one of 'green', 'dark red', \"it's white\", and is null"),
        ("Fruit colour", None, ""),
        ("Fruit colour", "", "has to be one of 'red', 'blue' or null, and is ''"),
        (
            "Fruit colour",
            "2026-01-31T12:00:00Z",
            "has to be one of 'red', 'blue' or null, and is '2026-01-31T12:00:00Z'",
        ),
        ("Fruit colour", ["red"], "has to be one of 'red', 'blue' or null, and is an array"),
        ("petals", -1, "has to be at least 0, and is -1"),
        ("petals", 2**63, "has to be between 0 and 9223372036854775807, and is 9223372036854775808"),
        ("petals", 10**40, "has to be between 0 and 9223372036854775807, and is a number of 41 digits"),
        ("petals", 2**63 - 1, ""),
        ("petals", 5.0, ""),
        ("petals", 5.5, "has to be an integer, and is a number with a fraction"),
        ("petals", True, "has to be an integer, and is a boolean"),
        ("seeds", 1001, "has to be at most 1000 or null, and is 1001"),
        ("seeds", "5", "has to be an integer or null, and is a string"),
        ("height (cm)", 300.5, ""),
        ("height (cm)", 301, "has to be between 0 and 300.5, and is 301"),
        ("height (cm)", False, "has to be a number, and is a boolean"),
        ("height (cm)", None, "has to be a number, and is null"),
        ("weight", 10**308, ""),
        ("weight", "5", "has to be a number or null, and is a string"),
        ("planted_at", "0001-01-01T00:00:00Z", ""),
        ("planted_at", "0001-01-01T00:00:00+00:01", f"{MOMENT}, and is '0001-01-01T00:00:00+00:01'"),
        ("planted_at", "9999-12-31T23:59:59-00:01", f"{MOMENT}, and is '9999-12-31T23:59:59-00:01'"),
        ("planted_at", "2026-01-31T12:00:00", f"{MOMENT}, and is '2026-01-31T12:00:00'"),
        ("planted_at", "2026-02-30T12:00:00Z", f"{MOMENT}, and is '2026-02-30T12:00:00Z'"),
        ("planted_at", 1769860800, f"{MOMENT}, and is a number"),
        ("moved_at", "soon", f"{MOMENT} or null, and is 'soon'"),
        ("isWild", 1, "has to be true or false, and is a number"),
        ("isWild", None, "has to be true or false, and is null"),
        ("edible", "yes", "has to be true or false or null, and is a string"),
    ],
)
def test_each_kind_of_field_says_what_it_has_to_be(name: str, value: Any, why: str) -> None:
    """Alone, with another field that makes the body take the slow way, and in a list."""
    data = body(**{name: value})
    if not why:
        assert PLANTS.decode_many(b"[" + data + b"]", limit=1) == [PLANTS.decode(data)]
        assert PLANTS.decode(body(**{name: value, "other": 1})) == PLANTS.decode(data)
        return
    assert problems(data) == problems(body(**{name: value, "other": 1})) == [(name, why)]
    with pytest.raises(InputInvalid, match=re.escape(f"garden plant 0: field {name!r} {why}")):
        PLANTS.decode_many(b"[" + data + b"]", limit=1)


@pytest.mark.parametrize(("number", "shown"), [("1e400", "inf"), ("-1" + "0" * 400, "a number of 401 digits")])
def test_a_number_that_is_beyond_64_bits_is_refused(number: str, shown: str) -> None:
    ((name, why),) = problems(body(weight=None).replace(b'"weight": null', b'"weight": ' + number.encode()))
    assert (name, why.rpartition(", and is ")[2]) == ("weight", shown)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_is_refused(number: str) -> None:
    why = f"is not valid JSON: {number} is not a JSON number"
    assert problems(body(weight=None).replace(b"null", number.encode())) == [("body", why)]


def test_all_wrong_fields_are_named_in_the_order_of_the_contract() -> None:
    wrong = b'{"HEIGHT_cm": 1, "isWild": 2, "isWild": 0, "petals": "5", "note": "a", "Names": "b"}'
    assert problems(wrong) == [
        ("HEIGHT_cm", "is no field of a garden plant; is 'height (cm)' meant?"),
        ("Names", "is no field of a garden plant; is 'Name' meant?"),
        ("Name", "is missing"),
        ("Leaf colour", "is missing"),
        ("petals", "has to be an integer, and is a string"),
        ("height (cm)", "is missing"),
        ("planted_at", "is missing"),
        ("isWild", "has to be true or false, and is a number"),
        ("isWild", "stands more than once"),
    ]


def test_a_body_without_fields_is_told_which_there_are() -> None:
    wanted = "a JSON object with the fields 'Name', 'Leaf colour', 'petals', 'height (cm)', 'planted_at'"
    assert problems(b"[]") == [("body", f"has to be {wanted}, and is an array")]
    assert problems(b" ") == [("body", f"is empty; send {wanted}")]
    with pytest.raises(InputInvalid, match="has to be a JSON array of garden plants, and is an object"):
        PLANTS.decode_many(body(), limit=1)
    with pytest.raises(InputInvalid, match="holds 2 garden plants; it takes 1 to 1"):
        PLANTS.decode_many(b"[" + body() + b"," + body() + b"]", limit=1)


@pytest.mark.parametrize("twice", [b'"petals": 5', b'"petals"  : 6', b'"petals":"x"'])
def test_a_name_that_stands_twice_is_found_among_many(twice: bytes) -> None:
    for data in (body()[:-1] + b"," + twice + b"}", b"{" + twice + b"," + body()[1:]):
        assert ("petals", "stands more than once") in problems(data)
    assert PLANTS.decode(body(note='"petals": 5, {"petals": 5, "petals": 5')).petals == 5


def test_the_same_moment_has_the_same_id() -> None:
    ids = {
        CODEC.idempotent_id("k", PLANTS.decode(body(planted_at=moment)))
        for moment in ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00Z", "2026-01-31T04:30:00.0-05:30")
    }
    assert len(ids) == 1


# Any contract.


def named(contract: Contract, columns: dict[str, Any]) -> dict[str, Any]:
    """An input as a client sends it."""
    found: dict[str, Any] = msgspec.to_builtins({field.name: columns[field.column] for field in contract.inputs})
    return found


def invalid_json(field: Field) -> list[str]:
    """JSON that is none of a field's."""
    found = ["[]", "{}", *([] if field.nullable else ["null"])]
    kind = "enum" if field.choices else field.kind
    if kind in ("string", "enum", "date-time"):
        found += ["5", "true", '"\\u0000"', '"\\ud800"']
    else:
        found += ['"5"', '""']
    if kind == "string":
        found += ['" \\u3000"'] * (field.min_length > 0)
        found += [json.dumps("a" * (field.max_length + 1))] if field.max_length is not None else []
    if kind in ("integer", "number"):
        low, high = field.bounds
        found += ["false", "1e400", "1" + "0" * 309]
        found += [f"{int(high) + 1}", f"{int(low) - 1}"] * (abs(high) < 2**63 and abs(low) < 2**63)
    found += {"integer": ["0.5"], "boolean": ["0", "1"], "date-time": ['"2026-01-31"']}.get(kind, [])
    return found


@settings(max_examples=100, deadline=None)
@given(contracts(), st.data())
def test_a_valid_input_is_taken_fast_and_slowly_and_with_one_wrong_field_it_is_refused_for_that(
    contract: Contract, data: st.DataObject
) -> None:
    validator = Validator(contract)
    value = named(contract, data.draw(fields_of(contract.inputs)))
    sent = msgspec.json.encode(value)
    found = validator.decode_plain(sent) or validator.decode(sent)
    assert found == validator.given_of(validator.parse(sent)) == validator.decode_many(b"[%b]" % sent, limit=1)[0]
    assert validator.find_problems(value) == []
    schema = input_schema(contract)
    assert jsonschema_rs.meta.is_valid(schema)
    takes = jsonschema_rs.Draft202012Validator(schema).is_valid
    assert takes(value)
    assert takes(example_of(contract))
    validator.given_of(example_of(contract))

    field = data.draw(st.sampled_from(contract.inputs))
    wrong = data.draw(st.sampled_from(invalid_json(field)))
    parts = {name: msgspec.Raw(msgspec.json.encode(each)) for name, each in value.items()}
    bad = msgspec.json.encode(parts | {field.name: msgspec.Raw(wrong.encode())})
    assert [name for name, _ in problems(bad, validator)] == [field.name]
    if field.kind != "date-time" and "\\ud800" not in wrong and len(wrong) < 300:
        assert not takes(json.loads(bad))


def test_what_types_do_not_know_is_refused_on_each_way() -> None:
    for wrong in ({"Name": "  "}, {"note": "\0"}, {"planted_at": "9999-12-31T23:59:59-01:00"}):
        for way in (PLANTS.decode_plain, PLANTS.decode):
            with pytest.raises(InputInvalid):
                way(body(**wrong))
        with pytest.raises(InputInvalid):
            PLANTS.given_of(PLANT | wrong)


@pytest.mark.parametrize("name", ["Name", "note", "Leaf colour", "Fruit colour", "planted_at", "moved_at"])
def test_an_argument_that_is_no_unicode_is_refused(name: str) -> None:
    with pytest.raises(InputInvalid, match=re.escape(f"field {name!r} ")):
        PLANTS.given_of(PLANT | {name: "a\udcff"})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), 10**400])
def test_a_number_that_is_not_finite_is_refused(number: float) -> None:
    output = {"type": "object", "properties": {"prediction": {"type": "number"}}}
    fields = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}
    validator = Validator(parse_contract({"input": fields, "output": output}))
    with pytest.raises(InputInvalid, match="field 'x' has to be between"):
        validator.given_of({"x": number})


# Names.


def contract_of(names: list[str]) -> Contract:
    properties = {name: {"type": ["number", "null"]} for name in names}
    output = {"type": "object", "properties": {"prediction": {"type": "number"}}}
    return parse_contract({"input": {"type": "object", "properties": properties}, "output": output})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Feature_1", "feature1"), ("featur1", "feature1"), ("faeture_2", "feature2"),
        ("FEATURE12", "feature12"), ("feature3", ""), ("feature21", ""), ("feature", ""), ("feature1_2", ""),
        ("AGE", "age"), ("page", ""), ("ag", ""), ("ages", ""),
        ("petal width cm", "petal width (cm)"), ("petalWidthCm", "petal width (cm)"), ("petal-width", ""),
        ("größe", "Größe"), ("Grösse", ""), ("Grösßu", ""),
        ("total", "Total"), ("totals", "Total"), ("total_price", "total price"),
        ("Total-Prise", "total price"),
    ],
)  # fmt: skip
def test_a_name_is_near_by_its_words(name: str, meant: str) -> None:
    names = ["feature1", "feature2", "feature12", "age", "petal width (cm)", "Größe", "Total", "total price"]
    misspelt = Misspellings(names)
    assert misspelt(name) == meant
    assert bool(re.search(misspelt.pattern, name)) is bool(meant)


@settings(max_examples=100, deadline=None)
@given(contracts(most=12), st.data())
def test_what_is_misspelt_is_what_the_pattern_says(contract: Contract, data: st.DataObject) -> None:
    """Python's patterns, and those of the validators of JSON Schema."""
    names = [field.name for field in contract.inputs]
    name = data.draw(st.sampled_from(names))
    for changed in (name.upper(), name.swapcase(), name[1:], name[:-1], name + "x", name[::-1]):
        meant = Misspellings(names)(changed)
        assert not meant or meant in names
        takes = jsonschema_rs.Draft202012Validator(input_schema(contract)["propertyNames"]).is_valid
        assert takes(changed) is (changed in names or not meant)


@pytest.mark.parametrize(
    "names",
    [
        [f"{'abcdefghijk_' * 4}n{at}" for at in range(200)],
        [f"{'abcdefghijk_' * 2}n{chr(97 + at // 26)}{chr(97 + at % 26)}x" for at in range(200)],
        ["_".join("abcdefghij"[(place + at) % 10] * 9 for place in range(6)) + str(at) for at in range(200)],
        [f"{'a_' * 28}{at}" for at in range(200)],
        [f"a{at}_{'ж' * 190}" for at in range(200)],
        [f"a{at}{' ж' * 95}" for at in range(200)],
    ],
)
def test_the_pattern_of_many_long_names_is_short_and_fast(names: list[str]) -> None:
    """A body of 1 MiB may have a name of another length at any place; the bounds are generous."""
    started = time.process_time()
    misspelt = Validator(contract_of(names))._misspelt
    assert time.process_time() - started < 2
    assert len(misspelt.pattern) < 100_000
    started = time.process_time()
    for name in names[:20]:
        for near in (name + "!!", name.replace("_", "__") + "!", name.replace("_", "") + "!!", name[1:] + "?!"):
            misspelt(near)
    assert time.process_time() - started < 80 * 0.01
