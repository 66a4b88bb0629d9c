"""Training: grouped cross-validation, a model from all reviews, and its files and card."""

from __future__ import annotations

import io
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path

import joblib
import msgspec
import numpy as np
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score
from sklearn.model_selection import GroupKFold

from bdlab.errors import InvalidInput
from bdlab.files import Replacement
from bdlab.model import termtable
from bdlab.model.card import SUFFIX, Card, Data, File, Metrics, Title, Validation, encode_card, sha256_of
from bdlab.model.dataset import Dataset, read_dataset
from bdlab.model.estimators import NEUTRAL, Fitted, Floats, Parameters, compile_terms, fit
from bdlab.model.pipeline import PAIRS

Progress = Callable[[str, int, int], None]
"""Called with the next step, the number of steps done, and the number of all steps."""

FOLDS = 5
NAME = "reviews"
VERSION = "1.1.0"

_LIBRARIES = ("bdlab", "scikit-learn", "numpy", "scipy", "joblib")
_SEED = 0
_UNUSED = {
    "HelpfulnessNumerator": "votes that come after a review is written: docs/model.md has what they change",
    "HelpfulnessDenominator": "votes that come after a review is written: docs/model.md has what they change",
    "Time": "says nothing about the next review",
}


def train(
    csv: Path,
    out: Path,
    *,
    progress: Progress = lambda *_: None,
    folds: int = FOLDS,
    delimiter: str = ",",
    name: str = NAME,
    version: str = VERSION,
    parameters: Parameters | None = None,
) -> Card:
    """Train on the reviews of `csv`, write the model to the folder `out`, old or new, and return its card.

    The same file gives the same term table, byte by byte. Raises InvalidInput if the file or an option is
    not valid, TrainingFailed if there is too little to learn from.
    """
    chosen = parameters or Parameters()
    _check_title(name, version)
    steps = folds + 3
    progress("reading the reviews", 0, steps)
    dataset = read_dataset(csv, delimiter=delimiter)
    _check_folds(dataset, folds)
    _prepare(out)
    validation = _validate(dataset, folds, chosen, lambda what, done: progress(what, done + 1, steps))
    progress("training on all reviews", folds + 1, steps)
    model = _fit_on(dataset, range(len(dataset.examples)), chosen)
    progress("writing the model", folds + 2, steps)
    contents = {
        f"{name}.terms.json.gz": ("terms", termtable.encode(compile_terms(model))),
        f"{name}.joblib": ("pipeline", _dump(model)),
    }
    card = Card(
        name=name,
        version=version,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files={
            file: File(role=role, sha256=sha256_of(content), bytes=len(content))
            for file, (role, content) in contents.items()
        },
        data=Data(
            file=dataset.file,
            sha256=dataset.sha256,
            rows=len(dataset.examples),
            products=dataset.products,
            stars=dataset.stars,
        ),
        validation=validation,
        training={"seed": _SEED, **msgspec.to_builtins(chosen)},
        unused_columns=_UNUSED,
        libraries={"python": platform.python_version(), **{lib: version_of(lib) for lib in _LIBRARIES}},
    )
    try:
        written = {file: content for file, (_, content) in contents.items()}
        _write_all(out, {**written, name + SUFFIX: encode_card(card)})
    except OSError as error:
        raise InvalidInput(f"the folder {out} cannot be written to: {error.strerror}") from error
    progress("done", steps, steps)
    return card


def _check_title(name: str, version: str) -> None:
    try:
        msgspec.convert({"name": name, "version": version}, Title)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the name {name!r} or the version {version!r} is not valid: {error}") from error


def _check_folds(dataset: Dataset, folds: int) -> None:
    if folds < 2:
        raise InvalidInput(f"cross-validation needs 2 folds or more, and not {folds}")
    if dataset.products < folds:
        raise InvalidInput(
            f"{dataset.file} has reviews of {dataset.products} product(s), too few for {folds} folds: "
            "the reviews of a product are in one fold",
            hint="Ask for fewer folds, or train on more products.",
        )


def _prepare(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"the folder {out} cannot be made: {(error.strerror or str(error)).lower()}",
            hint="Name a folder, new or existing, with --output.",
        ) from error


def _fit_on(dataset: Dataset, chosen: Sequence[int], parameters: Parameters) -> Fitted:
    examples = [dataset.examples[index] for index in chosen]
    return fit(
        [(example.summary, example.text) for example in examples],
        [example.stars for example in examples],
        [example.product for example in examples],
        parameters,
    )


def _validate(
    dataset: Dataset, folds: int, parameters: Parameters, progress: Callable[[str, int], None]
) -> Validation:
    pairs = [(example.summary, example.text) for example in dataset.examples]
    truth = np.array([example.stars for example in dataset.examples])
    stars, positive, mean, mostly = (np.zeros(len(truth)) for _ in range(4))
    per_fold = []
    splitter = GroupKFold(folds, shuffle=True, random_state=_SEED)
    products = [example.product for example in dataset.examples]
    for number, (others, unseen) in enumerate(splitter.split(pairs, groups=products)):
        progress(f"fold {number + 1} of {folds}", number)
        # A product may have several ids, each with the same reviews.
        texts = {dataset.examples[index].text for index in unseen}
        seen = [index for index in others if dataset.examples[index].text not in texts]
        model = _fit_on(dataset, seen, parameters)
        stars[unseen], positive[unseen] = model.predict([pairs[index] for index in unseen])
        mean[unseen] = truth[seen].mean()
        mostly[unseen] = float((truth[seen] > NEUTRAL).sum() >= (truth[seen] < NEUTRAL).sum())
        per_fold.append(_metrics(truth[unseen], stars[unseen], positive[unseen]))
    return Validation(
        method="cross-validation grouped by ProductId; reviews whose text is in the fold are not trained on",
        folds=folds,
        metrics=_metrics(truth, stars, positive),
        constant=_metrics(truth, mean, mostly),
        per_fold=tuple(per_fold),
    )


def _metrics(truth: Floats, stars: Floats, positive: Floats) -> Metrics:
    decided = truth != NEUTRAL
    negative = truth[decided] < NEUTRAL
    called_negative = positive[decided] < 0.5
    both = 0 < negative.sum() < len(negative)

    def of_negative(metric: Callable[..., float]) -> float:
        """Return 0 if all reviews are neutral, for which scikit-learn raises an error."""
        return round(float(metric(negative, called_negative, zero_division=0.0)), 4) if len(negative) else 0.0

    return Metrics(
        reviews=len(truth),
        star_mse=round(float(((stars - truth) ** 2).mean()), 4),
        star_mae=round(float(np.abs(stars - truth).mean()), 4),
        sentiment_auc=round(float(roc_auc_score(~negative, positive[decided])), 4) if both else None,
        sentiment_accuracy=round(float((negative == called_negative).mean()), 4) if len(negative) else None,
        negative_f1=of_negative(f1_score),
        negative_precision=of_negative(precision_score),
        negative_recall=of_negative(recall_score),
    )


def _dump(model: Fitted) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(model._asdict() | {"input": PAIRS}, buffer, compress=("zlib", 9))
    return buffer.getvalue()


def _write_all(out: Path, contents: Mapping[str, bytes]) -> None:
    """Replace all files once all are on the disk, since the card names the others."""
    with ExitStack() as stack:
        files = [stack.enter_context(Replacement(out / name)) for name in contents]
        for file, content in zip(files, contents.values(), strict=True):
            file.file.write(content)
            file.file.flush()
        for file in files:
            file.commit()
