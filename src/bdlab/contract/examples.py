"""Examples of a contract's input."""

from typing import Any

from bdlab.contract.fields import Contract, Field

_MOMENT = "2026-01-31T12:00:00Z"


def example_of(contract: Contract) -> dict[str, Any]:
    """Return a valid input as JSON: of each field its first example; if it has none, and has to be given, the
    first of its values, the number that is nearest to 1, or the shortest text.
    """
    return {
        field.name: field.examples[0] if field.examples else _shortest(field)
        for field in contract.inputs
        if field.examples or field.required
    }


def _shortest(field: Field) -> Any:
    if field.choices:
        return field.choices[0]
    if field.kind == "string":
        return "a" * (field.min_length or field.max_length != 0)
    if field.kind == "date-time":
        return _MOMENT
    if field.kind == "boolean":
        return False
    low, high = field.bounds
    return min(max(1, low), high)
