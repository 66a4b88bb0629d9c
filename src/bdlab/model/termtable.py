"""The data file of the run-time scorer: one JSON object of numbers and terms, with gzip. It runs no code."""

import gzip
import zlib
from typing import Literal, get_args

import msgspec

from bdlab.errors import ModelError

Format = Literal["bdlab-terms/1", "bdlab-terms/2"]
"""A format has its layout and its tokens: for 2 `bdlab.model.terms` normalises a text, for 1 it does not."""

FORMAT: Format = "bdlab-terms/2"
"""The format that is written; both are read."""

_COMPRESSION = 9


class Intercepts(msgspec.Struct, frozen=True):
    """The linear sums of the two heads for a review without known terms."""

    rating: float
    sentiment: float


class Field(msgspec.Struct, frozen=True):
    """Parallel lists, one entry a term.

    A term is a token, or two with a space between. `rating` and `sentiment` are weights of the unit-length
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
    """Return the file's content: always the same bytes for the same table."""
    return gzip.compress(msgspec.json.encode(table), _COMPRESSION, mtime=0)


def decode(content: bytes, *, source: str) -> TermTable:
    """Return the table. Raises ModelError with `source`."""
    try:
        table = msgspec.json.decode(gzip.decompress(content), type=TermTable)
    except (OSError, EOFError, zlib.error, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{source} is not a term table that this version reads ({', '.join(get_args(Format))}): {error}",
            hint="Train again with `bdlab train`.",
        ) from error
    for field in (table.summary, table.review):
        if len({len(field.terms), len(field.idf), len(field.rating), len(field.sentiment)}) != 1:
            raise ModelError(f"{source} is damaged: its lists differ in length")
    return table
