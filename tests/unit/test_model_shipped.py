"""The shipped model, against its promises and against the file that it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import pytest

from bdlab.contract import review_contract
from bdlab.model import load_scorer, terms
from bdlab.model.scorer import SHIPPED, read_card, sha256_of
from bdlab.model.training import train
from bdlab.resources import models_dir
from tests.fix_model import difference, reviews_of

MOST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    validation = read_card(models_dir() / SHIPPED).validation
    assert validation is not None
    assert validation["folds"] == 5
    assert "grouped by ProductId" in validation["method"]
    return dict(validation["metrics"])


def test_the_cards_figures_meet_the_bars(metrics: dict[str, Any]) -> None:
    assert metrics["star_mse"] <= 0.67
    assert metrics["star_mae"] <= 0.53
    assert metrics["sentiment_auc"] is not None
    assert metrics["sentiment_auc"] >= 0.973
    assert metrics["negative_f1"] >= 0.81


def test_all_files_together_are_at_most_5_mb() -> None:
    assert sum(path.stat().st_size for path in models_dir().iterdir()) <= MOST_BYTES


def test_the_card_describes_every_file_and_the_contract() -> None:
    card = read_card(models_dir() / SHIPPED)
    assert card.contract == review_contract().document
    assert {path.name for path in models_dir().iterdir()} == {SHIPPED, *card.files}
    for name, file in card.files.items():
        assert sha256_of((models_dir() / name).read_bytes()) == file.sha256


def test_equals_scikit_learn_on_every_review(large_reviews: Path) -> None:
    pipelines = joblib.load(models_dir() / "reviews.joblib")
    assert difference(load_scorer(), pipelines, reviews_of(large_reviews)) < 1e-9


def test_training_on_its_file_gives_the_shipped_model(large_reviews: Path, tmp_path: Path) -> None:
    card, shipped = train(large_reviews, tmp_path), read_card(models_dir() / SHIPPED)
    assert card.data == shipped.data
    assert card.validation is not None
    assert shipped.validation is not None
    found, told = card.validation["metrics"], shipped.validation["metrics"]
    assert found["star_mse"] == pytest.approx(told["star_mse"], abs=0.0005)
    assert found["sentiment_auc"] == pytest.approx(told["sentiment_auc"], abs=0.0005)
    assert found["negative_f1"] == pytest.approx(told["negative_f1"], abs=0.002)
    ours, theirs = (
        terms.decode((folder / "reviews.terms.json.gz").read_bytes(), source="the model")
        for folder in (tmp_path, models_dir())
    )
    for mine, its in ((ours.summary, theirs.summary), (ours.review, theirs.review)):
        assert mine.terms == its.terms
        # The weights are rounded to four decimals, and the fit ends a little before its minimum.
        assert mine.rating == pytest.approx(its.rating, abs=0.01)
        assert mine.sentiment == pytest.approx(its.sentiment, abs=0.01)
