"""How contracts may differ: a newer one adds fields, and changes nothing else."""

import msgspec

from bdlab.contract.fields import Contract, Field
from bdlab.errors import ContractMismatch

#: What may differ without a consequence for what is stored.
_WORDS = ("description", "examples")
_KEYWORDS = {"kind": "type", "choices": "enum", "min_length": "minLength", "max_length": "maxLength"}


def check_evolution(old: Contract, new: Contract) -> bool:
    """Return whether `new` adds fields to `old`; false if it has the same.

    Raises ContractMismatch if it removes or changes one, or has an addition that is not numbered as one.
    """
    _compare(new.at(old.number), old, "the database", "the card")
    return new.number > old.number


def check_fits(card: Contract, stored: Contract) -> None:
    """Raise ContractMismatch if predictions of a model with `card` do not fit a database with `stored`.

    A card with a lower number fits: its events have the defaults of what was added since.
    """
    if card.number > stored.number:
        added = next(field for field in (*card.inputs, *card.outputs) if field.since > stored.number)
        raise ContractMismatch(
            f"the model's contract is number {card.number}, with the field {added.name!r}, and the database "
            f"has number {stored.number}",
            hint="Run `bdlab migrate` with the model's card.",
        )
    _compare(card, stored.at(card.number), "the database", "the model")


def _compare(one: Contract, other: Contract, others: str, ones: str) -> None:
    mine, theirs = f"{ones}'s contract", f"{others}'s contract"
    for part in ("inputs", "outputs"):
        found, wanted = ({field.name: field for field in getattr(each, part)} for each in (one, other))
        for name, field in (wanted | found).items():
            if name not in found:
                raise _mismatch(f"{mine} is without the field {name!r} ({field.kind}) of {theirs}")
            if name not in wanted:
                raise _mismatch(
                    f"the field {name!r} ({field.kind}) of {mine} is not in {theirs}",
                    hint=f'If it is new, give it "since": {other.number + 1}, and a default or null.',
                )
            if why := _difference(field, wanted[name]):
                raise _mismatch(f"the field {name!r}: {why[0]} in {mine}, and {why[1]} in {theirs}")
        if list(found) != list(wanted):
            raise _mismatch(f"the {part} of {mine} stand in another order than those of {theirs}")
    if one.columns != other.columns:
        raise _mismatch(f"the columns of {mine} stand in another order than those of {theirs}")


def _difference(one: Field, other: Field) -> tuple[str, str] | None:
    for attribute in Field.__struct_fields__:
        here, there = getattr(one, attribute), getattr(other, attribute)
        if here != there and attribute not in _WORDS:
            return f"{_KEYWORDS.get(attribute, attribute)} is {_shown(here)}", _shown(there)
    return None


def _shown(value: object) -> str:
    return "not given" if value is None or value is msgspec.UNSET else repr(value)


def _mismatch(message: str, hint: str = "") -> ContractMismatch:
    return ContractMismatch(
        message,
        hint=hint or "A contract may only add fields. Another contract needs another deployment: docs/contract.md.",
    )
