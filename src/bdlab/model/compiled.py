"""The run-time scorer: look-ups in dictionaries, with the same results as the scikit-learn pipeline.

TF-IDF with a linear head is a weighted sum over the terms, divided by the length of the TF-IDF vector. The
terms of a review are looked up once; both heads and the explanation are sums over the terms found.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import exp, sqrt
from typing import NamedTuple

from bdlab.events import EventCodec, Input, Score
from bdlab.model.explanation import Labels, review_score, strongest
from bdlab.model.terms import STOPS, join, literal_tokens, tokens
from bdlab.model.termtable import FORMAT, Field, TermTable

LOWEST, HIGHEST = 1.0, 5.0
_SPAN = HIGHEST - LOWEST


def logistic(value: float) -> float:
    """Return 1 / (1 + e^-value), for any finite value, without overflow."""
    if value >= 0:
        return 1.0 / (1.0 + exp(-value))
    power = exp(value)
    return power / (1.0 + power)


class _Found(NamedTuple):
    """What a field's terms say: how many are `words`, the reciprocal of the length of their vector, what they
    add to the two heads, and the number of each with its part of the rating, which is not scaled.
    """

    words: int
    scale: float
    rating: float
    sentiment: float
    numbers: tuple[int, ...]
    parts: tuple[float, ...]


_NOTHING = _Found(0, 0.0, 0.0, 0.0, (), ())
#: What is known of a term is in one place: most of a look-up's time is waiting for memory.
_Record = tuple[int, float, float, float]


class _Weights:
    """A field's terms, each with its number, its square in the length of a vector, and its two weights."""

    def __init__(self, field: Field) -> None:
        singles: dict[str, _Record] = {}
        pairs: dict[tuple[str, str], _Record] = {}
        columns = zip(field.terms, field.idf, field.rating, field.sentiment, strict=True)
        for number, (term, idf, rating, sentiment) in enumerate(columns):
            record = number, idf * idf, idf * rating, idf * sentiment
            first, gap, second = term.partition(" ")
            if gap:
                pairs[first, second] = record
            else:
                singles[first] = record
        self.labels = Labels(field.terms)
        self._single = singles.get
        self._pair = pairs.get
        self._stops = frozenset(stop for stop in STOPS if stop in singles)

    def look_up(self, found: list[str]) -> _Found:
        different = dict.fromkeys(found)  # in their order, which decides between terms of the same weight
        records = [*filter(None, map(self._single, different))]
        words = len(records) - len(self._stops & different.keys())
        records += filter(None, map(self._pair, dict.fromkeys(pairwise(found))))
        if not records:
            return _NOTHING
        numbers, squares, parts, sentiments = zip(*records, strict=True)
        scale = 1.0 / sqrt(sum(squares))
        return _Found(words, scale, scale * sum(parts), scale * sum(sentiments), numbers, parts)


class CompiledScorer:
    """Scores a review in some microseconds, in the caller's thread."""

    blocking = False
    forkable = True

    def __init__(self, table: TermTable, codec: EventCodec, *, name: str, sha256: str) -> None:
        self.name = name
        self.codec = codec
        self.sha256 = sha256
        self._tokens = tokens if table.format == FORMAT else literal_tokens
        self._summary = _Weights(table.summary)
        self._review = _Weights(table.review)
        self._intercepts = table.intercepts
        self._baseline = logistic(table.intercepts.rating)

    def score(self, review: Input) -> Score:
        """Return the expected rating, the sentiment and the terms that explain the rating.

        The contributions of all terms and the baseline (the rating of a review without known terms) add up to
        the rating: the difference is divided in proportion to the terms' parts of the linear sum.
        """
        summary = self._tokens(review.summary)
        whole = join(summary, self._tokens(review.text))
        in_summary, in_review = self._summary.look_up(summary), self._review.look_up(whole)
        words = set(whole)
        words.difference_update(STOPS)
        moved = in_summary.rating + in_review.rating
        rating = logistic(self._intercepts.rating + moved)
        positive = logistic(self._intercepts.sentiment + in_summary.sentiment + in_review.sentiment)
        slope = (rating - self._baseline) / moved if abs(moved) > 1e-6 else self._baseline * (1 - self._baseline)
        contributions: dict[str, float] = {}
        for labels, found in ((self._summary.labels, in_summary), (self._review.labels, in_review)):
            stars = found.scale * slope * _SPAN
            for number, part in zip(found.numbers, found.parts, strict=True):
                label = labels[number]
                if label in contributions:
                    contributions[label] += stars * part
                elif label:
                    contributions[label] = stars * part
        known = round(in_review.words / len(words), 3) if words else 0.0
        stars = LOWEST + _SPAN * rating
        return review_score(self.codec.score, stars, positive, strongest(contributions), known)

    def score_many(self, reviews: Sequence[Input]) -> list[Score]:
        return [self.score(review) for review in reviews]
