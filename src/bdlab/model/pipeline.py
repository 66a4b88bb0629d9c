"""Scorers of fitted scikit-learn estimators, and of those with its interface, in joblib and skops files.

With the review contract the file holds one estimator, or a dict with two, ``rating`` and ``sentiment``. Their input is
strings (summary and text, with a line break between), or (summary, text) pairs if the dict has ``"input": "pairs"``.
What an estimator predicts follows from its kind:

- a regressor predicts stars, clipped to 1 to 5;
- a classifier whose classes are among 1 to 5, 5 among them, predicts stars: the expectation over its probabilities;
- a classifier of two classes, 0 and 1, -1 and 1 or negative and positive, predicts the sentiment.

If there is only one of the two, the other follows from it: the sentiment of `s` stars is positive with probability (s -
1) / 4, and the reverse; with a star classifier, that of more than 3 stars against less.

With any other contract it holds one estimator: `bdlab.model.library` has what it takes and gives."""

import io
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import joblib
import numpy as np
import structlog

from bdlab.errors import ModelError, require
from bdlab.events import EventCodec, Input, Score
from bdlab.model.compiled import no_review, review_score
from bdlab.model.library import PAGE, Answers, Floats, LibraryScorer, Traits, class_name, taken_by
from bdlab.model.scorer import File

PAIRS = "pairs"
_SENTIMENTS = ({"0", "1"}, {"-1", "1"}, {"False", "True"}, {"negative", "positive"})
_INIT = "`bdlab model init FILE --sample rows.csv` writes a card for it, with a contract that has its classes."
#: Where the name of a package is another than that of its module.
PACKAGES = {"sklearn": "scikit-learn"}
Predict = Callable[[Sequence[Input]], list[Score]]
Head = Callable[[list[Any]], tuple[Floats, Floats]]
"""Predicts stars and probabilities of a positive sentiment."""


def pipeline_scorer(found: Any, codec: EventCodec, *, source: str, name: str, sha256: str) -> LibraryScorer:
    """Return the scorer of what a file of `source` held. Raises ModelError if it cannot be served."""
    reviews = not no_review(codec.contract)
    predict = _reviews(found, codec, source) if reviews else _any(found, codec, source)
    # The threads of OpenMP, which most others use, do not come along with a fork.
    forkable = reviews and sys.modules.keys().isdisjoint(("lightgbm", "xgboost"))
    return LibraryScorer(codec, predict, name=name, sha256=sha256, forkable=forkable)


def untrusted_types(content: bytes, *, source: str) -> list[str]:
    """Return the types in a skops file that skops does not trust by itself; nothing of it is loaded. Raises ModelError,
    or InvalidInput if skops is not installed."""
    require("skops", extra="skops", what=f"{source} is a skops file")
    from skops.io import get_untrusted_types  # noqa: PLC0415 - an extra, which few models need

    return sorted(_loaded(lambda: get_untrusted_types(data=content), source))


def load(content: bytes, file: File, *, source: str, libraries: Mapping[str, str] | None = None) -> Any:
    """Return what the checked content of a joblib or skops file holds. Unpickling joblib's runs its code. `libraries`
    has the versions that it was made with. Raises ModelError, also if a type in a skops file is trusted by neither
    skops nor `file`."""
    if file.role != "skops":
        return _loaded(lambda: joblib.load(io.BytesIO(content)), source, libraries)
    found = untrusted_types(content, source=source)
    if refused := [kind for kind in found if kind not in file.trusted]:
        hint = 'If you know them and trust the file, name them in the card: "trusted" of the file. '
        hint += "`bdlab model init --trust` writes them."
        raise ModelError(f"{source} holds types that its card does not trust: {', '.join(refused)}", hint=hint)
    from skops.io import loads  # noqa: PLC0415 - an extra, which few models need

    return _loaded(lambda: loads(content, trusted=found), source, libraries)


def dump(estimator: Any) -> bytes:
    """Return an estimator as a skops file. Raises InvalidInput if skops is not installed."""
    require("skops", extra="skops", what="a model that is fitted again is written as skops")
    from skops.io import dumps  # noqa: PLC0415 - an extra, which few models need

    return bytes(dumps(estimator))


def traits(estimator: Any, *, source: str) -> Traits:
    """Return what an estimator takes and gives. Raises ModelError if it does not predict."""
    classes = classes_of(estimator, source)
    names = getattr(estimator, "feature_names_in_", None)
    return Traits(
        names=None if names is None else {str(name): False for name in names},
        number=getattr(estimator, "n_features_in_", None),
        classes=lambda _contract, _rows: classes,
    )


def _loaded(load: Callable[[], Any], source: str, libraries: Mapping[str, str] | None = None) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = load()
        except Exception as error:  # a file that is loaded may raise anything
            hint = "Load it with the versions of Python and of the libraries that wrote it. Functions and "
            hint += "classes of your own have to be in a module on PYTHONPATH, not in the script that was run."
            if isinstance(error, ModuleNotFoundError) and error.name:
                package = PACKAGES.get(module := error.name.partition(".")[0], module)
                version = (libraries or {}).get(package, "")
                hint = f"pip install {package}{version and f'=={version}'}"
            raise ModelError(f"{source} cannot be loaded: {type(error).__name__}: {error}", hint=hint) from error
    for warning in caught:
        structlog.get_logger().warning("model file warns", file=source, warning=str(warning.message))
    return found


def classes_of(estimator: Any, source: str) -> list[str] | None:
    """Return the names of a classifier's classes, None of another estimator. Raises ModelError if it does not predict,
    or gives no probabilities."""
    if not hasattr(estimator, "predict"):
        raise ModelError(f"{source} is a {type(estimator).__name__}, which does not predict", hint=PAGE)
    if type(estimator).__name__ == "Booster":
        hint = "Save the estimator of its scikit-learn interface (LGBMRegressor, XGBClassifier) instead."
        raise ModelError(f"{source} is a Booster of {type(estimator).__module__.partition('.')[0]}", hint=hint)
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        return None
    if not hasattr(estimator, "predict_proba"):
        hint = "Wrap it in sklearn.calibration.CalibratedClassifierCV, or train one with probabilities."
        raise ModelError(f"{source}, a {type(estimator).__name__}, is a classifier without predict_proba", hint=hint)
    if isinstance(classes, list):
        raise ModelError(f"{source} predicts several outputs at once, and a model has one", hint=PAGE)
    return [class_name(value) for value in np.asarray(classes).tolist()]


def _any(estimator: Any, codec: EventCodec, source: str) -> Predict:
    names = classes_of(estimator, source)
    answers = Answers(codec, names, source=source)
    take = taken_by(estimator, codec.contract, source=source)
    if names is None:
        return lambda inputs: answers.numbers(estimator.predict(take(inputs)), len(inputs))
    from sklearn.pipeline import Pipeline  # noqa: PLC0415 - loading the file has imported it

    before, last = None, estimator
    if type(estimator) is Pipeline and len(estimator) > 1 and hasattr(estimator[:-1], "transform"):
        before, last = estimator[:-1], estimator[-1]  # what comes before has to be done once

    def predict(inputs: Sequence[Input]) -> list[Score]:
        rows = take(inputs)
        if before is not None:
            rows = before.transform(rows)
        # The class is what `predict` says, which is not with each classifier the most probable one.
        return answers.classes(last.predict(rows), last.predict_proba(rows), names, len(inputs))

    return predict


def _reviews(found: Any, codec: EventCodec, source: str) -> Predict:
    parts = found if isinstance(found, dict) else {"model": found}
    heads = [_head(parts[part], f"{source}, {part}") for part in ("model", "rating", "sentiment") if part in parts]
    if not heads:
        raise ModelError(f"{source} holds a dict without 'rating' and 'sentiment'", hint=PAGE)
    pairs = parts.get("input") == PAIRS

    def predict(reviews: Sequence[Input]) -> list[Score]:
        texts = [(review.summary, review.text) for review in reviews]
        inputs: list[Any] = texts if pairs else ["\n".join(filter(None, parts)) for parts in texts]
        found = [head(inputs) for head in heads]
        stars, positive = found[0][0], found[-1][1]
        if not (stars.shape == positive.shape == (len(reviews),) and np.isfinite(stars + positive).all()):
            raise ModelError("did not predict one number a review", hint=PAGE)
        return [review_score(codec.score, *pair) for pair in zip(stars.tolist(), positive.tolist(), strict=True)]

    return predict


def _head(estimator: Any, source: str) -> Head:
    names = classes_of(estimator, source) or []
    sides = set(names) in _SENTIMENTS
    if names and not sides and not ("5" in names and {*"12345"}.issuperset(names)):
        why = f"{source} predicts the classes {', '.join(names[:10])}: neither stars (1 to 5) nor a sentiment"
        raise ModelError(why, hint=_INIT)

    def predict(inputs: list[Any]) -> tuple[Floats, Floats]:
        asked = estimator.predict_proba if names else estimator.predict
        found: Floats = np.asarray(asked(inputs), dtype=float)
        if not names:
            stars = np.clip(found.reshape(-1) if found.shape == (len(inputs), 1) else found, 1, 5)
            return stars, (stars - 1) / 4
        if sides:
            positive = found[:, names.index(max(names))]
            return 1 + 4 * positive, positive
        values = np.array(names, dtype=float)
        more, less = found[:, values > 3].sum(axis=1), found[:, values < 3].sum(axis=1)
        decided = more + less
        positive = np.divide(more, decided, out=np.full(len(decided), 0.5), where=decided > 0)
        return np.clip(found @ values, 1, 5), positive

    return predict
