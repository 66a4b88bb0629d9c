"""The shipped model as scikit-learn has it: TF-IDF of summary and whole review, and two linear heads.

Joblib files name these classes and functions by module: if one is moved or renamed, existing files break.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline

from bdlab.errors import TrainingFailed
from bdlab.model import termtable
from bdlab.model.terms import normalised_review_terms, normalised_summary_terms

Pair = tuple[str, str]
"""The input of the pipelines: (summary, text)."""

Floats = NDArray[np.float64]

SENTIMENTS = ("negative", "positive")
NEUTRAL = 3
"""Reviews with these stars have no sentiment: more is positive, less is negative."""

_LOWEST, _SPAN = 1.0, 4.0


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of training; the defaults are those of the shipped model.

    A term is kept if reviews of at least `..._min_products` products use it, since the words of one product
    say nothing about another. `rating_c` and `sentiment_c` are inverse strengths of regularisation.
    """

    summary_min_products: int = 2
    review_min_products: int = 4
    summary_weight: float = 0.6
    rating_c: float = 8.0
    sentiment_c: float = 5.0


class ExpectedStars(RegressorMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """A logistic curve from 1 to 5 stars over a linear sum, fitted by cross-entropy.

    A review of `y` stars counts as (y - 1) / 4 of the highest and as the rest of the lowest rating. The value
    of the curve is then the expected rating, always within 1 to 5. Ridge regression clipped to that range has
    a larger error in each measure.
    """

    def __init__(self, C: float = 1.0) -> None:  # noqa: N803 - scikit-learn's name for it
        self.C = C

    def fit(self, X: Any, y: Floats) -> Self:  # noqa: N803
        share = (np.asarray(y, dtype=float) - _LOWEST) / _SPAN
        weights = np.concatenate([share, 1 - share])
        labels = np.concatenate([np.ones(len(share)), np.zeros(len(share))])
        used = weights > 0
        head = _logistic_regression(self.C)
        head.fit(sparse.vstack([X, X]).tocsr()[used], labels[used], sample_weight=weights[used])
        self.coef_: Floats = head.coef_[0]
        self.intercept_: float = float(head.intercept_[0])
        return self

    def predict(self, X: Any) -> Floats:  # noqa: N803
        stars: Floats = _LOWEST + _SPAN * expit(X @ self.coef_ + self.intercept_)
        return stars


def _logistic_regression(c: float, class_weight: str | None = None) -> LogisticRegression:
    # The scaling nearly exempts the intercept from liblinear's regularisation.
    return LogisticRegression(
        C=c, solver="liblinear", intercept_scaling=10.0, tol=1e-6, max_iter=1000, class_weight=class_weight
    )


class Fitted(NamedTuple):
    """Two pipelines over (summary, text) pairs with the same fitted terms."""

    rating: Pipeline
    sentiment: Pipeline

    def predict(self, pairs: Sequence[Pair]) -> tuple[Floats, Floats]:
        """Return the expected stars, and the probabilities of a positive sentiment."""
        features = self.rating.named_steps["terms"].transform(pairs)
        stars: Floats = self.rating.named_steps["head"].predict(features)
        positive: Floats = self.sentiment.named_steps["head"].predict_proba(features)[:, 1]
        return stars, positive


def fit(
    pairs: Sequence[Pair], stars: Sequence[int], products: Sequence[str], parameters: Parameters
) -> Fitted:
    """Fit both heads. `products` has each review's product. Raises TrainingFailed.

    Each summary is also learnt from as a review of its own: otherwise a text of five words would be scored
    with weights that words have in texts of a hundred.
    """
    summarised = [index for index, (summary, _) in enumerate(pairs) if summary.strip()]
    pairs = [*pairs, *(("", pairs[index][0]) for index in summarised)]
    products = [*products, *(products[index] for index in summarised)]
    rated = np.array([*stars, *(stars[index] for index in summarised)])
    decided = np.flatnonzero(rated != NEUTRAL)
    sentiment = np.where(rated[decided] > NEUTRAL, SENTIMENTS[1], SENTIMENTS[0])
    for name, stars_of in zip(SENTIMENTS, ("1 or 2", "4 or 5"), strict=True):
        if name not in sentiment:
            raise TrainingFailed(
                f"no review with {stars_of} stars to learn the {name} sentiment from",
                hint="Train on more reviews, or with another number of folds.",
            )
    terms = FeatureUnion(
        [
            (
                "summary",
                _vectorizer(normalised_summary_terms, pairs, products, parameters.summary_min_products),
            ),
            ("review", _vectorizer(normalised_review_terms, pairs, products, parameters.review_min_products)),
        ],
        transformer_weights={"summary": parameters.summary_weight, "review": 1.0},
    )
    features = terms.fit_transform(pairs)
    # Balanced, since five of six reviews are positive: the F1 of the negative ones is then best at 0.5.
    heads = (
        ExpectedStars(parameters.rating_c).fit(features, rated),
        _logistic_regression(parameters.sentiment_c, "balanced").fit(features[decided], sentiment),
    )
    return Fitted(*(Pipeline([("terms", terms), ("head", head)]) for head in heads))


def _vectorizer(
    analyzer: Callable[[Pair], list[str]], pairs: Sequence[Pair], products: Sequence[str], least: int
) -> TfidfVectorizer:
    using: dict[str, set[str]] = {}
    for pair, product in zip(pairs, products, strict=True):
        for term in analyzer(pair):
            using.setdefault(term, set()).add(product)
    vocabulary = sorted(term for term, those in using.items() if len(those) >= least)
    # TfidfVectorizer refuses an empty vocabulary, as of a file without summaries.
    return TfidfVectorizer(analyzer=analyzer, token_pattern=None, vocabulary=vocabulary or ["."], binary=True)


def compile_terms(model: Fitted) -> termtable.TermTable:
    """Return the term table of the run-time scorer for the same model."""
    rating, sentiment = model.rating.named_steps["head"], model.sentiment.named_steps["head"]
    union = model.rating.named_steps["terms"]
    fields: dict[str, termtable.Field] = {}
    start = 0
    for name, vectorizer in union.transformer_list:
        terms: Iterable[str] = vectorizer.get_feature_names_out().tolist()
        idf: Floats = vectorizer.idf_
        part = slice(start, start + len(idf))
        start += len(idf)
        scale = union.transformer_weights[name]
        fields[name] = termtable.Field(
            terms=list(terms),
            idf=idf.tolist(),
            rating=(scale * rating.coef_[part]).tolist(),
            sentiment=(scale * sentiment.coef_[0][part]).tolist(),
        )
    return termtable.TermTable(
        format=termtable.FORMAT,
        intercepts=termtable.Intercepts(rating.intercept_, float(sentiment.intercept_[0])),
        **fields,
    )
