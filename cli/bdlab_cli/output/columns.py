"""The columns of a table of predictions, made from their contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from bdlab.contract import Contract
from bdlab.contract.fields import CONFIDENCE, PREDICTION, PROBABILITIES

if TYPE_CHECKING:
    from rich.text import Text

_TOP_TERMS = 4
_SHOWN_WEIGHT = 0.05
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
    prediction = named[PREDICTION]
    return _SENTIMENT in named and (prediction.minimum, prediction.maximum) == (1, 5)


def input_column(contract: Contract) -> Column:
    """Return the column that tells inputs apart: if one needs a text, its first text that is not empty,
    otherwise its fields.
    """
    from rich.text import Text

    texts = [field.column for field in contract if field.is_text and field in contract.inputs]
    if not any(field.required and field.is_text for field in contract.inputs):
        texts = []

    def cell(row: Row) -> Text:
        text = next((row[column] for column in texts if row[column]), "")
        return Text(_short(text or ", ".join(f"{name} {_plain(row[name])}" for name in contract.columns)))

    return Column(contract.noun, cell)


def output_columns(contract: Contract, *, wide: bool = True) -> list[Column]:
    """Return the columns of the outputs. A class has its confidence beside it, and a doubtful one a `?`."""
    from rich.text import Text

    rated = is_rating(contract)
    chief = _SENTIMENT if rated else PREDICTION
    named = {field.name: field for field in contract.outputs}
    classes = named[chief].choices and CONFIDENCE in named

    def chief_cell(row: Row) -> Text:
        text = _plain(row[chief])
        confidence = f" {row[CONFIDENCE]:.0%}" if classes else ""
        doubt = " ?" if row.get("warning") else ""
        return Text(f"{text}{confidence}{doubt}", style=_COLOURS.get(text, "") if rated else "")

    def column(name: str) -> Column:
        if name == chief:
            return Column(name, chief_cell)
        if rated and name == PREDICTION:
            return Column("stars", lambda row: Text(stars(row[name]) if wide else f"{row[name]:.1f}"))
        return Column(name, lambda row: Text(_plain(row[name])))

    left_out = {PROBABILITIES, CONFIDENCE} if classes else {PROBABILITIES}
    return [column(name) for name in named if name not in left_out]


def top_words() -> Column:
    """Return the column of the strongest terms with their weight, like terrible -1.9, waste -0.8."""
    from rich.text import Text

    def cell(row: Row) -> Text:
        terms = [term for term in row["explanation"][:_TOP_TERMS] if abs(term["weight"]) >= _SHOWN_WEIGHT]
        return Text(", ".join(f"{term['term']} {term['weight']:+.1f}" for term in terms) or "(none)")

    return Column("top words", cell)


def stars(prediction: float) -> str:
    """Return stars like ★★★★☆ 3.9."""
    full = round(prediction)
    return f"{'★' * full}{'☆' * (5 - full)} {prediction:.1f}"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else _short(str(value).lower() if isinstance(value, bool) else str(value))


def _short(text: str, length: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
