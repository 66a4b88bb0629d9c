"""The columnar scorer against the one that scores review by review."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdlab.events import Score
from bdlab.model import Scorer, load_scorer
from bdlab.model.columnar import ColumnarScorer
from bdlab.model.compiled import CompiledScorer
from bdlab.model.terms import FORMAT, Field, Format, Intercepts, TermTable
from tests.samples import REVIEWS, Review
from tests.unit.test_model_scorer import PIECES, TEXTS, TOLERANCE

#: What makes terms tie, negations reach over what they should not, and fields run into each other.
NEGATED = st.lists(st.sampled_from(["not", "never", "good", "bad", "dont", ".", "!", "a"]) | PIECES, max_size=12).map(
    " ".join
)
ANY_REVIEW = st.builds(Review, text=(TEXTS | NEGATED).filter(bool), summary=TEXTS | NEGATED)


@pytest.fixture(scope="module")
def scorers() -> tuple[Scorer, Scorer]:
    return load_scorer(), load_scorer(many=True)


def assert_equal(single: Scorer, many: Scorer, reviews: Sequence[Review]) -> None:
    for review, found in zip(reviews, many.score_many(reviews), strict=True):
        _assert_equal(single.score(review), found)


def _assert_equal(alone: Score, found: Score) -> None:
    assert found.prediction == pytest.approx(alone.prediction, abs=TOLERANCE)
    assert found.confidence == pytest.approx(alone.confidence, abs=TOLERANCE)
    others = [(each.sentiment, each.known_terms, each.explanation, each.warning) for each in (alone, found)]
    assert others[0] == others[1]


def test_equals_the_single_scorer_on_every_review(scorers: tuple[Scorer, Scorer], small_reviews: list[Review]) -> None:
    assert isinstance(scorers[1], ColumnarScorer)
    assert_equal(*scorers, small_reviews)
    assert scorers[1].score_many([]) == []


@given(reviews=st.lists(ANY_REVIEW, min_size=1, max_size=6))
def test_equals_the_single_scorer_on_any_texts(scorers: tuple[Scorer, Scorer], reviews: list[Review]) -> None:
    assert_equal(*scorers, reviews)


def test_a_review_as_large_as_many_is_scored_among_small_ones(scorers: tuple[Scorer, Scorer]) -> None:
    large = Review(text="It is not good, and it isn't bad either <br /> ½ of it. " * 10_000, summary="a " * 9999)
    assert_equal(*scorers, [Review(text="good"), large, *[Review(text="bad", summary="!")] * 5000, large])


@pytest.mark.parametrize("format_", [FORMAT, "bdlab-terms/1"])
def test_any_table_gives_the_same(format_: Format) -> None:
    """Terms that no text has, that tie, and that only one field knows; and none at all."""
    terms = ["~good", "a'b", "A", "bad", "bad .", "good", "good ~bad", "isnt", "x y z", "é", "é bad", "~~good"]
    numbers = [1.0 + place // 3 for place in range(len(terms))]
    full = Field(terms, numbers, [0.5 - (place % 4) / 4 for place in range(len(terms))], numbers)
    empty = Field([], [], [], [])
    reviews = [
        Review(text=text, summary=summary)
        for text in ("bad good. é bad", "not good bad bad bad", "a'b A x y z &eacute;", "isn't é é bad . bad")
        for summary in ("", "-", "bad", "not", "good bad.")
    ]
    for summary, review in ((full, full), (empty, full), (full, empty), (empty, empty)):
        table = TermTable(format_, Intercepts(0.3, -0.2), summary, review)
        single, many = (each(table, REVIEWS, name="t", sha256="") for each in (CompiledScorer, ColumnarScorer))
        assert_equal(single, many, reviews)
