"""A contract is accepted and means one thing, or it is refused with the field's name."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from uuid_utils.compat import uuid7

from bdlab.contract import Contract, check_evolution, check_fits, column_name, parse_contract, review_contract
from bdlab.errors import ContractInvalid, ContractMismatch, EventTooNew
from bdlab.events import CONTRACT_HEADER, EventCodec, Position, Record, encode, headers
from bdlab.inputs import Validator
from tests.random_contracts import anything

AT = Position("cluster", "predictions", 0, 0)


def document(change: Callable[[dict[str, Any]], object] = lambda _: None, **more: Any) -> dict[str, Any]:
    """The document of the reviews with a change of its input's properties."""
    found = copy.deepcopy(review_contract().document)
    found.pop("columns")
    change(found["input"]["properties"])
    return found | more


NUMBERS = {"type": "object", "additionalProperties": {"type": "number"}}
PROBABLE = {"prediction": {"type": "number"}}


def deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("HelpfulnessNumerator", "helpfulness_numerator"),
        ("petal width (cm)", "petal_width_cm"),
        ("HTTPStatus", "http_status"),
        ("Größe", "grosse"),
        ("a-b.c", "a_b_c"),
        ("température", "temperature"),
        ("x2", "x2"),
        ("年齢", ""),
    ],
)
def test_a_column_is_the_name_in_snake_case(name: str, column: str) -> None:
    assert column_name(name) == column


def test_the_shipped_contract_is_that_of_the_reviews() -> None:
    contract = review_contract()
    assert (contract.number, contract.noun) == (1, "review")
    assert [field.column for field in contract.truths] == ["prediction", "sentiment"]
    assert parse_contract(document(lambda fields: fields.update(run={"type": "boolean", "default": True})))  # an input
    assert [field.column for field in contract] == [
        *("summary", "text", "helpfulness_numerator", "helpfulness_denominator"),
        *("prediction", "sentiment", "confidence"),
    ]


@pytest.mark.parametrize(
    ("name", "schema", "why"),
    [
        ("text", {"type": "string", "pattern": "x"}, "unknown field `pattern`"),
        ("text", {"type": "array"}, "its type has to be one of"),
        ("text", {"type": "object", "additionalProperties": True}, "its type has to be one of"),
        ("text", {"type": ["string", "integer"]}, "its type has to be one of"),
        ("text", {"enum": [1, 2]}, "Expected `str | null`"),
        ("text", {"enum": ["a", "a"]}, "different strings"),
        ("text", {"type": "string", "minimum": 1}, "belong to numbers"),
        ("text", {"type": "integer", "minLength": 1}, "belong to a string"),
        ("text", {"type": "integer", "minimum": 2, "maximum": 1}, "above 'maximum'"),
        ("text", {"type": "integer", "minimum": 0.5}, "no integer of 64 bits"),
        ("text", {"type": "integer", "maximum": 2**63}, "no integer of 64 bits"),
        ("text", {"type": "integer", "minimum": 0.0}, "no integer of 64 bits"),
        ("text", {"type": "number", "minimum": 10**400}, "no number of 64 bits"),
        ("text", {"type": "number", "maximum": math.inf}, "cannot be written as JSON"),
        ("text", {"type": "string", "description": "\ud800"}, "cannot be written as JSON"),
        ("text", {"type": "string", "examples": [deep(100_000)]}, "nested too deeply"),
        ("more", {"type": "string", "default": deep(200)}, "the default, .* does not fit"),
        ("text", {"type": "string", "minLength": 3, "maxLength": 2}, "above 'maxLength'"),
        ("text", {"type": "string", "default": "x"}, "it is required, and has a default"),
        ("text", {"type": "string", "examples": [1]}, "an example, 1, does not fit"),
        ("more", {"type": "string"}, "neither a default nor the type null"),
        ("more", {"type": "integer", "default": 1.5}, "the default, 1.5, does not fit"),
        ("more", {"type": "string", "minLength": 1, "default": " "}, "the default is empty"),
        ("more", {"type": "integer", "since": 0, "default": 1}, ">= 1"),
        ("id", {"type": "string"}, "one of bdlab's own"),
        ("CreatedAt", {"type": "string"}, "one of bdlab's own"),
        ("prediction", {"type": "string"}, "is an output's"),
        ("a=b", {"type": "string"}, "a name has none of"),
        ('a"b', {"type": "string"}, "a name has none of"),
        ("a\nb", {"type": "string"}, "printable characters"),
        ("", {"type": "string"}, "printable characters"),
        ("年齢", {"type": "string"}, "needs a letter from A to Z"),
        ("2nd", {"type": "string"}, "needs a letter from A to Z"),
        ("x" * 64, {"type": "string"}, "64 bytes, and may have 63"),
        ("TEXT", {"type": "string", "default": ""}, "the same column 'text'"),
    ],
)
def test_what_a_contract_cannot_have_is_refused_by_name(name: str, schema: Any, why: str) -> None:
    with pytest.raises(ContractInvalid, match=why) as refused:
        parse_contract(document(lambda fields: fields.update({name: schema})))
    assert repr(name) in refused.value.message


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ({"score": {"type": "number"}}, "it needs 'prediction'"),
        ({"prediction": {"type": "string"}}, "a number, or an enum"),
        ({"prediction": {"type": ["number", "null"]}}, "it needs 'prediction'"),
        ({"prediction": {"enum": ["a", "b"]}}, "needs 'confidence'"),
        ({"prediction": {"type": "number"}, "confidence": {"type": "number"}}, "from 0 to 1"),
        ({"prediction": {"type": "number"}, "probabilities": {"type": "number"}}, "an object of numbers"),
        (PROBABLE | {"true_prediction": {"type": "number"}}, "one of bdlab's own"),
        (PROBABLE | {"rescored": {"type": "boolean"}}, "one of bdlab's own"),
        ({"prediction": {"type": "number"}, "Other": {"type": "number"}}, "write 'other'"),
        ({"prediction": {"type": "number", "default": 1}}, "an output has no default"),
        (PROBABLE | {"probabilities": NUMBERS | {"additionalProperties": True}}, "alone, which has numbers"),
        (PROBABLE | {"probabilities": NUMBERS | {"since": 2, "default": {"a": 1}}}, "without numbers"),
        ({}, "0 fields"),
    ],
)
def test_an_output_is_a_regression_or_a_classification(output: Any, why: str) -> None:
    with pytest.raises(ContractInvalid, match=why):
        parse_contract(document(output={"type": "object", "properties": output}))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"columns": ["text"]}, "once each"),
        ({"more": 1}, "unknown field `more`"),
        ({"input": {"type": "array"}}, "input"),
        ({"output": None}, "output"),
        ({"output": {"type": "\ud800", "properties": {}}}, "output"),
        ({"input": {"type": "object", "properties": {"a": {}}, "description": "\ud800"}}, "input"),
    ],
)
def test_the_document_itself_is_checked(change: dict[str, Any], why: str) -> None:
    with pytest.raises(ContractInvalid, match=why):
        parse_contract(document() | change)


def test_a_contract_has_no_more_fields_than_a_row_holds() -> None:
    many = {f"a{number}": {"type": "string", "default": ""} for number in range(150)}
    outputs = {f"b{number}": {"type": "string"} for number in range(149)}
    output: dict[str, Any] = {"type": "object", "properties": PROBABLE | outputs}
    found = document(lambda fields: fields.update(many), output=output)
    found["input"]["properties"] = many
    found["input"]["required"] = []
    assert len(list(parse_contract(found))) == 300
    output["properties"]["b"] = {"type": "string"}
    with pytest.raises(ContractInvalid, match="301 fields in all, and may have 300"):
        parse_contract(found)


def with_more(**fields: Any) -> Contract:
    return parse_contract(document(lambda properties: properties.update(fields)))


def test_a_newer_contract_adds_fields_and_changes_nothing_else() -> None:
    first = parse_contract(document())
    second = with_more(stars={"type": ["integer", "null"], "since": 2})
    assert (second.number, second.at(1).inputs) == (2, first.inputs)
    assert check_evolution(first, second)
    assert not check_evolution(second, second)
    check_fits(first, second)
    with pytest.raises(ContractMismatch, match=r"'stars'.*number 1"):
        check_fits(second, first)
    with pytest.raises(ContractMismatch, match="'stars'"):
        check_evolution(first, with_more(stars={"type": ["integer", "null"]}))
    with pytest.raises(ContractMismatch, match="'summary'"):
        check_evolution(first, parse_contract(document(lambda properties: properties.pop("summary"))))
    changed = parse_contract(document(lambda properties: properties["summary"].update(maxLength=99)))
    with pytest.raises(ContractMismatch, match=r"'summary': maxLength is 99 in .*, and not given in"):
        check_evolution(first, changed)
    described = parse_contract(document(lambda properties: properties["summary"].update(description="!")))
    assert not check_evolution(first, described)


def test_an_id_is_the_same_across_an_upgrade_until_a_later_field_says_something() -> None:
    old, new = (
        EventCodec(contract)
        for contract in (parse_contract(document()), with_more(stars={"type": ["integer", "null"], "since": 2}))
    )
    before = old.idempotent_id("order-7", old.input(text="fine"))
    assert new.idempotent_id("order-7", new.input(text="fine")) == before
    assert new.idempotent_id("order-7", new.input(text="fine", stars=None)) == before
    assert new.idempotent_id("order-7", new.input(text="fine", stars=3)) != before


def test_a_field_may_be_named_as_what_is_in_the_code() -> None:
    names = ["contract", "self", "class", "None", "encode", "fields"]
    contract = with_more(**{name: {"type": "string", "default": "", "since": 2} for name in names})
    codec = EventCodec(contract)
    given = codec.input(text="fine", **{name.lower(): name for name in names})
    score = codec.score(prediction=4.0, sentiment="positive", confidence=0.9)
    event = codec.make(uuid7(), given, score, model="m@1")
    sent = Record(AT, *encode(event), headers(event, source="/s", traceparent=""))
    assert dict(sent.headers)[CONTRACT_HEADER] == b"2"
    assert codec.decode(sent)[0] == event


def test_an_event_says_its_contract_and_is_read_by_those_who_know_it() -> None:
    old, new = (
        EventCodec(contract)
        for contract in (parse_contract(document()), with_more(stars={"type": "integer", "default": 5, "since": 2}))
    )

    def sent(codec: EventCodec, **fields: Any) -> Record:
        score = codec.score(prediction=4.0, sentiment="positive", confidence=0.9)
        event = codec.make(uuid7(), codec.input(text="fine", **fields), score, model="m@1")
        key, value = encode(event)
        return Record(AT, key, value, headers(event, source="/s", traceparent=""))

    assert dict(sent(old).headers).get(CONTRACT_HEADER) is None
    assert dict(sent(new).headers)[CONTRACT_HEADER] == b"2"
    assert new.decode(sent(old))[0].stars == 5
    assert new.decode(sent(new, stars=3))[0].stars == 3
    with pytest.raises(EventTooNew, match="bdlab-contract is 2"):
        old.decode(sent(new))


@given(anything)
def test_any_json_is_a_contract_or_is_refused(found: Any) -> None:
    for tried in (found, document(lambda fields: fields.update(x=found)), {"input": found, "output": found}):
        with contextlib.suppress(ContractInvalid):  # any other error is a defect
            assert parse_contract(tried).number >= 1


def test_a_number_and_an_integer_may_have_equal_bounds() -> None:
    integer: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 9}
    bounds = {"a": {"type": "number", "minimum": 0.0, "maximum": 9.0}, "b": integer}
    inputs = {"type": "object", "required": ["a", "b"], "properties": bounds}
    output = {"type": "object", "properties": {"prediction": {"type": "number"}}}
    codec = EventCodec(parse_contract({"input": inputs, "output": output}))
    assert Validator(codec.contract).decode(b'{"a": 0.5, "b": 9}').b == 9
