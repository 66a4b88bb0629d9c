"""A model trained on the small set of reviews, and the large set where this machine has it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bdlab.model import Scorer
from bdlab.model.features import read_examples
from bdlab.model.scorer import Card
from tests.samples import Review

SMALL_REVIEWS = Path(__file__).parent / "data" / "reviews_small.csv"


@pytest.fixture(scope="session")
def small_training(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card]:
    """The folder of a model trained on the small set, and its card. Copy it before you change it."""
    from bdlab.model.training import train

    folder = tmp_path_factory.mktemp("small-model")
    return folder, train(SMALL_REVIEWS, folder, name="small", version="0.0.1")


@pytest.fixture(scope="session")
def small_model(small_training: tuple[Path, Card]) -> Path:
    return small_training[0]


@pytest.fixture(scope="session")
def large_reviews() -> Path:
    """The file that the shipped model was trained on; it is no part of the project."""
    path = os.environ.get("BDLAB_REVIEWS")
    if not path:
        pytest.skip("BDLAB_REVIEWS does not name the file that the shipped model was trained on")
    return Path(path)


def reviews_of(path: Path) -> list[Review]:
    return [Review(text=example.text, summary=example.summary) for example in read_examples(path)]


@pytest.fixture(scope="session")
def small_reviews() -> list[Review]:
    return reviews_of(SMALL_REVIEWS)


def difference(scorer: Scorer, pipelines: dict[str, Any], reviews: list[Review]) -> float:
    """The largest difference from scikit-learn over both heads."""
    pairs = [(review.summary, review.text) for review in reviews]
    stars = pipelines["rating"].predict(pairs).tolist()
    positive = pipelines["sentiment"].predict_proba(pairs)[:, 1].tolist()
    largest = 0.0
    for score, expected_stars, expected in zip(scorer.score_many(reviews), stars, positive, strict=True):
        found = score.confidence if score.sentiment == "positive" else 1 - score.confidence
        largest = max(largest, abs(score.prediction - expected_stars), abs(found - expected))
    return largest
