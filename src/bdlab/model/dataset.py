"""Reviews to train from: a CSV with the columns of the Amazon reviews on Kaggle, read whole."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bdlab.errors import InvalidInput
from bdlab.model.card import sha256_of

COLUMNS = ("ProductId", "Score", "Summary", "Text")
STARS = (1, 2, 3, 4, 5)

_HINT = f"The first line has to name the columns {', '.join(COLUMNS)}; others are left out."


class Example(NamedTuple):
    """A review whose stars are known; `line` is where it begins in its file, from 1."""

    line: int
    product: str
    stars: int
    summary: str
    text: str


class Dataset(NamedTuple):
    """The reviews of a file, whose bytes have the sha256, in its order."""

    file: str
    sha256: str
    examples: tuple[Example, ...]

    @property
    def products(self) -> int:
        """How many products the reviews are of."""
        return len({example.product for example in self.examples})

    @property
    def stars(self) -> dict[str, int]:
        """How many reviews gave each number of stars."""
        counts = Counter(example.stars for example in self.examples)
        return {str(stars): counts[stars] for stars in STARS}


def read_dataset(path: Path) -> Dataset:
    """Raises InvalidInput, naming the column, the line or the byte that is wrong."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}", hint="Name a CSV file."
        ) from error
    examples = tuple(_examples(_decode(content, path), path))
    if not examples:
        raise InvalidInput(f"{path} holds no reviews: 0 rows", hint=_HINT)
    return Dataset(path.name, sha256_of(content), examples)


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInput(
            f"{path}, line {line}: not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}",
            hint=f"Convert it first, for example: iconv -f WINDOWS-1252 -t UTF-8 {path}",
        ) from error


def _examples(text: str, path: Path) -> Iterator[Example]:
    # Strict, or a quote that is never closed would make one review of the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        header = next(reader, None)
        if header is None:
            raise InvalidInput(f"{path} is empty", hint=_HINT)
        places = _places(header, path)
        line = reader.line_num + 1
        for row in reader:
            if row:
                if len(row) != len(header):
                    raise InvalidInput(
                        f"{path}, line {line}: {len(row)} columns, and the first line names {len(header)}"
                    )
                yield _example(line, [row[place] for place in places], path)
            line = reader.line_num + 1
    except csv.Error as error:
        raise InvalidInput(
            f"{path}, the row that begins on line {line}: not valid CSV: {error}",
            hint='A quote inside a quoted field has to be doubled (""), and each has to be closed.',
        ) from error


def _places(header: Sequence[str], path: Path) -> list[int]:
    names = [name.strip().lower() for name in header]
    for column in COLUMNS:
        found = names.count(column.lower())
        if found != 1:
            why = "is missing" if not found else f"is there {found} times"
            shown = ", ".join(name[:40] for name in header[:20])
            raise InvalidInput(f"{path}: the column {column} {why}; the first line has: {shown}", hint=_HINT)
    return [names.index(column.lower()) for column in COLUMNS]


def _example(line: int, values: Sequence[str], path: Path) -> Example:
    product, score, summary, text = values
    if not product.strip():
        raise InvalidInput(f"{path}, line {line}: ProductId is empty")
    if score.strip() not in {str(stars) for stars in STARS}:
        raise InvalidInput(f"{path}, line {line}: Score has to be 1, 2, 3, 4 or 5, and is {score[:40]!r}")
    if not text.strip():
        raise InvalidInput(f"{path}, line {line}: Text is empty")
    return Example(line, product.strip(), int(score), summary, text)
