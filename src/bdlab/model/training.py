"""Training: grouped cross-validation, a model from all reviews, and its files and card."""

import hashlib
import io
import platform
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from itertools import chain
from pathlib import Path
from typing import Any

import joblib
import msgspec
import numpy as np
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score
from sklearn.model_selection import GroupKFold

from bdlab.contract import review_contract
from bdlab.errors import InvalidInput, TrainingFailed
from bdlab.events import codec_of
from bdlab.model import terms
from bdlab.model.compiled import CompiledScorer, no_review
from bdlab.model.estimators import SENTIMENTS, build_pipelines, build_table
from bdlab.model.features import (
    STARS,
    Corpus,
    Example,
    Floats,
    Integers,
    Parameters,
    count_terms,
    read_corpus,
    read_examples,
)
from bdlab.model.features import Progress as Share
from bdlab.model.fitting import HEADS, NEUTRAL, Fits, Job, run_all
from bdlab.model.labelled import Labelled
from bdlab.model.scorer import SUFFIX, Card, check_title, encode_card, file_of, write_files
from bdlab.profile import Profile, profile_of

Progress = Callable[[str, float], None]
"""Called with what is being done, and the share, from 0 to 1, of the whole work that is done."""

FOLDS = 5
NAME = "reviews"
VERSION = "1.1.0"

_LIBRARIES = ("bdlab", "scikit-learn", "numpy", "scipy", "joblib")
_SEED = 0
_METHOD = "cross-validation grouped by {}; reviews whose text is in the fold are not trained on"
_READ, _COUNTED, _FITTED = 0.08, 0.2, 0.95
"""The shares of the whole work that are done after these steps."""
_UNUSED = {
    "HelpfulnessNumerator": "votes that come after a review is written: docs/model.md has what they change",
    "HelpfulnessDenominator": "votes that come after a review is written: docs/model.md has what they change",
    "Time": "says nothing about the next review",
}


def train(
    csv: Path | None,
    out: Path,
    *,
    stored: Labelled | None = None,
    progress: Progress = lambda _what, _share: None,
    folds: int = FOLDS,
    delimiter: str = ",",
    name: str = NAME,
    version: str = VERSION,
    parameters: Parameters | None = None,
) -> Card:
    """Train on the reviews of `csv`, on `stored` ones with their stars, or on both, write the model to the folder
    `out`, old or new, and return its card.

    The same file gives the same term table, byte by byte. Raises InvalidInput if the file or an option is
    not valid, TrainingFailed if there is too little to learn from."""
    chosen = parameters or Parameters()
    check_title(name, version)

    def step(what: str, begin: float, end: float) -> Share:
        return lambda share: progress(what, begin + share * (end - begin))

    progress("reading the reviews", 0.0)
    reading = step("reading the reviews", 0.0, _READ)
    from_file = read_examples(csv, delimiter=delimiter, progress=reading) if csv else ()
    corpus = read_corpus(chain(from_file, _stored(stored, reading) if stored else ()))
    if stored:
        stored.check(len(corpus.stars), folds)
    fold_of = _folds(corpus, folds)
    write_files(out, {})
    features = count_terms(corpus, fold_of, folds, chosen, step("counting the terms", _READ, _COUNTED))
    fits = Fits(corpus, features, fold_of, chosen)
    for fold in range(folds + 1):
        _check_sentiments(corpus.stars[fits.seen(fold)])
    # The largest come first, so that all cores have work until the end.
    jobs = [Job(head, fold) for fold in range(folds, -1, -1) for head in HEADS]
    results = list(run_all(fits, jobs, step("cross-validating and fitting", _COUNTED, _FITTED)))
    progress("writing the model", _FITTED)
    table = build_table(features, results[0][0], results[1][0], chosen)
    predicted = {head: np.zeros(len(fold_of)) for head in HEADS}
    for job, (_, blocks) in zip(jobs, results, strict=True):
        for reviews, values in blocks:
            predicted[job.head][reviews] = values
    stars = 1 + 4 * predicted["rating"]
    grouped = (stored.contract.group or "the text") if stored else ""
    method = _METHOD.format(", of stored ones by ".join(filter(None, ("ProductId" if csv else "", grouped))))
    data: dict[str, Any] = {"store": stored.told()} if stored else {}
    if csv:
        with csv.open("rb") as content:
            data = {"file": csv.name, "sha256": hashlib.file_digest(content, "sha256").hexdigest(), **data}
    scorer = CompiledScorer(table, codec_of(review_contract()), name=name, sha256="")
    joblib.dump(build_pipelines(table, chosen), dumped := io.BytesIO(), compress=("zlib", 9))
    contents = {f"{name}.terms.json.gz": terms.encode(table), f"{name}.joblib": dumped.getvalue()}
    card = Card(
        name=name,
        version=version,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        contract=(stored.contract if stored else review_contract()).document,
        files=dict(zip(contents, map(file_of, ("terms", "pipeline"), contents.values()), strict=True)),
        data=data
        | {
            "rows": len(corpus.stars),
            "products": corpus.count_products(),
            "stars": {str(stars): int((corpus.stars == stars).sum()) for stars in STARS},
        },
        validation={"method": method, **_validate(fits, folds, stars, predicted["sentiment"])},
        profile=_profile(corpus.sample, scorer, stars, predicted["sentiment"]),
        training={"seed": _SEED, **msgspec.to_builtins(chosen)},
        unused_columns=_UNUSED,
        libraries={"python": platform.python_version(), **{lib: version_of(lib) for lib in _LIBRARIES}},
    )
    write_files(out, {**contents, name + SUFFIX: encode_card(card)})
    progress("done", 1.0)
    return card


def _stored(stored: Labelled, progress: Share) -> Iterator[Example]:
    """Yield stored reviews with their stars, rounded to whole ones. Raises InvalidInput."""
    if why := no_review(stored.contract):
        raise InvalidInput(f"the stored inputs are no reviews: {why}", hint="Name their model: --like CARD.")
    for group, stars, given in stored.read(progress, ("text",)):
        yield Example(0, group, round(stars), given["summary"], given["text"])


def _profile(sample: Mapping[int, Example], scorer: CompiledScorer, stars: Floats, positive: Floats) -> Profile:
    """Return the profile of reviews: of the fields that the model reads, and of what was predicted before a model had
    seen the review."""
    given = [scorer.codec.input(summary=each.summary, text=each.text) for each in sample.values()]
    columns = {
        "summary": [each.summary for each in sample.values()],
        "text": [each.text for each in sample.values()],
        "prediction": stars[[*sample]].tolist(),
        "sentiment": [SENTIMENTS[int(share >= 0.5)] for share in positive[[*sample]]],
    }
    return profile_of(scorer.codec.contract, columns, [score.known_terms for score in scorer.score_many(given)])


def _folds(corpus: Corpus, folds: int) -> Integers:
    """Return the fold of each review. Raises InvalidInput."""
    fold_of = np.zeros(len(corpus.stars), dtype=np.int32)
    try:
        splitter = GroupKFold(folds, shuffle=True, random_state=_SEED)
        for number, (_, unseen) in enumerate(splitter.split(fold_of, groups=corpus.products)):
            fold_of[unseen] = number
    except ValueError as error:
        raise InvalidInput(
            f"{len(fold_of)} reviews ({corpus.count_products()} products), {folds} folds: {error}",
            hint="Ask for 2 folds or more, and no more than products: those of a product are in one.",
        ) from error
    return fold_of


def _check_sentiments(stars: Integers) -> None:
    for name, stars_of in zip(SENTIMENTS, ((1, 2), (4, 5)), strict=True):
        if not np.isin(stars, stars_of).any():
            why = f"no review with {stars_of[0]} or {stars_of[1]} stars to learn the {name} sentiment from"
            raise TrainingFailed(why, hint="Train on more reviews, or with another number of folds.")


def _validate(fits: Fits, folds: int, stars: Floats, positive: Floats) -> dict[str, Any]:
    truth = fits.corpus.stars
    mean, mostly = np.zeros(len(truth)), np.zeros(len(truth))
    per_fold = []
    for fold in range(folds):
        unseen, seen = fits.fold_of == fold, truth[fits.seen(fold)]
        mean[unseen] = seen.mean()
        mostly[unseen] = float((seen > NEUTRAL).sum() >= (seen < NEUTRAL).sum())
        per_fold.append(_metrics(truth[unseen], stars[unseen], positive[unseen]))
    return {
        "folds": folds,
        "metrics": _metrics(truth, stars, positive),
        "constant": _metrics(truth, mean, mostly),
        "per_fold": per_fold,
    }


def _metrics(truth: Integers, stars: Floats, positive: Floats) -> dict[str, Any]:
    decided = truth != NEUTRAL
    negative = truth[decided] < NEUTRAL
    called_negative = positive[decided] < 0.5
    both = 0 < negative.sum() < len(negative)
    precision = recall = f1 = 0.0
    if len(negative):  # without one scikit-learn raises an error
        precision, recall, f1, _ = precision_recall_fscore_support(
            negative, called_negative, average="binary", zero_division=0.0
        )
    return {
        "reviews": len(truth),
        "star_mse": round(float(((stars - truth) ** 2).mean()), 4),
        "star_mae": round(float(np.abs(stars - truth).mean()), 4),
        "sentiment_auc": round(float(roc_auc_score(~negative, positive[decided])), 4) if both else None,
        "sentiment_accuracy": round(float((negative == called_negative).mean()), 4) if len(negative) else None,
        "negative_f1": round(float(f1), 4),
        "negative_precision": round(float(precision), 4),
        "negative_recall": round(float(recall), 4),
    }
