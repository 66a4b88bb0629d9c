"""Pipelines from elsewhere, served through scikit-learn."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC

from bdlab.errors import ModelError, ModelTampered
from bdlab.model import Scorer, load_scorer
from bdlab.model.features import read_examples
from bdlab.model.scorer import sha256_of
from tests.fix_model import SMALL_REVIEWS
from tests.samples import Review

GOOD = Review(text="I love it, excellent quality. Highly recommend!", summary="Great")
BAD = Review(text="Terrible, it broke. A waste of money.", summary="Awful")


class Explosive:
    """Unpickling it makes a file: the proof that code ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return _touch, (str(self.path),)


def _touch(path: str) -> None:
    Path(path).touch()


def fitted(head: Any, target: Callable[[int], Any], *, leave_out: int | None = None) -> Any:
    """A pipeline over single strings, as most people have it."""
    examples = [e for e in read_examples(SMALL_REVIEWS) if e.stars != leave_out]
    texts = [f"{e.summary}\n{e.text}" for e in examples]
    return make_pipeline(TfidfVectorizer(), head).fit(texts, [target(e.stars) for e in examples])


def written(model: Any, folder: Path) -> str:
    """The path of `model` in a joblib file that has its sha256 beside it."""
    path = folder / "mine.joblib"
    joblib.dump(model, path)
    path.with_name("mine.joblib.sha256").write_text(f"{sha256_of(path.read_bytes())}  mine.joblib\n")
    return str(path)


STAR_CLASSES = (int, str, float)
SENTIMENT_CLASSES = (
    lambda stars: int(stars > 3),
    lambda stars: stars > 3,
    lambda stars: 1 if stars > 3 else -1,
    lambda stars: "positive" if stars > 3 else "negative",
)


def check(scorer: Scorer) -> None:
    good, bad = scorer.score_many([GOOD, BAD])
    assert good.prediction > bad.prediction
    assert (good.sentiment, bad.sentiment) == ("positive", "negative")
    for score in (good, bad):
        assert 1 <= score.prediction <= 5
        assert 0.5 <= score.confidence <= 1
    assert scorer.score(GOOD) == good
    assert scorer.blocking


def test_a_regressor_predicts_clipped_stars(tmp_path: Path) -> None:
    model = fitted(Ridge(alpha=0.01), lambda stars: 3 + 5 * (stars - 3))
    scorer = load_scorer(written(model, tmp_path))
    check(scorer)
    assert scorer.score(GOOD).prediction == 5
    assert scorer.score(BAD).prediction == 1


@pytest.mark.parametrize("target", STAR_CLASSES)
def test_a_classifier_of_stars_predicts_their_expectation(tmp_path: Path, target: Callable[[int], Any]) -> None:
    model = fitted(LogisticRegression(C=100), target)
    scorer = load_scorer(written(model, tmp_path))
    check(scorer)
    [chances] = model.predict_proba([f"{GOOD.summary}\n{GOOD.text}"])
    assert scorer.score(GOOD).prediction == pytest.approx(float(chances @ [1, 2, 3, 4, 5]))
    positive = chances[3:].sum() / (chances[3:].sum() + chances[:2].sum())
    assert scorer.score(GOOD).confidence == pytest.approx(float(positive))


@pytest.mark.parametrize("target", SENTIMENT_CLASSES)
def test_a_classifier_of_sentiment_predicts_both(tmp_path: Path, target: Callable[[int], Any]) -> None:
    model = fitted(LogisticRegression(C=100), target, leave_out=3)
    scorer = load_scorer(written(model, tmp_path))
    check(scorer)
    score = scorer.score(GOOD)
    assert score.confidence == pytest.approx(float(model.predict_proba([f"{GOOD.summary}\n{GOOD.text}"]).max()))
    assert score.prediction == pytest.approx(1 + 4 * score.confidence)


def test_a_dict_of_two_predicts_each_with_its_own(tmp_path: Path) -> None:
    rating = fitted(Ridge(), lambda stars: stars)
    sentiment = fitted(LogisticRegression(), lambda stars: int(stars > 3), leave_out=3)
    scorer = load_scorer(written({"rating": rating, "sentiment": sentiment}, tmp_path))
    check(scorer)
    text = [f"{GOOD.summary}\n{GOOD.text}"]
    assert scorer.score(GOOD).prediction == pytest.approx(float(np.clip(rating.predict(text)[0], 1, 5)))
    assert scorer.score(GOOD).confidence == pytest.approx(float(sentiment.predict_proba(text)[0, 1]))


def test_our_own_joblib_file_scores_as_its_data_file(small_model: Path, small_reviews: list[Review]) -> None:
    slow = load_scorer(str(small_model / "small.joblib"))
    fast = load_scorer(str(small_model))
    assert slow.name == fast.name
    for one, other in zip(slow.score_many(small_reviews), fast.score_many(small_reviews), strict=True):
        assert one.prediction == pytest.approx(other.prediction, abs=1e-9)
        assert one.confidence == pytest.approx(other.confidence, abs=1e-9)
        assert one.sentiment == other.sentiment


def test_a_review_without_a_summary_is_its_text_alone(tmp_path: Path) -> None:
    model = fitted(Ridge(), lambda stars: stars)
    scorer = load_scorer(written(model, tmp_path))
    expected = float(np.clip(model.predict(["a great lamp"])[0], 1, 5))
    assert scorer.score(Review(text="a great lamp")).prediction == pytest.approx(expected)


def test_several_threads_may_score_at_once(tmp_path: Path) -> None:
    scorer = load_scorer(written(fitted(LogisticRegression(), lambda stars: stars), tmp_path))
    expected = scorer.score(GOOD)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: scorer.score(GOOD).prediction, range(40))) == {expected.prediction}
    assert scorer.score_many([]) == []


# What stands in for trust: nothing is unpickled before its hash has been compared.


def test_without_a_hash_nothing_is_unpickled(tmp_path: Path) -> None:
    joblib.dump(Explosive(tmp_path / "ran"), tmp_path / "mine.joblib")
    with pytest.raises(ModelError, match="no sha256 to check it against") as refused:
        load_scorer(str(tmp_path / "mine.joblib"))
    assert "sha256sum" in refused.value.hint
    assert not (tmp_path / "ran").exists()


def test_with_another_hash_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "mine.joblib"
    joblib.dump(Explosive(tmp_path / "ran"), path)
    with pytest.raises(ModelTampered, match=r"mine\.joblib"):
        load_scorer(f"{path}#sha256={'0' * 64}")
    path.with_name("mine.joblib.sha256").write_text("0" * 64)
    with pytest.raises(ModelTampered, match=r"mine\.joblib"):
        load_scorer(str(path))
    assert not (tmp_path / "ran").exists()


def test_the_hash_may_stand_in_the_path(tmp_path: Path) -> None:
    path = Path(written(fitted(Ridge(), lambda stars: stars), tmp_path))
    sha256 = sha256_of(path.read_bytes())
    path.with_name("mine.joblib.sha256").unlink()
    scorer = load_scorer(f"{path}#sha256={sha256.upper()}")
    assert (scorer.name, scorer.sha256) == (f"mine@{sha256[:12]}", sha256)


def test_the_hint_for_a_missing_hash_works_word_for_word(tmp_path: Path) -> None:
    path = Path(written(fitted(Ridge(), lambda stars: stars), tmp_path))
    path.with_name("mine.joblib.sha256").unlink()
    with pytest.raises(ModelError) as refused:
        load_scorer(str(path))
    command = refused.value.hint.partition(": ")[2]
    subprocess.run(["/bin/sh", "-c", command], check=True, timeout=10)
    assert load_scorer(str(path)).blocking


def test_a_card_names_a_pipeline_from_elsewhere(tmp_path: Path) -> None:
    path = Path(written(fitted(Ridge(), lambda stars: stars), tmp_path))
    content = path.read_bytes()
    card = {
        "name": "mine",
        "version": "2.1",
        "files": {"mine.joblib": {"role": "pipeline", "sha256": sha256_of(content), "bytes": len(content)}},
    }
    (tmp_path / "mine.card.json").write_text(json.dumps(card))
    path.with_name("mine.joblib.sha256").unlink()
    by_card, by_file = load_scorer(str(tmp_path / "mine.card.json")), load_scorer(str(path))
    assert by_card.name == by_file.name == "mine@2.1"
    assert by_card.score(GOOD) == by_file.score(GOOD)


def test_a_card_beside_that_does_not_name_the_file_is_no_proof(small_model: Path, tmp_path: Path) -> None:
    path = Path(written(fitted(Ridge(), lambda stars: stars), tmp_path))
    shutil.copy(small_model / "small.card.json", tmp_path / "mine.card.json")
    with pytest.raises(ModelError, match=r"does not name the file mine\.joblib"):
        load_scorer(str(path))


def test_a_sha256_file_with_something_else_in_it(tmp_path: Path) -> None:
    path = Path(written(fitted(Ridge(), lambda stars: stars), tmp_path))
    path.with_name("mine.joblib.sha256").write_text("md5 no")
    with pytest.raises(ModelError, match="does not start with a sha256"):
        load_scorer(str(path))


# What cannot be served says so when it is loaded, not at the first request.


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: {"other": 1}, "without 'rating' and 'sentiment'"),
        (lambda: 17, "is a int, which does not predict"),
        (TfidfVectorizer, "which does not predict"),
        (lambda: fitted(LinearSVC(), lambda stars: stars), "classifier without predict_proba"),
        (lambda: fitted(LogisticRegression(), lambda stars: "abc"[stars % 3]), "the classes a, b, c"),
        (lambda: fitted(LogisticRegression(), lambda stars: stars + 3), "the classes 4, 5, 6, 7, 8"),
        (lambda: Ridge().fit(np.eye(3), [1, 2, 3]), "failed: ValueError"),
        (lambda: make_pipeline(TfidfVectorizer(), Ridge()), "failed: NotFittedError"),
        (
            lambda: make_pipeline(TfidfVectorizer(), FunctionTransformer(np.asarray, accept_sparse=True), Ridge()),
            "failed: ",
        ),
        (lambda: fitted(Ridge(), lambda stars: [stars, stars]), "did not predict one number a review"),
    ],
)
def test_what_cannot_be_served_is_refused_at_loading(tmp_path: Path, make: Callable[[], Any], why: str) -> None:
    with pytest.raises(ModelError) as refused:
        load_scorer(written(make(), tmp_path))
    assert why in refused.value.message
    assert refused.value.hint


def test_bytes_that_are_no_joblib_file_are_refused(tmp_path: Path) -> None:
    path = Path(written(1, tmp_path))
    path.write_bytes(b"not a pickle")
    path.with_name("mine.joblib.sha256").write_text(sha256_of(b"not a pickle"))
    with pytest.raises(ModelError, match="cannot be loaded: ") as refused:
        load_scorer(str(path))
    assert "versions" in refused.value.hint


def test_a_pipeline_is_served_from_the_command_line(tmp_path: Path) -> None:
    path = written(fitted(LogisticRegression(C=100), lambda stars: stars), tmp_path)
    command = [sys.executable, "-m", "bdlab_cli", "predict", "--no-publish", "--json", "--model", path, GOOD.text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"].startswith("mine@")
