"""How a model's inputs and predictions are distributed, and how far others are from that. Pure."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bdlab.contract import Field

NULL = -1
"""The bin of a missing value."""
PROFILED = 20_000
"""No more rows make a profile."""
_BINS = 10
_MOST_VALUES, _ROWS_A_VALUE = 20, 10
_LEAST_SHARE = 1e-4
"""Stands in for a share of 0, of which PSI would be infinite."""
_Share = Annotated[float, Meta(ge=0, le=1)]


class Distribution(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The shares of a field's bins, and of its missing values. With `edges`, bin i has what is at least edges[i - 1]
    and less than edges[i]: a number, a moment in seconds since 1970, or with `length` the characters of a text. With
    `values`, each has a bin, and the last is any other's."""

    shares: Annotated[tuple[_Share, ...], Meta(max_length=1000)]
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    length: bool = False
    nulls: _Share = 0.0

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.edges or self.values) + 1 or bool(self.edges) == bool(self.values):
            raise ValueError("a distribution has edges or values, and one share more than these")
        if any(one >= other for one, other in pairwise(self.edges)):
            raise ValueError("the edges of a distribution ascend")

    def bin_of(self, value: Any) -> int:
        """Return the bin of a field's value, as its column has it."""
        if value is None:
            return NULL
        if self.values:
            found = str(value).lower() if isinstance(value, bool) else str(value)
            return self.values.index(found) if found in self.values else len(self.values)
        return bisect_right(self.edges, _number(value))

    def label(self, place: int) -> str:
        """Return the words for a bin."""
        if place == NULL:
            return "null"
        if self.values:
            return self.values[place] if place < len(self.values) else "(other)"
        low = f"{self.edges[place - 1]:g}" if place else ""
        high = f"{self.edges[place]:g}" if place < len(self.edges) else ""
        words = f"{low} to {high}" if low and high else f"from {low}" if low else f"below {high}"
        return words + " characters" * self.length

    def psi(self, counts: Mapping[int, int]) -> float:
        """Return the population stability index of a field that has so many values in each bin."""
        total, found = sum(counts.values()), 0.0
        for place, share in ((NULL, self.nulls), *enumerate(self.shares)):
            wanted, had = max(share, _LEAST_SHARE), max(counts.get(place, 0) / total, _LEAST_SHARE)
            found += (had - wanted) * math.log(had / wanted)
        return found


class Profile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The reference of a model: of `rows` rows, the fields by their names in the contract, and of each row the share of
    known terms, if the model reports it."""

    rows: Annotated[int, Meta(ge=1)]
    fields: dict[str, Distribution]
    known_terms: Distribution | None = None


def distribution_of(field: Field, found: Sequence[Any]) -> Distribution:
    """Return the distribution of a field's values, of which at least one is not None. An enum and a boolean have their
    values, as has a text of few; all else has the deciles of its numbers, or of its length."""
    there = [value for value in found if value is not None]
    values = ("false", "true") if field.kind == "boolean" else field.choices
    if field.is_text and len(different := sorted({*there})) <= min(_MOST_VALUES, len(there) // _ROWS_A_VALUE):
        values = tuple(different)
    edges = () if values else _edges(sorted(map(_number, there)))
    shares = (0.0,) * (len(edges or values) + 1)
    empty = Distribution(shares=shares, edges=edges, values=values, length=field.is_text and not values)
    counts = Counter(map(empty.bin_of, found))
    nulls, *full = (round(counts[place] / len(found), 6) for place in range(NULL, len(shares)))
    return msgspec.structs.replace(empty, shares=tuple(full), nulls=nulls)


def profile_of(
    fields: Iterable[Field], columns: Mapping[str, Sequence[Any]], known_terms: Sequence[float | None] = ()
) -> Profile:
    """Return the profile of those `fields` whose `columns` are given and hold a value, and that can drift: moments do
    by themselves."""
    found = {field: columns.get(field.column, ()) for field in fields if field.kind not in ("date-time", "object")}
    there = {field: values for field, values in found.items() if any(value is not None for value in values)}
    known = [share for share in known_terms if share is not None]
    return Profile(
        rows=max(map(len, there.values())),
        fields={field.name: distribution_of(field, values) for field, values in there.items()},
        known_terms=distribution_of(Field(name="", column="", kind="number"), known) if known else None,
    )


def _number(value: Any) -> float:
    if isinstance(value, str):
        return len(value)
    return value.timestamp() if isinstance(value, datetime) else float(value)


def _edges(numbers: Sequence[float]) -> tuple[float, ...]:
    """Return what divides ascending numbers into tenths; a number that is a tenth by itself has a bin of its own."""
    different = sorted(set(numbers))
    if len(different) == 1:
        return different[0], math.nextafter(different[0], math.inf)
    if len(different) <= _BINS:
        return tuple(different[1:])
    cuts = Counter(numbers[len(numbers) * tenth // _BINS] for tenth in range(1, _BINS))
    heavy = [place for cut in cuts if cuts[cut] > 1 and (place := bisect_right(different, cut)) < len(different)]
    rounded = {float(f"{edge:.6g}") for edge in (*cuts, *(different[place] for place in heavy))}
    return tuple(sorted(edge for edge in rounded if edge > different[0])) or (different[1],)
