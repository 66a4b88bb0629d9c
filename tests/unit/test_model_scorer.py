"""The run-time scorer against scikit-learn, and what it explains."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdlab.model import Scorer, load_scorer
from bdlab.model.compiled import CompiledScorer, Labels, review_score, strongest
from bdlab.model.terms import FORMAT, Field, Intercepts, TermTable
from bdlab.resources import models_dir
from bdlab_cli.wiring.samples import samples_of
from tests.fix_model import difference
from tests.samples import REVIEWS, Review

TOLERANCE = 1e-9

#: What tokenisers stumble over, beside words that the shipped model knows.
WORDS = (
    "great terrible not don't DON’T don&#39;t donâ€™t never good . ! ? , <br /> <b> &lt;br&gt; &amp; 10/10 "
    "5.0 ½ ² é É e\u0301 ß İ ſ ﬁ ' ` \\ \xad _ ~ \u00a0 \u200b \u2028 \x1f \x85 😀 日本語 ΣΑΣ ǅ"
)
PIECES = st.sampled_from(WORDS.split(" "))
TEXTS = st.lists(PIECES | st.text(max_size=12), max_size=40).map(" ".join) | st.text(max_size=200)


@pytest.fixture(scope="module")
def shipped() -> tuple[Scorer, dict[str, Any]]:
    return load_scorer(), joblib.load(models_dir() / "reviews.joblib")


def test_equals_scikit_learn_on_the_reviews_it_was_trained_on(small_model: Path, small_reviews: list[Review]) -> None:
    scorer = load_scorer(str(small_model / "small.card.json"))
    assert difference(scorer, joblib.load(small_model / "small.joblib"), small_reviews) < TOLERANCE


@given(text=TEXTS.filter(bool), summary=TEXTS)
def test_equals_scikit_learn_on_any_text(shipped: tuple[Scorer, dict[str, Any]], text: str, summary: str) -> None:
    scorer, pipelines = shipped
    assert difference(scorer, pipelines, [Review(text=text, summary=summary)]) < TOLERANCE


@given(text=TEXTS.filter(bool), summary=TEXTS)
def test_a_score_is_within_its_ranges(shipped: tuple[Scorer, dict[str, Any]], text: str, summary: str) -> None:
    score = shipped[0].score(Review(text=text, summary=summary))
    assert 1 <= score.prediction <= 5
    assert 0.5 <= score.confidence <= 1
    assert len(score.explanation) <= 5
    sizes = [abs(term.weight) for term in score.explanation]
    assert sizes == sorted(sizes, reverse=True)
    assert len({term.term for term in score.explanation}) == len(sizes)
    assert all(term.term.strip() for term in score.explanation)


def test_many_are_scored_as_each_alone(small_reviews: list[Review]) -> None:
    scorer = load_scorer()
    assert scorer.score_many(small_reviews) == [scorer.score(review) for review in small_reviews]
    assert scorer.score_many([]) == []


def test_tells_good_from_bad() -> None:
    scorer = load_scorer()
    bad = scorer.score(Review(text="This product is terrible!", summary="Product review"))
    good = scorer.score(Review(text="Excellent, I love it. Highly recommend!", summary="Great"))
    assert (bad.sentiment, good.sentiment) == ("negative", "positive")
    assert bad.prediction < 2.5
    assert good.prediction > 4.5
    assert bad.explanation[0].term == "terrible"
    assert bad.explanation[0].weight < -1
    assert all(term.weight > 0 for term in good.explanation[:2])


def test_a_negation_turns_a_word_round() -> None:
    scorer = load_scorer()
    plain, negated = (
        scorer.score(Review(text=f"The coffee was {taste} and arrived.")) for taste in ("good", "not good")
    )
    assert negated.prediction < plain.prediction - 1
    assert negated.explanation[0].term == "not good"


@pytest.mark.parametrize(
    "spelling",
    ["I don&#39;t like it", "I don\u2019t like it", "I don\\'t like it", "I donâ€™t like it", "I don\u200b't like it"],
)
def test_a_prediction_does_not_hang_on_how_an_apostrophe_is_written(spelling: str) -> None:
    scorer = load_scorer()
    plain = scorer.score(Review(text="I don't like it", summary="I don't like it"))
    assert scorer.score(Review(text=spelling, summary=spelling)) == plain
    assert plain.prediction < 3


@pytest.mark.parametrize(
    "text",
    [
        "Das Produkt ist sehr schlecht und ich bin enttäuscht. Nie wieder!",
        "Der Geschmack ist schrecklich - mein Hund mag es nicht. Geld zurück, bitte.",
        "Leider war die Packung beschädigt, und alle Kekse waren zerbrochen.",
        "Furchtbar!",
        "Ce produit est vraiment mauvais, je suis très déçu de mon achat.",
        "Très bon thé, je le recommande à tout le monde !",
        "Le chocolat est arrivé fondu et le service client n'a pas répondu.",
        "- - -",
        "とても美味しい",
    ],
)
def test_a_review_in_another_language_is_not_taken_at_its_word(text: str) -> None:
    score = load_scorer().score(Review(text=text))
    assert score.known_terms is not None
    assert score.known_terms < 0.3
    assert f"the model knows {score.known_terms:.0%} of the review's words" in str(score.warning)


def test_known_terms_are_the_share_of_different_words() -> None:
    scorer = load_scorer()
    shares = [
        scorer.score(Review(text=text, summary=summary)).known_terms
        for text, summary in (
            ("good coffee", ""),
            ("good good qxqxqx!", ""),
            ("good qxqxqx", "qxqxqx. great zyzyzy"),
            ("...", ""),
        )
    ]
    assert shares == [1.0, 0.5, 0.5, 0.0]


def test_ordinary_reviews_are_without_a_warning() -> None:
    reviews = [Review(text=sample["text"], summary=sample["summary"]) for sample in samples_of(REVIEWS.contract)]
    assert {score.warning for score in load_scorer().score_many(reviews)} == {None}


CONTRADICTION = "4.1 stars and a negative sentiment contradict each other"


@pytest.mark.parametrize(
    ("stars", "sentiment", "known", "warning"),
    [
        (4.1, "negative", 1.0, CONTRADICTION),
        (3.6, "negative", 1.0, CONTRADICTION.replace("4.1", "3.6")),
        (2.4, "positive", None, "2.4 stars and a positive sentiment contradict each other"),
        (4.1, "negative", 0.1, f"the model knows 10% of the review's words; {CONTRADICTION}"),
        (3.4, "negative", 0.5, None),
        (2.6, "positive", None, None),
        (4.9, "positive", 1.0, None),
    ],
)
def test_a_warning_says_why(stars: float, sentiment: str, known: float | None, warning: str | None) -> None:
    assert review_score(REVIEWS.score, stars, float(sentiment == "positive"), known_terms=known).warning == warning


def test_the_weight_of_an_only_term_is_its_part_of_the_rating_in_stars() -> None:
    scorer = load_scorer()
    unknown = scorer.score(Review(text="qxqxqx"))
    alone = scorer.score(Review(text="terrible"))
    assert unknown.explanation == ()
    [term] = alone.explanation
    assert term.term == "terrible"
    assert term.weight == pytest.approx(alone.prediction - unknown.prediction, abs=1e-4)


def test_the_sums_are_those_of_the_formula() -> None:
    field = Field(
        terms=["good", "stale", "good stale"], idf=[1.0, 2.0, 2.0], rating=[3.0, -6.0, 9.0], sentiment=[1.0, 0.0, 0.0]
    )
    empty = Field(terms=["."], idf=[1.0], rating=[0.0], sentiment=[0.0])
    table = TermTable(format=FORMAT, intercepts=Intercepts(0.5, -1.0), summary=empty, review=field)
    score = CompiledScorer(table, REVIEWS, name="hand@1", sha256="").score(
        Review(text="Good, not stale; good tea. Stale?")
    )

    # Known are good and stale (the first stale is under a negation): a vector of length sqrt(1 + 4).
    moved = (1 * 3 - 2 * 6) / math.sqrt(5)
    curve = [1 / (1 + math.exp(-value)) for value in (0.5, 0.5 + moved, -1 + 1 / math.sqrt(5))]
    assert score.prediction == pytest.approx(1 + 4 * curve[1], abs=1e-12)
    assert score.sentiment == "negative"
    assert score.confidence == pytest.approx(1 - curve[2], abs=1e-12)
    stars = 4 * (curve[1] - curve[0])
    assert [term.term for term in score.explanation] == ["stale", "good"]
    weights = [term.weight for term in score.explanation]
    assert weights == pytest.approx([stars * -12 / -9, stars * 3 / -9], abs=1e-4)


@pytest.mark.parametrize(
    ("term", "label"),
    [
        ("great", "great"),
        ("great !", "great"),
        (". great", "great"),
        ("~good", "not good"),
        ("not ~good", "not good"),
        ("~good ~enough", "not good enough"),
        ("~good coffee", "not good coffee"),
        ("dont ~like", "don't like"),
        (".", ""),
        ("! !", ""),
        ("the", ""),
        ("of the", ""),
        ("not", ""),
        ("the best", "the best"),
    ],
)
def test_labels_read_as_a_person_writes(term: str, label: str) -> None:
    assert Labels([term])[0] == label


def test_the_strongest_terms_do_not_say_the_same_twice() -> None:
    chosen = strongest(
        {
            "recommend": 0.3,
            "highly recommend": 0.5,
            "": 9.0,
            "good": 0.2,
            "not good": -0.4,
            "don't good": -0.1,
            "tea": 0.01,
        }
    )
    assert [(term.term, term.weight) for term in chosen] == [
        ("highly recommend", 0.5),
        ("not good", -0.4),
        ("good", 0.2),
        ("tea", 0.01),
    ]


def test_loading_and_scoring_import_no_numeric_library() -> None:
    program = """
import json, sys
from tests.samples import Review, ReviewScore
from bdlab.model import load_scorer
load_scorer().score(Review(text="This product is terrible!"))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
    imported = set(json.loads(done.stdout))
    assert "bdlab" in imported
    assert imported.isdisjoint({"numpy", "scipy", "sklearn", "joblib", "pandas"})


def test_the_same_text_has_the_same_score_in_another_process(small_reviews: list[Review]) -> None:
    program = """
import sys
from tests.samples import Review, ReviewScore
from bdlab.model import load_scorer
print(repr(load_scorer().score(Review(text=sys.argv[1], summary=sys.argv[2]))))
"""
    review = small_reviews[16]
    shown = {
        subprocess.run(
            [sys.executable, "-c", program, review.text, review.summary],
            capture_output=True,
            check=True,
            timeout=60,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(shown) == 1
