"""msgspec's types for the fields of a contract, and the structs of its inputs, scores and events."""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta

from bdlab.contract.fields import Contract, Field

B = TypeVar("B", bound=msgspec.Struct)


def type_of(field: Field) -> Any:
    """Return the type that msgspec checks a value against; its bounds are the field's."""
    kind: Any
    if field.choices:
        kind = Literal[field.choices]
    elif field.kind == "string":
        kind = Annotated[str, Meta(min_length=field.min_length or None, max_length=field.max_length)]
    elif field.kind in ("integer", "number"):
        low, high = field.bounds  # which leave out what is no finite number
        number: Any = int if field.kind == "integer" else float
        kind = Annotated[number, Meta(ge=low, le=high)]
    elif field.kind == "date-time":
        kind = Annotated[datetime, Meta(tz=True)]
    else:
        kind = bool if field.kind == "boolean" else dict[str, float]
    return kind | None if field.nullable else kind


def input_type(contract: Contract, base: type[B]) -> type[B]:
    """Return the struct of an input, a subclass of `base`: its attributes are columns, its JSON has names."""
    return _struct(
        contract.noun.title().replace(" ", ""),
        [_given(field, optional=not field.required) for field in contract.inputs],
        base,
        rename={field.column: field.name for field in contract.inputs},
    )


def score_type(contract: Contract, base: type[B]) -> type[B]:
    """Return the struct of a model's output, a subclass of `base`."""
    return _struct("Score", [_given(field) for field in contract.outputs], base)


def event_type(contract: Contract, base: type[B], *, explanation: Any, schema_version: int) -> type[B]:
    """Return the struct of an event: what it is about first, the times last.

    A field that was added later has its default in events from before. The class has the contract's number
    as `CONTRACT`, since columns are in lower case.
    """
    moment = Annotated[datetime, Meta(tz=True)]
    fields = [
        ("id", UUID),
        *(_given(field, optional=field.since > 1) for field in contract),
        ("explanation", explanation),
        ("model", Annotated[str, Meta(min_length=1, max_length=200)]),
        ("created_at", moment),
        ("timestamp", moment),
        ("schema_version", int, schema_version),
    ]
    return _struct("PredictionEvent", fields, base, namespace={"CONTRACT": contract.number})


def _given(field: Field, *, optional: bool = False) -> Any:
    kind = type_of(field)
    return (field.column, kind, field.default) if optional else (field.column, kind)


def _struct(name: str, fields: list[Any], base: type[B], **options: Any) -> type[B]:
    made: type[B] = msgspec.defstruct(  # type: ignore[assignment] # it is a subclass of the base
        name,
        fields,
        bases=(base,),
        module=__name__,
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
        gc=False,
        **options,
    )
    return made
