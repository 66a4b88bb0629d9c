"""Training data: reviews of a CSV file as Kaggle has them, and their terms as sparse matrices of zeros and ones.

The matrices are in blocks of reviews of one fold, and the same for each fit: what differs are the terms that it
uses, their weights and the lengths of the reviews' vectors. So they are made once, and all processes share them."""

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from bdlab.contract import parse_contract
from bdlab.errors import InvalidInput
from bdlab.inputs import Validator
from bdlab.inputs.files import BadRow, InputFile
from bdlab.model.terms import join, tokens
from bdlab.profile import PROFILED

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]
Progress = Callable[[float], None]
"""Called with the share, from 0 to 1, of what is done."""
STARS = (1, 2, 3, 4, 5)
_REPORTED = 1000
#: The rows of a file are read as the inputs of a model are.
_ROWS = parse_contract(msgspec.json.decode(Path(__file__).with_name("training.json").read_bytes()))


class Example(NamedTuple):
    """A review with its stars; `line` is the line of the file on which it begins, from 1, or 0 if it is in no file."""

    line: int
    product: str
    stars: int
    summary: str
    text: str


class Corpus(NamedTuple):
    """Reviews as numbers, in their order. `tokens` has the numbers of the tokens in `words`, review by review: the
    summary, a stop, and the text. Those of review `i` are at `starts[i]:starts[i + 1]`; the first `summaries[i]` of
    them are the summary's. `summarised[i]` is true if the summary is not blank. `products` has each review's place
    among the sorted names of products; reviews with one number in `texts` have the same text. `sample` has some reviews
    by their place, at random."""

    words: Sequence[str]
    tokens: Integers
    starts: Integers
    summaries: Integers
    summarised: Booleans
    products: Integers
    stars: Integers
    texts: Integers
    sample: Mapping[int, Example]

    def count_products(self) -> int:
        return int(self.products.max()) + 1


def read_corpus(examples: Iterable[Example]) -> Corpus:
    """Return the reviews as numbers, without their texts."""
    words, names, texts = defaultdict[str, int](), defaultdict[str, int](), defaultdict[bytes, int]()
    for numbers in (words, names, texts):
        numbers.default_factory = numbers.__len__  # from 0, in the order of the first time
    number = words.__getitem__
    chance, sample = Random(0), dict[int, tuple[int, Example]]()  # noqa: S311 - a sample, and no secret
    flat, starts, summaries, rows = array("i"), array("q", [0]), array("i"), array("i")
    for example in examples:
        summary = tokens(example.summary)
        flat.extend(map(number, join(summary, tokens(example.text))))
        starts.append(len(flat))
        summaries.append(len(summary))
        text = hashlib.blake2b(example.text.encode(), digest_size=16).digest()
        count = len(summaries)
        if (place := count - 1 if count <= PROFILED else chance.randrange(count)) < PROFILED:
            sample[place] = count - 1, example
        rows.extend((names[example.product], example.stars, texts[text], bool(example.summary.strip())))
    columns = np.array(rows, dtype=np.int32).reshape(-1, 4).T
    places = np.empty(len(names), dtype=np.int32)
    places[[names[name] for name in sorted(names)]] = np.arange(len(names))
    return Corpus(
        words=list(words),
        tokens=np.frombuffer(flat, dtype=np.int32),
        starts=np.frombuffer(starts, dtype=np.int64),
        summaries=np.frombuffer(summaries, dtype=np.int32),
        summarised=columns[3] > 0,
        products=places[columns[0]],
        stars=columns[1],
        texts=columns[2],
        sample=dict(sample.values()),
    )


def read_examples(path: Path, *, delimiter: str = ",", progress: Progress = lambda _: None) -> Iterator[Example]:
    """Return the reviews one by one. Raises InvalidInput with the column, the line or the byte that is wrong.
    `progress` is called with the share of the file that was read."""
    count = 0
    rows = Validator(_ROWS)
    with InputFile(str(path), BytesIO(), rows, kind="csv", max_row_bytes=1 << 62, delimiter=delimiter) as file:
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


FIELDS = ("summary", "review")
_BLOCK = 20_000
"""The most reviews of a block, unless one product has more."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of training; the defaults are those of the shipped model. A term is kept if reviews of at least
    `..._min_products` products use it, since the words of one product say nothing about another; of more than
    `..._most_terms` those that most products use. `rating_c` and `sentiment_c` are inverse strengths of
    regularisation."""

    summary_min_products: int = 2
    review_min_products: int = 4
    summary_most_terms: int = 60_000
    review_most_terms: int = 200_000
    summary_weight: float = 0.6
    rating_c: float = 8.0
    sentiment_c: float = 5.0

    @property
    def weights(self) -> tuple[float, float]:
        """The weights of the fields."""
        return self.summary_weight, 1.0


class Block(NamedTuple):
    """Reviews of one fold: `reviews` are their numbers in the corpus, `fold` is -1 if there are no folds. `matrices`
    has of each field its columns among all, and its matrix. That of summaries has a row for each review; that of
    reviews has these too, and then one for each review of `summarised`, whose summary is also learnt from as a review
    of its own: otherwise a text of five words would be scored with weights that words have in texts of a hundred."""

    fold: int
    reviews: Integers
    summarised: Integers
    matrices: tuple[tuple[slice, Any], ...]

    def rows(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the values of all rows, from one value for each review of the corpus."""
        return np.concatenate([values[self.reviews], values[self.summarised]])


class Features(NamedTuple):
    """The matrices, and by field the terms of their columns. Row `i` of `used` tells which columns the fit without fold
    `i` uses; its last row is of the fit to all."""

    blocks: tuple[Block, ...]
    terms: dict[str, list[str]]
    used: Booleans

    def scales(self, parameters: Parameters) -> Floats:
        """Return the weight of its field for each column."""
        return np.repeat(parameters.weights, [len(self.terms[field]) for field in FIELDS])


def count_terms(
    corpus: Corpus, fold_of: Integers, folds: int, parameters: Parameters, progress: Progress = lambda _: None
) -> Features:
    """Return the features. `fold_of` has each review's fold, the same for all reviews of a product. If more terms are
    left than the parameters' most, a fit takes those that most of its products use."""
    order = np.lexsort((np.arange(len(fold_of)), corpus.products, fold_of))
    chunks = list(_chunks(order, corpus.products, fold_of))
    least = parameters.summary_min_products, parameters.review_min_products
    most = parameters.summary_most_terms, parameters.review_most_terms
    columns: list[tuple[Integers, Booleans]] = []
    for number, field in enumerate(FIELDS):
        found: list[list[Integers]] = [[] for _ in range(max(folds, 1))]
        for done, chunk in enumerate(chunks):
            product = np.cumsum(np.diff(corpus.products[chunk], prepend=-1) != 0)
            _, each = _distinct(corpus, field, chunk, product)
            found[max(int(fold_of[chunk[0]]), 0)].append(each)
            progress((number + done / len(chunks)) / 4)
        columns.append(_used(found, folds, least[number], most[number]))
    keys, used = zip(*columns, strict=True)
    summaries, reviews = slice(len(keys[0])), slice(len(keys[0]), None)
    blocks = []
    most_tokens = max(int((corpus.starts[chunk + 1] - corpus.starts[chunk]).sum()) for chunk in chunks)
    # Of one array of ones, all matrices have a part: it would take two thirds of their memory.
    ones = np.ones(4 * most_tokens)
    for done, chunk in enumerate(chunks):
        summarised = chunk[corpus.summarised[chunk]]
        own, more = _distinct(corpus, "review", chunk), _distinct(corpus, "summary", summarised)
        rows, found_keys = np.concatenate([own, (more[0] + len(chunk), more[1])], axis=1)
        review = _matrix(rows, found_keys, len(chunk) + len(summarised), keys[1], ones)
        summary = _matrix(*_distinct(corpus, "summary", chunk), len(chunk), keys[0], ones)
        blocks.append(Block(int(fold_of[chunk[0]]), chunk, summarised, ((summaries, summary), (reviews, review))))
        progress(0.5 + (done + 1) / len(chunks) / 2)
    words, terms = corpus.words, dict[str, list[str]]()
    for field, own in zip(FIELDS, keys, strict=True):
        pairs = zip(*(part.tolist() for part in np.divmod(own, len(words))), strict=True)
        terms[field] = [f"{words[first - 1]} {words[second]}" if first else words[second] for first, second in pairs]
    return Features(tuple(blocks), terms, np.concatenate(used, axis=1))


def _chunks(order: Integers, products: Integers, fold_of: Integers) -> Iterator[Integers]:
    """Return the reviews in `order`, cut only between products and always between folds."""
    ends = (np.flatnonzero(np.diff(products[order], append=-1)) + 1).tolist()
    start = 0
    for end, after in zip(ends, [*ends[1:], 0], strict=True):
        if not after or fold_of[order[end]] != fold_of[order[start]] or after - start > _BLOCK:
            yield order[start:end]
            start = end


def _distinct(
    corpus: Corpus, field: str, reviews: Integers, group: Integers | None = None
) -> tuple[Integers, Integers]:
    """Return the terms as pairs of a group and a key, each once, in order; a review is a group by itself. The key of a
    word is its number, that of two words n and m is (n + 1) * len(words) + m."""
    starts = corpus.starts[reviews]
    lengths = corpus.summaries[reviews].astype(np.int64) if field == "summary" else corpus.starts[reviews + 1] - starts
    group = np.arange(len(reviews)) if group is None else group
    before = np.cumsum(lengths) - lengths
    places = np.repeat(starts - before, lengths) + np.arange(lengths.sum())
    tokens = corpus.tokens[places].astype(np.int64)
    row = np.repeat(np.arange(len(reviews)), lengths)
    neighbours = np.flatnonzero(row[1:] == row[:-1])
    words = len(corpus.words)
    # Both in one number, which sorts much faster.
    room = (words + 1) * words
    groups = group[row].astype(np.int64) * room
    pairs = groups[neighbours] + (tokens[neighbours] + 1) * words + tokens[neighbours + 1]
    both = np.concatenate([groups + tokens, pairs])
    both.sort()
    both = both[np.flatnonzero(np.diff(both, prepend=-1))]
    return np.divmod(both, room)


def _used(found: list[list[Integers]], folds: int, least: int, most: int) -> tuple[Integers, Booleans]:
    """Return the sorted keys that any fit uses, and which each of them does. `found` has by fold the keys of each
    product."""
    counted = []
    for parts in found:
        keys, counts = np.unique(np.concatenate(parts), return_counts=True)
        counted.append((keys, counts.astype(np.int32)))
        parts.clear()
    keys = np.unique(np.concatenate([keys for keys, _ in counted]))
    products = np.zeros((len(counted), len(keys)), dtype=np.int32)
    for row, (own, counts) in zip(products, counted, strict=True):
        row[np.searchsorted(keys, own)] = counts
    total = products.sum(axis=0)
    kept = total >= least
    keys, products, total = keys[kept], products[:, kept], total[kept]
    used = np.stack([_frequent(total - own, least, most) for own in products[:folds]] + [_frequent(total, least, most)])
    kept = used.any(axis=0)
    return keys[kept], used[:, kept]


def _frequent(counts: Integers, least: int, most: int) -> Booleans:
    if (counts >= least).sum() > most:
        least = int(np.partition(counts, -most - 1)[-most - 1]) + 1
    return counts >= least


def _matrix(rows: Integers, keys: Integers, height: int, known: Integers, ones: Floats) -> Any:
    """Return a matrix of ones; its columns are those of the sorted keys `known`."""
    if not len(known):
        return sparse.csr_array((height, 0))
    columns = np.searchsorted(known, keys)
    columns[columns == len(known)] = 0
    right = known[columns] == keys
    starts = np.zeros(height + 1, dtype=np.int32)
    np.cumsum(np.bincount(rows[right], minlength=height), out=starts[1:])
    indices = columns[right].astype(np.int32)
    return sparse.csr_array((ones[: len(indices)], indices, starts), shape=(height, len(known)))
