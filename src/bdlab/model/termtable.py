"""The run-time scorer's data file: gzip of one JSON object, numbers and terms only, nothing to execute."""

from __future__ import annotations

import gzip
import zlib
from typing import Literal, get_args

import msgspec

from bdlab.errors import ModelError

Format = Literal["bdlab-terms/1", "bdlab-terms/2"]
"""Changes with the layout, and with what `bdlab.model.terms` makes of a text: 2 normalises it, 1 does not."""

FORMAT: Format = "bdlab-terms/2"
"""What is written; both are read."""

_COMPRESSION = 9


class Intercepts(msgspec.Struct, frozen=True):
    """What the two heads answer, before their logistic function, where no term is known."""

    rating: float
    sentiment: float


class Field(msgspec.Struct, frozen=True):
    """Parallel lists, one entry a term.

    A term is a token, or two with a space between. `rating` and `sentiment` are weights on the unit-length
    vector of the inverse document frequencies `idf` of the field's terms; a term counts once.
    """

    terms: list[str]
    idf: list[float]
    rating: list[float]
    sentiment: list[float]


class TermTable(msgspec.Struct, frozen=True):
    format: Format
    intercepts: Intercepts
    summary: Field
    review: Field


def encode(table: TermTable) -> bytes:
    """The same bytes for the same table, whenever and wherever it is written."""
    return gzip.compress(msgspec.json.encode(table), _COMPRESSION, mtime=0)


def decode(content: bytes, *, source: str) -> TermTable:
    """Raises ModelError naming `source`."""
    try:
        table = msgspec.json.decode(gzip.decompress(content), type=TermTable)
    except (OSError, EOFError, zlib.error, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{source} is no term table that this version reads ({', '.join(get_args(Format))}): {error}",
            hint="Train again with `bdlab train`.",
        ) from error
    for field in (table.summary, table.review):
        if len({len(field.terms), len(field.idf), len(field.rating), len(field.sentiment)}) != 1:
            raise ModelError(f"{source} is damaged: its lists differ in length")
    return table
