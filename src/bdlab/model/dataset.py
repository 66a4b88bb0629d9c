"""Training data: a CSV file with the columns of the Amazon reviews on Kaggle, read as a whole."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bdlab.errors import InvalidInput
from bdlab.model.card import sha256_of
from bdlab.reviews.tables import Lines, csv_rows, refuse_delimiter

COLUMNS = ("ProductId", "Score", "Summary", "Text")
STARS = (1, 2, 3, 4, 5)

_HINT = f"The first line has to name the columns {', '.join(COLUMNS)}; others are ignored."


class Example(NamedTuple):
    """A review with its stars; `line` is the line of the file on which it begins, from 1."""

    line: int
    product: str
    stars: int
    summary: str
    text: str


class Dataset(NamedTuple):
    """The reviews of a file, in its order; `sha256` is of its bytes."""

    file: str
    sha256: str
    examples: tuple[Example, ...]

    @property
    def products(self) -> int:
        """The number of products that are reviewed."""
        return len({example.product for example in self.examples})

    @property
    def stars(self) -> dict[str, int]:
        """The number of reviews for each number of stars."""
        counts = Counter(example.stars for example in self.examples)
        return {str(stars): counts[stars] for stars in STARS}


def read_dataset(path: Path, *, delimiter: str = ",") -> Dataset:
    """Return the reviews. Raises InvalidInput with the column, the line or the byte that is wrong."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}", hint="Name a CSV file."
        ) from error
    # A field may be as long as the file.
    lines = Lines(io.BytesIO(content), str(path), len(content))
    examples = tuple(_examples(lines, path, delimiter))
    if not examples:
        raise InvalidInput(f"{path} holds no reviews: 0 rows", hint=_HINT)
    return Dataset(path.name, sha256_of(content), examples)


def _examples(lines: Lines, path: Path, delimiter: str) -> Iterator[Example]:
    rows = csv_rows(lines, delimiter)
    _, header = next(rows, (1, None))
    if header is None:
        raise InvalidInput(f"{path} is empty", hint=_HINT)
    places = _places(header, path, delimiter)
    for line, row in rows:
        if len(row) != len(header):
            raise InvalidInput(
                f"{path}, line {line}: {len(row)} columns, and the first line has {len(header)}"
            )
        yield _example(line, [row[place] for place in places], path)


def _places(header: list[str], path: Path, delimiter: str) -> list[int]:
    names = [name.strip().lower() for name in header]
    for column in COLUMNS:
        found = names.count(column.lower())
        if found != 1:
            refuse_delimiter(header, [each.lower() for each in COLUMNS], str(path), delimiter)
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
