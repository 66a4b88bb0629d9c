"""The shipped model, against its promises and against the file that it was trained on."""

from __future__ import annotations

from pathlib import Path

import joblib
import pytest

from bdlab.model import load_scorer, termtable
from bdlab.model.card import Metrics, read_card, sha256_of
from bdlab.model.dataset import Dataset, read_dataset
from bdlab.model.estimators import Parameters, compile_terms, fit
from bdlab.model.scorer import SHIPPED
from bdlab.resources import models_dir
from tests.fix_model import difference, reviews_of

MOST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def large(large_reviews: Path) -> Dataset:
    return read_dataset(large_reviews)


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    validation = read_card(models_dir() / SHIPPED).validation
    assert validation is not None
    assert validation.folds == 5
    assert "grouped by ProductId" in validation.method
    return validation.metrics


def test_the_cards_figures_meet_the_bars(metrics: Metrics) -> None:
    assert metrics.star_mse <= 0.67
    assert metrics.star_mae <= 0.53
    assert metrics.sentiment_auc is not None
    assert metrics.sentiment_auc >= 0.973
    assert metrics.negative_f1 >= 0.81


def test_all_files_together_are_at_most_5_mb() -> None:
    assert sum(path.stat().st_size for path in models_dir().iterdir()) <= MOST_BYTES


def test_the_card_describes_every_file() -> None:
    card = read_card(models_dir() / SHIPPED)
    assert {path.name for path in models_dir().iterdir()} == {SHIPPED, *card.files}
    for name, file in card.files.items():
        assert sha256_of((models_dir() / name).read_bytes()) == file.sha256


def test_the_card_is_about_this_file(large: Dataset) -> None:
    data = read_card(models_dir() / SHIPPED).data
    assert data is not None
    assert (data.sha256, data.rows, data.products, data.stars) == (
        large.sha256,
        len(large.examples),
        large.products,
        large.stars,
    )


def test_equals_scikit_learn_on_every_review(large: Dataset) -> None:
    pipelines = joblib.load(models_dir() / "reviews.joblib")
    assert difference(load_scorer(), pipelines, reviews_of(large)) < 1e-9


def test_training_on_this_file_gives_the_shipped_model(large: Dataset) -> None:
    shipped = termtable.decode((models_dir() / "reviews.terms.json.gz").read_bytes(), source="shipped")
    found = compile_terms(
        fit(
            [(example.summary, example.text) for example in large.examples],
            [example.stars for example in large.examples],
            [example.product for example in large.examples],
            Parameters(),
        )
    )
    for ours, theirs in ((shipped.summary, found.summary), (shipped.review, found.review)):
        assert ours.terms == theirs.terms
        # Another build of the numeric libraries may end in other last digits.
        assert ours.rating == pytest.approx(theirs.rating, abs=1e-3)
        assert ours.sentiment == pytest.approx(theirs.sentiment, abs=1e-3)
