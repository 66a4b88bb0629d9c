"""Parsing a contract, where nothing is ignored, and how contracts may differ: a newer one adds fields only."""

import json
import reprlib
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal, NoReturn

import msgspec
from msgspec import UNSET, Meta

from bdlab.contract.fields import BOUNDS, CONFIDENCE, PREDICTION, PROBABILITIES, Contract, Field, column_name, type_of
from bdlab.errors import ContractInvalid, ContractMismatch

MAX_FIELDS = 200
MAX_COLUMNS = 300
"""Of the inputs and outputs together: of more texts PostgreSQL may not be able to store a row."""
MAX_COLUMN_BYTES = 63
"""PostgreSQL cuts longer identifiers off without an error."""
RESERVED = tomllib.loads(files(__package__).joinpath("reserved.toml").read_text("utf-8"))
RESERVED = {kind: tuple(columns.split()) for kind, columns in RESERVED.items()}
_MAX_NAME = 200
_ADD_ONLY = "A contract may only add fields. Another contract needs another deployment: docs/contract.md."
_REFERENCE = "docs/contract.md lists what a contract may have."
#: Trouble on a command line (NAME=VALUE), in JSON or in a header line of CSV.
_NOT_IN_A_NAME = frozenset('="\\')
#: What may differ without a consequence for what is stored.
_WORDS = ("description", "examples")
#: What a field has as its property says it.
_SAME = ("minimum", "maximum", "min_length", "max_length", "since", *_WORDS)
_KEYWORDS = {"kind": "type", "choices": "enum", "min_length": "minLength", "max_length": "maxLength"}
_Length = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Least = Annotated[int, Meta(ge=0, le=10_000)]
"""An example, which a health check predicts from, has to have as many characters."""


class _Property(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True
):
    type: str | tuple[str, ...] = ()
    enum: tuple[str | None, ...] = ()
    format: Literal["date-time"] | None = None
    min_length: _Least = 0
    max_length: _Length | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    default: Any = UNSET
    description: str = ""
    examples: tuple[Any, ...] = ()
    since: Annotated[int, Meta(ge=1, le=999_999_999)] = 1
    additional_properties: Any = UNSET


class _Object(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["object"]
    properties: dict[str, Any]
    required: tuple[str, ...] = ()
    title: Annotated[str, Meta(pattern=r"^[A-Za-z]([A-Za-z ]{0,38}[A-Za-z])?\Z")] = "Input"
    description: str = ""
    group: str = ""


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    input: dict[str, Any]
    output: dict[str, Any]
    columns: tuple[str, ...] = ()


def parse_contract(document: Mapping[str, Any]) -> Contract:
    """Return the contract of a JSON document with `input`, `output` and, if need be, the order of `columns`. Raises
    ContractInvalid, which names the field."""
    whole = _convert(document, _Document, "the contract")
    given: _Object = _convert(whole.input, _Object, "the contract's input")
    answers: _Object = _convert(whole.output, _Object, "the contract's output")
    inputs, outputs = _fields(given, "input"), _fields(answers, "output")
    if answers.group or given.group not in ("", *given.properties):
        _refuse("the contract's group", f"it names an input field, and {answers.group or given.group!r} is none")
    if len(inputs) + len(outputs) > MAX_COLUMNS:
        _refuse("the contract", f"it has {len(inputs) + len(outputs)} fields in all, and may have {MAX_COLUMNS}")
    known: dict[str, Field] = {}
    for field in (*inputs, *outputs):
        if (other := known.setdefault(field.column, field)) is not field:
            both = f"{other.name!r} and {field.name!r}"
            _refuse("the contract", f"the fields {both} have the same column {field.column!r}")
    _check_outputs(outputs)
    natural = tuple(field.column for field in inputs)
    if whole.columns and sorted(whole.columns) != sorted(natural):
        odd, *_ = sorted(set(whole.columns) ^ set(natural)) or ["one twice"]
        _refuse("the contract's columns", f"they have to be those of the input fields, once each: {odd!r}")
    return Contract(
        noun=given.title.lower(),
        description=given.description,
        inputs=inputs,
        outputs=outputs,
        columns=whole.columns or natural,
        group=column_name(given.group),
        document=msgspec.to_builtins(document),
    )


@cache
def review_contract() -> Contract:
    """Return the contract of the shipped model, and of every card that has none."""
    return parse_contract(msgspec.json.decode(files(__package__).joinpath("reviews.json").read_bytes()))


def _convert(found: Any, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(found, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        _refuse(where, str(error))


def _check_json(found: Any, where: str) -> None:
    """Refuse what no file, no answer and no database can hold."""
    try:
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    except RecursionError:
        _refuse(where, "it is nested too deeply")
    except (TypeError, ValueError) as error:  # half of a surrogate pair too
        _refuse(where, f"it cannot be written as JSON: {error}")


def _refuse(where: str, why: str) -> NoReturn:
    raise ContractInvalid(f"{where}: {why}", hint=_REFERENCE)


def _fields(schema: _Object, part: str) -> tuple[Field, ...]:
    where = f"the contract's {part}"
    _check_json([schema.title, schema.description], where)
    if not 1 <= len(schema.properties) <= MAX_FIELDS:
        _refuse(where, f"it has {len(schema.properties)} fields, and may have 1 to {MAX_FIELDS}")
    for name in schema.required:
        if name not in schema.properties:
            _refuse(where, f"'required' names {name!r}, which is none of its properties")
    return tuple(_field(name, each, part, name in schema.required) for name, each in schema.properties.items())


def _field(name: str, found: Any, part: str, required: bool) -> Field:
    where = f"the contract's {part} field {name[:_MAX_NAME]!r}"
    column = _column(name, where, part)
    if column in (PREDICTION, CONFIDENCE, PROBABILITIES) and part == "input":
        _refuse(where, f"the name {column!r} is an output's")
    _check_json(found, where)
    schema = _convert(found, _Property, where)
    kind, nullable = _kind(schema, where, "object" if part == "input" else "")
    field = Field(
        name=name,
        column=column,
        kind=kind,
        nullable=nullable,
        choices=tuple(choice for choice in schema.enum if choice is not None),
        **{attribute: getattr(schema, attribute) for attribute in _SAME},
    )
    _check_bounds(field, schema, where)
    for example in schema.examples:
        _value(example, field, where, "an example")
    return msgspec.structs.replace(field, default=_default(schema, field, where, part, required=required))


def _column(name: str, where: str, part: str) -> str:
    if not (name.isprintable() and name == name.strip() and 0 < len(name) <= _MAX_NAME):
        _refuse(where, f"a name has 1 to {_MAX_NAME} printable characters, and no space at its ends")
    if bad := _NOT_IN_A_NAME.intersection(name):
        _refuse(where, f"a name has none of {' '.join(sorted(_NOT_IN_A_NAME))}, and this has {min(bad)}")
    column = column_name(name)
    if not column or column[0].isdigit():
        _refuse(where, "its column's name needs a letter from A to Z first")
    if len(column) > MAX_COLUMN_BYTES:
        _refuse(where, f"its column {column!r} has {len(column)} bytes, and may have {MAX_COLUMN_BYTES}")
    of_output = column in RESERVED["of_outputs"] or column.startswith(RESERVED["begin_outputs"])
    if column in RESERVED["columns"] or (part == "output" and of_output):
        _refuse(where, f"its column {column!r} is one of bdlab's own")
    return column


def _kind(schema: _Property, where: str, not_here: str) -> tuple[Any, bool]:
    """Return the kind of value, and whether it may be null."""
    named = [schema.type] if isinstance(schema.type, str) else list(schema.type)
    nullable = "null" in named or None in schema.enum
    kinds = [each for each in named if each != "null"]
    if schema.enum:
        kinds = kinds or ["string"]
        if kinds != ["string"] or len(set(schema.enum)) != len(schema.enum) or schema.enum == (None,):
            _refuse(where, "an enum has different strings, and its type is string")
    if len(kinds) != 1 or kinds[0] not in {"string", "integer", "number", "boolean", "object"} - {not_here}:
        _refuse(where, "its type has to be one of string, integer, number or boolean, alone or in a list with null")
    if schema.format and (kinds != ["string"] or schema.enum):
        _refuse(where, "the format date-time belongs to a string")
    return schema.format or kinds[0], nullable


def _check_bounds(field: Field, schema: _Property, where: str) -> None:
    if field.kind not in ("integer", "number") and (field.minimum, field.maximum) != (None, None):
        _refuse(where, f"'minimum' and 'maximum' belong to numbers, and its type is {field.kind}")
    if not field.is_text and (field.min_length, field.max_length) != (0, None):
        _refuse(where, "'minLength' and 'maxLength' belong to a string without enum and format")
    least, greatest = BOUNDS.get(field.kind, (0, 0))
    low, high = field.minimum, field.maximum
    for bound in (low, high):
        whole = field.kind != "integer" or not isinstance(bound, float)
        if bound is not None and not (whole and least <= bound <= greatest):
            _refuse(where, f"the bound {reprlib.repr(bound)} is no {field.kind} of 64 bits")
    if low is not None and high is not None and low > high:
        _refuse(where, f"'minimum' {low} is above 'maximum' {high}")
    if field.max_length is not None and field.min_length > field.max_length:
        _refuse(where, f"'minLength' {field.min_length} is above 'maxLength' {field.max_length}")
    for choice in field.choices:
        if not choice or "\x00" in choice or not choice.isprintable() or len(choice) > _MAX_NAME:
            _refuse(where, f"a value of an enum has 1 to {_MAX_NAME} printable characters")
    wanted: Any = {"type": "number"} if field.kind == "object" else UNSET
    if schema.additional_properties != wanted:
        _refuse(where, f"'additionalProperties' is of {PROBABILITIES!r} alone, which has numbers")


def _default(schema: _Property, field: Field, where: str, part: str, *, required: bool) -> Any:
    if part == "output" and field.since == 1:
        if schema.default is not UNSET:
            _refuse(where, "an output has no default, as the model gives each")
        return UNSET
    if schema.default is not UNSET:
        if required:
            _refuse(where, "it is required, and has a default")
        if field.kind == "object" and schema.default:
            _refuse(where, f"the default of {PROBABILITIES!r} is an object without numbers")
        return _value(schema.default, field, where, "the default")
    if not required and field.nullable:
        return None
    if field.since > 1:
        _refuse(where, "a field that is added is not required, and is nullable or has a default")
    if not required:
        _refuse(where, "it is not required, and has neither a default nor the type null")
    return UNSET


def _value(found: Any, field: Field, where: str, what: str) -> Any:
    try:
        value = msgspec.convert(found, type_of(field))
    except msgspec.ValidationError as error:
        _refuse(where, f"{what}, {reprlib.repr(found)}, does not fit it: {error}")
    if isinstance(value, str) and ("\x00" in value or (field.min_length and not value.strip())):
        _refuse(where, f"{what} is empty, or holds a NUL character")
    try:
        return value.astimezone(UTC) if isinstance(value, datetime) else value
    except OverflowError:
        _refuse(where, f"{what} is not within the years 1 to 9999 in UTC")


def _check_outputs(outputs: tuple[Field, ...]) -> None:
    named = {field.name: field for field in outputs}
    prediction, confidence = named.get(PREDICTION), named.get(CONFIDENCE)
    if prediction is None or prediction.nullable or not (prediction.kind == "number" or prediction.choices):
        _refuse("the contract's output", f"it needs {PREDICTION!r}: a number, or an enum of the classes")
    if prediction.choices and confidence is None:
        _refuse("the contract's output", f"a classification needs {CONFIDENCE!r}, a number from 0 to 1")
    if confidence and (confidence.kind, confidence.minimum, confidence.maximum) != ("number", 0, 1):
        _refuse(f"the contract's output field {CONFIDENCE!r}", "it is a number from 0 to 1")
    for field in outputs:
        where = f"the contract's output field {field.name!r}"
        if field.name != field.column:
            _refuse(where, f"an output's name is its column's: write {field.column!r}")
        if (field.kind == "object") != (field.name == PROBABILITIES) or (field.kind == "object" and field.nullable):
            _refuse(where, f"{PROBABILITIES!r}, and it alone, is an object of numbers")


def check_evolution(old: Contract, new: Contract) -> bool:
    """Return whether `new` adds fields to `old`; false if it has the same. Raises ContractMismatch if it removes or
    changes one, or has an addition that is not numbered as one."""
    _compare(new.at(old.number), old, "the database", "the card")
    return new.number > old.number


def check_fits(card: Contract, stored: Contract) -> None:
    """Raise ContractMismatch if predictions of a model with `card` do not fit a database with `stored`. A card with a
    lower number fits: its events have the defaults of what was added since."""
    if card.number > stored.number:
        added = next(field.name for field in (*card.inputs, *card.outputs) if field.since > stored.number)
        mine = f"the model's contract is number {card.number}, with the field {added!r}"
        hint = "Run `bdlab migrate` with the model's card."
        raise ContractMismatch(f"{mine}, and the database has number {stored.number}", hint=hint)
    _compare(card, stored.at(card.number), "the database", "the model")


def _compare(one: Contract, other: Contract, others: str, ones: str) -> None:
    mine, theirs = f"{ones}'s contract", f"{others}'s contract"
    for part in ("inputs", "outputs"):
        found, wanted = ({field.name: field for field in getattr(each, part)} for each in (one, other))
        for name, field in (wanted | found).items():
            if name not in found:
                raise _mismatch(f"{mine} is without the field {name!r} ({field.kind}) of {theirs}")
            if name not in wanted:
                hint = f'If it is new, give it "since": {other.number + 1}, and a default or null.'
                raise _mismatch(f"the field {name!r} ({field.kind}) of {mine} is not in {theirs}", hint=hint)
            for attribute in Field.__struct_fields__:
                here, there = getattr(field, attribute), getattr(wanted[name], attribute)
                if here != there and attribute not in _WORDS:
                    what = f"{_KEYWORDS.get(attribute, attribute)} is {_worded(here)} in {mine}"
                    raise _mismatch(f"the field {name!r}: {what}, and {_worded(there)} in {theirs}")
        if list(found) != list(wanted):
            raise _mismatch(f"the {part} of {mine} stand in another order than those of {theirs}")
    if one.columns != other.columns:
        raise _mismatch(f"the columns of {mine} stand in another order than those of {theirs}")


def _worded(value: object) -> str:
    return "not given" if value is None or value is UNSET else repr(value)


def _mismatch(message: str, hint: str = _ADD_ONLY) -> ContractMismatch:
    return ContractMismatch(message, hint=hint)
