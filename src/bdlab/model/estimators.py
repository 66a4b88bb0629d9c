"""The shipped model as scikit-learn has it: TF-IDF of summary and whole review, and two linear heads.

Joblib files name these classes and functions by module: if one is moved or renamed, existing files break."""

from typing import Any, Self

import numpy as np
from scipy import sparse
from scipy.special import expit
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline

from bdlab.model.features import FIELDS, Features, Floats, Parameters
from bdlab.model.fitting import DECIMALS, HEADS, INTERCEPT, Head
from bdlab.model.pipeline import PAIRS
from bdlab.model.terms import FORMAT, Field, Intercepts, TermTable, normalised_review_terms, normalised_summary_terms

SENTIMENTS = ("negative", "positive")
_LOWEST, _SPAN = 1.0, 4.0
_ANALYZERS = {"summary": normalised_summary_terms, "review": normalised_review_terms}


class ExpectedStars(RegressorMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """A logistic curve from 1 to 5 stars over a linear sum, fitted by cross-entropy. A review of `y` stars counts as (y
    - 1) / 4 of the highest and as the rest of the lowest rating. The value of the curve is then the expected rating,
    always within 1 to 5. Ridge regression clipped to that range has a larger error in each measure."""

    def __init__(self, C: float = 1.0) -> None:  # noqa: N803 - scikit-learn's name for it
        self.C = C

    def fit(self, X: Any, y: Floats) -> Self:  # noqa: N803
        """Fit with scikit-learn, each review twice. Training has a faster way to the same."""
        share = (np.asarray(y, dtype=float) - _LOWEST) / _SPAN
        weights = np.concatenate([share, 1 - share])
        labels = np.repeat([1, 0], len(share))
        used = weights > 0
        head = LogisticRegression(C=self.C, solver="liblinear", intercept_scaling=INTERCEPT, tol=1e-6)
        head.fit(sparse.vstack([X, X]).tocsr()[used], labels[used], sample_weight=weights[used])
        self.coef_: Floats = head.coef_[0]
        self.intercept_: float = float(head.intercept_[0])
        return self

    def predict(self, X: Any) -> Floats:  # noqa: N803
        stars: Floats = _LOWEST + _SPAN * expit(X @ self.coef_ + self.intercept_)
        return stars


def build_table(features: Features, rating: Head, sentiment: Head, parameters: Parameters) -> TermTable:
    """Return the term table of two heads that were fitted to all reviews, its terms sorted."""
    scales = features.scales(parameters)
    weights = (np.round(scales * head.weights, DECIMALS).tolist() for head in (rating, sentiment))
    columns = zip(rating.idf.tolist(), *weights, strict=True)
    fields: dict[str, Field] = {}
    for field in FIELDS:
        # Of its own columns, which come after those of the fields before.
        found = sorted((term, *next(columns)) for term in features.terms[field])
        # A pipeline refuses an empty vocabulary, as of a file without summaries.
        known = [each for each in found if each[1]] or [(".", 1.0, 0.0, 0.0)]
        fields[field] = Field(*map(list, zip(*known, strict=True)))
    return TermTable(format=FORMAT, intercepts=Intercepts(rating.intercept, sentiment.intercept), **fields)


def build_pipelines(table: TermTable, parameters: Parameters) -> dict[str, Any]:
    """Return the same model as fitted pipelines, as a joblib file has it."""
    scales = dict(zip(FIELDS, parameters.weights, strict=True))
    vectorizers = []
    for field, analyzer in _ANALYZERS.items():
        part = getattr(table, field)
        vectorizer = TfidfVectorizer(analyzer=analyzer, token_pattern=None, vocabulary=part.terms, binary=True)
        vectorizer.idf_ = np.array(part.idf)
        vectorizers.append((field, vectorizer))
    terms = FeatureUnion(vectorizers, transformer_weights=scales)
    rating, sentiment = (
        np.concatenate([np.array(getattr(getattr(table, field), head)) / scales[field] for field in FIELDS])
        for head in ("rating", "sentiment")
    )
    stars = ExpectedStars(parameters.rating_c)
    stars.coef_, stars.intercept_ = rating, table.intercepts.rating
    sides = LogisticRegression(C=parameters.sentiment_c, class_weight="balanced")
    sides.classes_, sides.n_features_in_ = np.array(SENTIMENTS), len(sentiment)
    sides.coef_, sides.intercept_ = sentiment[np.newaxis], np.array([table.intercepts.sentiment])
    pipelines = (Pipeline([("terms", terms), ("head", head)]) for head in (stars, sides))
    return {**dict(zip(HEADS, pipelines, strict=True)), "input": PAIRS}
