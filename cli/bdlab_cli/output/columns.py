"""The columns of a table of predictions, made from their contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from bdlab.contract import Contract
from bdlab.contract.fields import CONFIDENCE, PREDICTION, PROBABILITIES

if TYPE_CHECKING:
    from rich.text import Text

_SENTIMENT = "sentiment"
_COLOURS = {"positive": "green", "negative": "red"}
Row = Mapping[str, Any]
"""The fields of a prediction by their columns, as JSON has them; stored ones have no `warning`."""


class Column(NamedTuple):
    """A title, and the cell of a row."""

    title: str
    cell: Callable[[Row], Text]


def is_rating(contract: Contract) -> bool:
    """Return whether predictions are stars, 1 to 5, with a sentiment."""
    named = {field.name: field for field in contract.outputs}
    return _SENTIMENT in named and (named[PREDICTION].minimum, named[PREDICTION].maximum) == (1, 5)


def input_columns(contract: Contract) -> list[Column]:
    """Return the columns that tell inputs apart: if one needs a text, its first text that is not empty,
    otherwise its first fields."""
    texts = [field for field in contract if field.is_text and field in contract.inputs]
    if not any(field.required for field in texts):
        return [_as_it_is(column) for column in contract.columns[:6]]
    names = [field.column for field in texts]
    return [Column(contract.noun, lambda row: _text(_short(next(filter(None, map(row.get, names)), ""))))]


def output_columns(contract: Contract, *, wide: bool = True, words: bool = True) -> list[Column]:
    """Return the columns of the outputs, a class with its confidence and `?` for a doubt; and, if they are
    `wide`, with `words` that of the strongest terms."""
    rated = is_rating(contract)
    chief = _SENTIMENT if rated else PREDICTION
    named = {field.name: field for field in contract.outputs}
    left_out = {PROBABILITIES, CONFIDENCE} if named[chief].choices else {PROBABILITIES}

    def chief_cell(row: Row) -> Text:
        confidence = row.get(CONFIDENCE) if CONFIDENCE in left_out else None
        beside = "" if confidence is None else f" {confidence:.0%}"
        doubt = " ?" if row.get("warning") else ""
        return _text(f"{_plain(row[chief])}{beside}{doubt}", _COLOURS.get(row[chief], "") if rated else "")

    def stars(row: Row) -> Text:
        number, full = f"{row[PREDICTION]:.1f}", round(row[PREDICTION])
        return _text(f"{'★' * full}{'☆' * (5 - full)} {number}" if wide else number)

    def top_words(row: Row) -> Text:
        terms = [term for term in row["explanation"][:4] if abs(term["weight"]) >= 0.05]
        return _text(", ".join(f"{term['term']} {term['weight']:+.1f}" for term in terms) or "(none)")

    rest = [_as_it_is(name) for name in named if name not in left_out | {chief, PREDICTION}]
    last = [Column("top words", top_words)] if wide and words else []
    return [*([Column("stars", stars)] if rated else []), Column(chief, chief_cell), *rest, *last]


def _as_it_is(name: str) -> Column:
    return Column(name, lambda row: _text(_plain(row[name])))


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    return "-" if value is None else _short(str(value).lower() if isinstance(value, bool) else str(value))


def _short(text: str, length: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
