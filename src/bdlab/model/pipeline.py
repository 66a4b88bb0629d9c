"""A scorer of any fitted scikit-learn text pipeline in a joblib file.

The file holds one estimator, or a dict with two, ``rating`` and ``sentiment``. Their input is strings
(summary and text, with a line break between), or (summary, text) pairs if the dict has
``"input": "pairs"``. What an estimator predicts follows from its kind:

- a regressor predicts stars, clipped to 1 to 5;
- a classifier whose classes are among 1 to 5 predicts stars: the expectation over its probabilities;
- a classifier of two classes, 0 and 1, -1 and 1 or negative and positive, predicts the sentiment.

If there is only one of the two, the other follows from it: the sentiment of `s` stars is positive with
probability (s - 1) / 4, and the reverse; with a star classifier, that of more than 3 stars against less.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import joblib
import numpy as np
import structlog
from numpy.typing import NDArray

from bdlab.errors import ModelError
from bdlab.events import EventCodec, Input, Score
from bdlab.model.explanation import review_score

Floats = NDArray[np.float64]

PAIRS = "pairs"

_STARS = ("1", "2", "3", "4", "5")
_SENTIMENTS = ({"0", "1"}, {"-1", "1"}, {"False", "True"}, {"negative", "positive"})
_PAGE = "docs/model.md, under 'Serve your own pipeline', says which estimators can be served."

Head = Callable[[list[Any]], tuple[Floats | None, Floats | None]]
"""Predicts stars and probabilities of a positive sentiment; None for what it does not predict."""


class PipelineScorer:
    """Scores with scikit-learn: slow for one review, and much faster a review for many. Explains nothing."""

    blocking = True

    def __init__(
        self, heads: Sequence[Head], codec: EventCodec, *, pairs: bool, name: str, sha256: str
    ) -> None:
        self.name = name
        self.codec = codec
        self.sha256 = sha256
        self._heads = heads
        self._pairs = pairs

    @classmethod
    def from_bytes(
        cls, content: bytes, codec: EventCodec, *, source: str, name: str, sha256: str
    ) -> PipelineScorer:
        """Unpickle `content`, which runs its code, so it has to be checked first. Raises ModelError."""
        found = _unpickle(content, source)
        parts = found if isinstance(found, dict) else {"model": found}
        heads = [
            _head(parts[part], f"{source}, {part}")
            for part in ("model", "rating", "sentiment")
            if part in parts
        ]
        if not heads:
            raise ModelError(f"{source} holds a dict without 'rating' and 'sentiment'", hint=_PAGE)
        scorer = cls(heads, codec, pairs=parts.get("input") == PAIRS, name=name, sha256=sha256)
        scorer.score(codec.input(text="This product is terrible!", summary="Product review"))
        return scorer

    def score(self, review: Input) -> Score:
        """Return the score. Raises ModelError if the pipeline fails."""
        return self.score_many([review])[0]

    def score_many(self, reviews: Sequence[Input]) -> list[Score]:
        """Return the scores in order. Raises ModelError if the pipeline fails."""
        if not reviews:
            return []
        inputs: list[Any] = [
            (review.summary, review.text)
            if self._pairs
            else "\n".join(filter(None, (review.summary, review.text)))
            for review in reviews
        ]
        stars: Floats | None = None
        positive: Floats | None = None
        try:
            for head in self._heads:
                its_stars, its_positive = head(inputs)
                stars = its_stars if stars is None else stars
                # The sentiment's own head comes last, and is better than what follows from the stars.
                positive = its_positive if its_positive is not None else positive
        except ModelError:
            raise
        except Exception as error:  # a foreign pipeline may raise anything
            raise ModelError(
                f"the model {self.name} failed: {type(error).__name__}: {error}", hint=_PAGE
            ) from error
        if stars is None:
            assert positive is not None, "each head predicts one of the two"  # noqa: S101
            stars = 1 + 4 * positive
        if positive is None:
            positive = (stars - 1) / 4
        if not (stars.shape == positive.shape == (len(reviews),) and np.isfinite(stars + positive).all()):
            raise ModelError(f"the model {self.name} did not predict one number a review", hint=_PAGE)
        return [
            review_score(self.codec.score, *pair)
            for pair in zip(stars.tolist(), positive.tolist(), strict=True)
        ]


def _unpickle(content: bytes, source: str) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = joblib.load(io.BytesIO(content))
        except Exception as error:  # an unpickled file may raise anything
            raise ModelError(
                f"{source} cannot be loaded: {type(error).__name__}: {error}",
                hint="Load it with the versions of Python and scikit-learn, and the modules, that wrote it.",
            ) from error
    for warning in caught:
        structlog.get_logger().warning("model file warns", file=source, warning=str(warning.message))
    return found


def _head(estimator: Any, source: str) -> Head:
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        if not hasattr(estimator, "predict"):
            raise ModelError(f"{source} is a {type(estimator).__name__}, which does not predict", hint=_PAGE)
        return lambda inputs: (np.clip(_column(estimator.predict(inputs)), 1, 5), None)
    if not hasattr(estimator, "predict_proba"):
        raise ModelError(
            f"{source}, a {type(estimator).__name__}, is a classifier without predict_proba",
            hint="Wrap it in sklearn.calibration.CalibratedClassifierCV, or train one with probabilities.",
        )
    names = [_class_name(value) for value in np.asarray(classes).tolist()]
    if set(names) <= set(_STARS):
        return _star_classifier(estimator, np.array([float(name) for name in names]))
    for known in _SENTIMENTS:
        if set(names) == known:
            place = names.index(max(known))
            return lambda inputs: (None, np.asarray(estimator.predict_proba(inputs), dtype=float)[:, place])
    raise ModelError(
        f"{source} predicts the classes {', '.join(names[:10])}: neither stars nor a sentiment", hint=_PAGE
    )


def _star_classifier(estimator: Any, stars: Floats) -> Head:
    def predict(inputs: list[Any]) -> tuple[Floats, Floats]:
        chances: Floats = np.asarray(estimator.predict_proba(inputs), dtype=float)
        more, less = chances[:, stars > 3].sum(axis=1), chances[:, stars < 3].sum(axis=1)
        decided = more + less
        positive = np.divide(more, decided, out=np.full(len(decided), 0.5), where=decided > 0)
        return np.clip(chances @ stars, 1, 5), positive

    return predict


def _column(predicted: Any) -> Floats:
    column: Floats = np.asarray(predicted, dtype=float)
    return column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column


def _class_name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
