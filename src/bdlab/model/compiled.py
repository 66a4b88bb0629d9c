"""The run-time scorer: look-ups in dictionaries, with the same results as the scikit-learn pipeline.

TF-IDF with a linear head is a weighted sum over the terms, divided by the length of the TF-IDF vector. The
terms of a review are looked up once; both heads and the explanation are sums over the terms found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import exp, sqrt

from bdlab.events import Review, Score, Sentiment
from bdlab.model.explanation import Labels, strongest
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


class _Weights:
    """The numbers of a field's terms, and the weights of each number."""

    def __init__(self, field: Field) -> None:
        singles: dict[str, int] = {}
        pairs: dict[tuple[str, str], int] = {}
        for number, term in enumerate(field.terms):
            first, gap, second = term.partition(" ")
            if gap:
                pairs[first, second] = number
            else:
                singles[first] = number
        self.labels = Labels(field.terms)
        self._single = singles.get
        self._pair = pairs.get
        self._stops = {singles[stop] for stop in STOPS if stop in singles}
        self._square = [idf * idf for idf in field.idf].__getitem__
        self.rating = [idf * weight for idf, weight in zip(field.idf, field.rating, strict=True)]
        self._rating = self.rating.__getitem__
        self._sentiment = [
            idf * weight for idf, weight in zip(field.idf, field.sentiment, strict=True)
        ].__getitem__

    def look_up(self, found: list[str]) -> tuple[Iterable[int], int, float, float, float]:
        """Return the numbers of the known terms, how many of these are words, the reciprocal of the length of
        their vector, and what they add to the two heads.
        """
        known = set(map(self._single, found))
        known.discard(None)
        words = len(known) - len(known & self._stops)
        known.update(map(self._pair, pairwise(found)))
        known.discard(None)
        numbers: set[int] = known  # type: ignore[assignment] # None was removed
        if not numbers:
            return (), 0, 0.0, 0.0, 0.0
        scale = 1.0 / sqrt(sum(map(self._square, numbers)))
        return (
            numbers,
            words,
            scale,
            scale * sum(map(self._rating, numbers)),
            scale * sum(map(self._sentiment, numbers)),
        )


class CompiledScorer:
    """Scores a review in some microseconds, in the caller's thread."""

    blocking = False

    def __init__(self, table: TermTable, *, name: str, sha256: str) -> None:
        self.name = name
        self.sha256 = sha256
        self._tokens = tokens if table.format == FORMAT else literal_tokens
        self._summary = _Weights(table.summary)
        self._review = _Weights(table.review)
        self._intercepts = table.intercepts
        self._baseline = logistic(table.intercepts.rating)

    def score(self, review: Review) -> Score:
        """Return the expected rating, the sentiment and the terms that explain the rating.

        The contributions of all terms and the baseline (the rating of a review without known terms) add up to
        the rating: the difference is divided in proportion to the terms' parts of the linear sum.
        """
        summary = self._tokens(review.summary)
        whole = join(summary, self._tokens(review.text))
        in_summary, _, summary_scale, summary_rating, summary_sentiment = self._summary.look_up(summary)
        in_review, known, review_scale, review_rating, review_sentiment = self._review.look_up(whole)
        words = set(whole)
        words.difference_update(STOPS)
        moved = summary_rating + review_rating
        rating = logistic(self._intercepts.rating + moved)
        positive = logistic(self._intercepts.sentiment + summary_sentiment + review_sentiment)
        slope = (
            (rating - self._baseline) / moved if abs(moved) > 1e-6 else self._baseline * (1 - self._baseline)
        )
        contributions: dict[str, float] = {}
        for weights, numbers, scale in (
            (self._summary, in_summary, summary_scale),
            (self._review, in_review, review_scale),
        ):
            stars = scale * slope * _SPAN
            labels, rated = weights.labels, weights.rating
            for number in numbers:
                label = labels[number]
                contributions[label] = contributions.get(label, 0.0) + stars * rated[number]
        sentiment: Sentiment = "positive" if positive >= 0.5 else "negative"
        return Score(
            prediction=LOWEST + _SPAN * rating,
            sentiment=sentiment,
            confidence=positive if positive >= 0.5 else 1.0 - positive,
            explanation=strongest(contributions),
            known_terms=round(known / len(words), 3) if words else 0.0,
        )

    def score_many(self, reviews: Sequence[Review]) -> list[Score]:
        return [self.score(review) for review in reviews]
