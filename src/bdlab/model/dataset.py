"""Training data: a CSV file with the columns of the Amazon reviews on Kaggle, read row by row."""

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bdlab.contract import parse_contract
from bdlab.errors import InvalidInput
from bdlab.inputs import Validator
from bdlab.inputs.files import BadRow, InputFile
from bdlab.model.terms import join, tokens

Integers = NDArray[np.integer[Any]]
Progress = Callable[[float], None]
"""Called with the share, from 0 to 1, of what is done."""

STARS = (1, 2, 3, 4, 5)
_REPORTED = 1000
_ANY_LENGTH = 1 << 62
_COLUMNS = {
    "ProductId": {"type": "string"},
    "Score": {"type": "integer", "minimum": STARS[0], "maximum": STARS[-1]},
    "Summary": {"type": "string"},
    "Text": {"type": "string"},
}
#: The rows of a file are read as the inputs of a model are.
_ROWS = parse_contract(
    {
        "input": {"type": "object", "title": "Review", "properties": _COLUMNS, "required": [*_COLUMNS]},
        "output": {"type": "object", "properties": {"prediction": {"type": "number"}}},
    }
)


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


def read_corpus(path: Path, *, delimiter: str = ",", progress: Progress = lambda _: None) -> Corpus:
    """Return the reviews as numbers, without their texts. Raises InvalidInput as `read_examples` does."""
    words, names, texts = defaultdict[str, int](), defaultdict[str, int](), defaultdict[bytes, int]()
    for numbers in (words, names, texts):
        numbers.default_factory = numbers.__len__  # from 0, in the order of the first time
    number = words.__getitem__
    flat, starts, summaries, rows = array("i"), array("q", [0]), array("i"), array("i")
    for example in read_examples(path, delimiter=delimiter, progress=progress):
        summary = tokens(example.summary)
        flat.extend(map(number, join(summary, tokens(example.text))))
        starts.append(len(flat))
        summaries.append(len(summary))
        text = hashlib.blake2b(example.text.encode(), digest_size=16).digest()
        rows.extend((names[example.product], example.stars, texts[text], bool(example.summary.strip())))
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
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


def read_examples(path: Path, *, delimiter: str = ",", progress: Progress = lambda _: None) -> Iterator[Example]:
    """Return the reviews one by one. Raises InvalidInput with the column, the line or the byte that is wrong.

    `progress` is called with the share of the file that was read.
    """
    count = 0
    with InputFile(
        str(path), BytesIO(), Validator(_ROWS), kind="csv", max_row_bytes=_ANY_LENGTH, delimiter=delimiter
    ) as file:
        for count, row in enumerate(file.rows(), 1):
            if isinstance(row, BadRow):
                raise InvalidInput(f"{path}, {row}")
            given = row.given
            for column, text in (("ProductId", given.product_id), ("Text", given.text)):
                if not text.strip():
                    raise InvalidInput(f"{path}, line {row.line}: {column} is empty")
            if count % _REPORTED == 0:
                progress(file.place.offset / file.size)
            yield Example(row.line, given.product_id.strip(), given.score, given.summary, given.text)
    if not count:
        raise InvalidInput(f"{path} holds no reviews: 0 rows", hint="docs/model.md has its columns.")
