"""The fields of a contract, their columns and types, an example of an input, and the structs of what has them."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar, cast
from uuid import UUID

import msgspec
from msgspec import Meta

B = TypeVar("B", bound=msgspec.Struct)
C = TypeVar("C", bound=msgspec.Struct)
D = TypeVar("D", bound=msgspec.Struct)
Kind = Literal["string", "integer", "number", "boolean", "date-time", "object", "uuid", "word"]
"""The last two are of feedback's own fields; no contract has them."""
INT64 = (-(2**63), 2**63 - 1)
FLOAT64 = (-sys.float_info.max, sys.float_info.max)
INT32 = (-(2**31), 2**31 - 1)
BOUNDS: dict[str, tuple[float, float]] = {"integer": INT64, "number": FLOAT64}
"""The least and the greatest number of each kind."""
PREDICTION, CONFIDENCE, PROBABILITIES = "prediction", "confidence", "probabilities"
ANSWERS = frozenset((PREDICTION, CONFIDENCE, PROBABILITIES))
"""Columns of outputs alone."""
_WORD_ENDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
MOMENT: Any = Annotated[datetime, Meta(tz=True)]
SOURCE: Any = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,39}\Z")]
_STRICT: Any = {"frozen": True, "kw_only": True, "forbid_unknown_fields": True, "gc": False}


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field. `name` is on the wire, `column` in events, tables and files. `choices` are the values of an enum;
    `default` is UNSET for a field that has to be given. `since` is the number of the contract that added the field.
    Lengths are in characters."""

    name: str
    column: str
    kind: Kind
    nullable: bool = False
    choices: tuple[str, ...] = ()
    minimum: int | float | None = None
    maximum: int | float | None = None
    min_length: int = 0
    max_length: int | None = None
    default: Any = msgspec.UNSET
    since: int = 1
    description: str = ""
    examples: tuple[Any, ...] = ()

    @property
    def required(self) -> bool:
        """Whether a request has to give it."""
        return self.default is msgspec.UNSET

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest number: its own, or those of 64 bits."""
        low, high = BOUNDS.get(self.kind, FLOAT64)
        return low if self.minimum is None else self.minimum, high if self.maximum is None else self.maximum

    @property
    def is_text(self) -> bool:
        """Whether its values are free text."""
        return self.kind == "string" and not self.choices


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a model. `noun` is what messages call an input ("review"). `description` says what its inputs are,
    in the plural ("product reviews"), if that is not the noun's. `columns` has those of the inputs in the order of the
    event and the table, `group` the one whose equal values training keeps together, if there is one; `document` is the
    JSON that it was parsed from."""

    noun: str
    description: str = ""
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    columns: tuple[str, ...]
    group: str = ""
    document: dict[str, Any]

    def __iter__(self) -> Iterator[Field]:
        """Iterate over the fields in the order of the event and the table."""
        by_column = {field.column: field for field in self.inputs}
        yield from (by_column[column] for column in self.columns)
        yield from self.outputs

    @property
    def number(self) -> int:
        """The contract's number: it goes up with each addition of fields."""
        return max(field.since for field in (*self.inputs, *self.outputs))

    @property
    def one(self) -> str:
        """The noun with its article: "a review"."""
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"

    @property
    def plural(self) -> str:
        """The noun of several inputs: "reviews"."""
        stem = re.sub(r"(?<![aeiou])y$", "ie", self.noun)
        return re.sub(r"([sxz]|[cs]h)$", r"\1e", stem) + "s"

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of a classification, empty for a regression."""
        return next(field.choices for field in self.outputs if field.name == PREDICTION)

    @property
    def truths(self) -> tuple[Field, ...]:
        """The outputs of which a right answer can be known, each nullable: all but the model's own doubt."""
        known = (field for field in self.outputs if field.name not in (CONFIDENCE, PROBABILITIES))
        return tuple(msgspec.structs.replace(field, nullable=True, default=None) for field in known)

    def at(self, number: int) -> Contract:
        """Return the contract without the fields that were added after `number`."""
        inputs, outputs = (
            tuple(field for field in fields if field.since <= number) for fields in (self.inputs, self.outputs)
        )
        kept = {field.column for field in inputs}
        columns = tuple(column for column in self.columns if column in kept)
        return msgspec.structs.replace(self, inputs=inputs, outputs=outputs, columns=columns)


def column_name(name: str) -> str:
    """Return the column of the field `name`, in snake_case: ``HelpfulnessNumerator`` is ``helpfulness_numerator``,
    ``petal width (cm)`` is ``petal_width_cm``, ``Größe`` is ``grosse``. It is empty, or begins with a digit, for a name
    without a usable one."""
    ascii_only = unicodedata.normalize("NFKD", name.replace("ß", "ss")).encode("ascii", "ignore").decode()
    return "_".join(words_of(ascii_only))


def words_of(name: str) -> list[str]:
    """Return the words of a name, in lower case."""
    return [word.lower() for word in re.split(r"[\W_]+", _WORD_ENDS.sub("_", name)) if word]


def example_of(contract: Contract) -> dict[str, Any]:
    """Return a valid input as JSON: of each field its first example, or `shortest` if it has none and has to be
    given."""
    wanted = (field for field in contract.inputs if field.examples or field.required)
    return {field.name: field.examples[0] if field.examples else shortest(field) for field in wanted}


def shortest(field: Field) -> Any:
    """Return a valid value, as JSON: the first of an enum, the number nearest to 1, the shortest text."""
    if field.choices:
        return field.choices[0]
    if field.kind == "string":
        return "a" * (field.min_length or field.max_length != 0)
    if field.kind == "date-time":
        return "2026-01-31T12:00:00Z"
    if field.kind == "boolean":
        return False
    low, high = field.bounds
    return min(max(1, low), high)


def type_of(field: Field) -> Any:
    """Return the type that msgspec checks a value against; its bounds are the field's."""
    limits = Meta(ge=field.bounds[0], le=field.bounds[1])  # which leave out what is no finite number
    text = Annotated[str, Meta(min_length=field.min_length or None, max_length=field.max_length)]
    # Not both: `typing` would give the bounds 0.0 of a number to an integer with 0, which equals it.
    number: Any = Annotated[int, limits] if field.kind == "integer" else Annotated[float, limits]
    kinds: dict[str, Any] = {"string": text, "integer": number, "number": number}
    kinds |= {"date-time": MOMENT, "boolean": bool, "uuid": UUID, "word": SOURCE, "object": dict[str, float]}
    kind: Any = Literal[field.choices] if field.choices else kinds[field.kind]
    return kind | None if field.nullable else kind


def prediction_types(
    contract: Contract, given: type[B], score: type[C], event: type[D], *, explanation: Any, schema_version: int
) -> tuple[type[B], type[C], type[D]]:
    """Return the structs of an input, whose attributes are columns and whose JSON has names, of a model's output, and
    of an event: what it is about first, the times last. Each is a subclass of the one given. A field that was added
    later has its default in events from before. The event has the contract's number as `CONTRACT`, since columns are in
    lower case."""
    inputs = [_given(field, optional=not field.required) for field in contract.inputs]
    names = {field.column: field.name for field in contract.inputs}
    fields = [
        ("id", UUID),
        *(_given(field, optional=field.since > 1) for field in contract),
        ("explanation", explanation),
        ("model", Annotated[str, Meta(min_length=1, max_length=200)]),
        *_times(schema_version),
    ]
    return (
        _struct(contract.noun.title().replace(" ", ""), inputs, given, rename=names),
        _struct("Score", [_given(field) for field in contract.outputs], score),
        _struct("PredictionEvent", fields, event, namespace={"CONTRACT": contract.number}),
    )


def feedback_types(
    contract: Contract, given: type[B], event: type[C], *, schema_version: int
) -> tuple[type[B], type[C]]:
    """Return the struct of a feedback as somebody gives it, a subclass of `given`, and of its event."""
    truths = contract.truths
    about = [("prediction_id", UUID), *(_given(field, optional=True) for field in truths)]
    space = {"CONTRACT": contract.number, "TRUTHS": tuple(field.column for field in truths)}
    more = [("source", SOURCE | None, None), ("created_at", MOMENT | None, None)]
    fields = [("id", UUID), *about, ("source", SOURCE), *_times(schema_version)]
    made = _struct("Feedback", [*about, *more], given, namespace=space, omit_defaults=True)
    return made, _struct("FeedbackEvent", fields, event, namespace=space)


def _times(schema_version: int) -> list[Any]:
    return [("created_at", MOMENT), ("timestamp", MOMENT), ("schema_version", int, schema_version)]


class Copier(Generic[B]):
    """Makes structs of the type `into` from others with fields of the same names, which it finds once. A field that
    several of the types `sources` have is taken from the first; those in `but` are given."""

    def __init__(self, into: type[B], *sources: type[msgspec.Struct], but: Collection[str] = ()) -> None:
        self._into = into
        left = [name for name in into.__struct_fields__ if name not in but]
        self._names: list[list[str]] = []
        for source in sources:
            self._names.append([name for name in left if name in source.__struct_fields__])
            left = [name for name in left if name not in source.__struct_fields__]

    def __call__(self, *sources: msgspec.Struct, **fields: Any) -> B:
        for names, source in zip(self._names, sources, strict=True):
            for name in names:
                fields[name] = getattr(source, name)
        return self._into(**fields)


def _given(field: Field, *, optional: bool = False) -> Any:
    kind = type_of(field)
    return (field.column, kind, field.default) if optional else (field.column, kind)


def _struct(name: str, fields: list[Any], base: type[B], **options: Any) -> type[B]:
    return cast("type[B]", msgspec.defstruct(name, fields, bases=(base,), module=__name__, **_STRICT, **options))
