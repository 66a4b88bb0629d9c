"""Training data: a CSV file with the columns of the Amazon reviews on Kaggle, read row by row."""

import hashlib
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bdlab.errors import InvalidInput
from bdlab.inputs.tables import Lines, csv_rows, refuse_delimiter
from bdlab.model.terms import join, tokens

Integers = NDArray[np.integer[Any]]
Progress = Callable[[float], None]
"""Called with the share, from 0 to 1, of what is done."""

COLUMNS = ("ProductId", "Score", "Summary", "Text")
STARS = (1, 2, 3, 4, 5)
_REPORTED = 1000

_HINT = f"The first line has to name the columns {', '.join(COLUMNS)}; others are ignored."


class Example(NamedTuple):
    """A review with its stars; `line` is the line of the file on which it begins, from 1."""

    line: int
    product: str
    stars: int
    summary: str
    text: str


class Corpus(NamedTuple):
    """The reviews of a file as numbers, in its order; `sha256` is of its bytes.

    `tokens` has the numbers of the tokens in `words`, review by review: the summary, a stop, and the text.
    Those of review `i` are at `starts[i]:starts[i + 1]`; the first `summaries[i]` of them are the summary's.
    `summarised[i]` is true if the summary is not blank. `products` has each review's place among the sorted
    names of products; reviews with one number in `texts` have the same text.
    """

    file: str
    sha256: str
    words: Sequence[str]
    tokens: Integers
    starts: Integers
    summaries: Integers
    summarised: NDArray[np.bool_]
    products: Integers
    stars: Integers
    texts: Integers

    def count_products(self) -> int:
        """Return the number of products that are reviewed."""
        return int(self.products.max()) + 1

    def count_stars(self) -> dict[str, int]:
        """Return the number of reviews for each number of stars."""
        return {str(stars): int((self.stars == stars).sum()) for stars in STARS}


class _Numbers(dict[Any, int]):
    """Numbers what it is asked for, from 0, in the order of the first time."""

    def __missing__(self, key: Any) -> int:
        number = self[key] = len(self)
        return number


def read_corpus(path: Path, *, delimiter: str = ",", progress: Progress = lambda _: None) -> Corpus:
    """Return the reviews as numbers, without their texts. Raises InvalidInput as `read_examples` does."""
    with _opened(path) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    words, names, texts = _Numbers(), _Numbers(), _Numbers()
    number = words.__getitem__
    flat, starts, summaries, rows = array("i"), array("q", [0]), array("i"), array("i")
    for example in read_examples(path, delimiter=delimiter, progress=progress):
        summary = tokens(example.summary)
        flat.extend(map(number, join(summary, tokens(example.text))))
        starts.append(len(flat))
        summaries.append(len(summary))
        text = hashlib.blake2b(example.text.encode(), digest_size=16).digest()
        rows.extend((names[example.product], example.stars, texts[text], bool(example.summary.strip())))
    columns = np.array(rows, dtype=np.int32).reshape(-1, 4).T
    places = np.empty(len(names), dtype=np.int32)
    places[[names[name] for name in sorted(names)]] = np.arange(len(names))
    return Corpus(
        file=path.name,
        sha256=sha256,
        words=list(words),
        tokens=np.frombuffer(flat, dtype=np.int32),
        starts=np.frombuffer(starts, dtype=np.int64),
        summaries=np.frombuffer(summaries, dtype=np.int32),
        summarised=columns[3] > 0,
        products=places[columns[0]],
        stars=columns[1],
        texts=columns[2],
    )


def _opened(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}", hint="Name a CSV file."
        ) from error


def read_examples(
    path: Path, *, delimiter: str = ",", progress: Progress = lambda _: None
) -> Iterator[Example]:
    """Return the reviews one by one. Raises InvalidInput with the column, the line or the byte that is wrong.

    `progress` is called with the share of the file that was read.
    """
    with _opened(path) as file:
        # A field may be as long as the file.
        size = os.fstat(file.fileno()).st_size
        count = 0
        for count, example in enumerate(_examples(Lines(file, str(path), size), path, delimiter), 1):
            if count % _REPORTED == 0:
                progress(file.tell() / size)
            yield example
    if not count:
        raise InvalidInput(f"{path} holds no reviews: 0 rows", hint=_HINT)


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
            refuse_delimiter(header, _suffice, str(path), delimiter)
            why = "is missing" if not found else f"is there {found} times"
            shown = ", ".join(name[:40] for name in header[:20])
            raise InvalidInput(f"{path}: the column {column} {why}; the first line has: {shown}", hint=_HINT)
    return [names.index(column.lower()) for column in COLUMNS]


def _suffice(titles: list[str]) -> bool:
    return {column.lower() for column in COLUMNS} <= {title.lower() for title in titles}


def _example(line: int, values: Sequence[str], path: Path) -> Example:
    product, score, summary, text = values
    if not product.strip():
        raise InvalidInput(f"{path}, line {line}: ProductId is empty")
    if score.strip() not in {str(stars) for stars in STARS}:
        raise InvalidInput(f"{path}, line {line}: Score has to be 1, 2, 3, 4 or 5, and is {score[:40]!r}")
    if not text.strip():
        raise InvalidInput(f"{path}, line {line}: Text is empty")
    return Example(line, product.strip(), int(score), summary, text)
