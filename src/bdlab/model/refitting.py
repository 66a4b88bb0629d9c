"""Fitting the scikit-learn estimator of a card again, as a clone, on stored inputs and their feedback."""

from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GroupKFold, cross_val_predict

from bdlab.errors import InvalidInput, TrainingFailed
from bdlab.events import codec_of
from bdlab.model import pipeline
from bdlab.model.compiled import no_review
from bdlab.model.labelled import Labelled
from bdlab.model.library import class_name, taken_by
from bdlab.model.scorer import SUFFIX, Card, check_title, encode_card, file_of, find, library_scorer, write_files
from bdlab.profile import profile_of

_READ, _VALIDATED = 0.2, 0.8
"""The shares of the whole work that are done after these steps."""


class Fitted(NamedTuple):
    """A fitted estimator, and the card that it is of."""

    estimator: BaseEstimator
    card: Card


def estimator_of(path: str) -> Fitted | None:
    """Return what `path` names, as for `load_scorer`; None if it is a model of reviews, which `train` makes. Raises
    InvalidInput if it cannot be fitted again, ModelError."""
    found = find(path)
    if not no_review(found.contract):
        return None
    files, contents = found.card.files, found.read()
    for name, content in contents.items():
        if files[name].role in ("skops", "pipeline"):
            estimator = pipeline.load(content, files[name], source=name, libraries=found.card.libraries)
            if isinstance(estimator, BaseEstimator):
                return Fitted(estimator, found.card)
    raise InvalidInput(
        f"{found.path} has no scikit-learn estimator, as skops or joblib, that can be fitted again",
        hint="ONNX holds what was fitted, and not how: fit such a model where it came from.",
    )


def refit(
    like: Fitted,
    out: Path,
    stored: Labelled,
    *,
    folds: int,
    name: str,
    version: str,
    progress: Callable[[str, float], None],
) -> Card:
    """Fit a clone of an estimator on all of `stored`, which memory has to hold; write it as skops to the folder `out`,
    and return its card. Raises InvalidInput, ModelError."""
    check_title(name, version)
    contract, source, file = stored.contract, like.card.title, f"{name}.skops"
    codec, known = codec_of(contract), {class_name(each): each for each in getattr(like.estimator, "classes_", ())}
    inputs, truths, groups = [], list[Any](), []
    for group, truth, given in stored.read(lambda share: progress("reading", share * _READ), contract.columns):
        inputs.append(codec.input(**given))
        truths.append(known.get(truth, truth))
        groups.append(group)
    stored.check(len(truths), folds)
    rows, right = taken_by(like.estimator, contract, source=source)(inputs), np.array(truths)
    try:
        progress("cross-validating", _READ)
        splitter = GroupKFold(folds, shuffle=True, random_state=0)
        predicted = cross_val_predict(clone(like.estimator), rows, right, groups=groups, cv=splitter).reshape(-1)
        progress("fitting", _VALIDATED)
        content = pipeline.dump(clone(like.estimator).fit(rows, right))
    except Exception as error:  # a foreign model may raise anything
        raise TrainingFailed(f"{source} cannot be fitted on {len(truths)} stored rows: {error}") from error
    entry = file_of("skops", content)
    entry = msgspec.structs.replace(entry, trusted=tuple(pipeline.untrusted_types(content, source=file)))
    library_scorer(content, entry, codec, source=file, name=name)  # predicts an example
    columns = {field.column: [getattr(given, field.column) for given in inputs] for field in contract.inputs}
    columns["prediction"] = [class_name(each) if known else each for each in predicted.tolist()]
    off = predicted != right if known else predicted - right
    metrics = {"error_rate": off.mean()} if known else {"mse": (off**2).mean(), "mae": np.abs(off).mean()}
    card = Card(
        name=name,
        version=version,
        files={file: entry},
        contract=contract.document,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        data={"store": stored.told(), "rows": len(truths), "groups": len({*groups})},
        validation={
            "method": f"cross-validation grouped by {contract.group or 'equal inputs'}",
            "folds": folds,
            "metrics": {name: round(float(value), 6) for name, value in metrics.items()},
        },
        profile=profile_of(contract, columns),
        training={"like": source},
        libraries={**like.card.libraries, "scikit-learn": version_of("scikit-learn")},
    )
    write_files(out, {file: content, name + SUFFIX: encode_card(card)})
    progress("done", 1.0)
    return card
