"""Training on a small set, and the files that it cannot be done on."""

from __future__ import annotations

import json
import math
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from bdlab.errors import InvalidInput, TrainingFailed
from bdlab.model import fitting, load_scorer, terms
from bdlab.model.estimators import ExpectedStars
from bdlab.model.features import Parameters, count_terms, read_corpus, read_examples
from bdlab.model.scorer import Card, read_card, sha256_of
from bdlab.model.terms import normalised_review_terms, normalised_summary_terms
from bdlab.model.training import train
from tests.fix_model import SMALL_REVIEWS
from tests.samples import Review

HEADER = "ProductId,Score,Summary,Text"


def csv_file(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path = folder / "reviews.csv"
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def test_the_card_tells_what_the_model_is(small_training: tuple[Path, Card]) -> None:
    folder, card = small_training
    assert read_card(folder / "small.card.json") == card
    assert card.title == "small@0.0.1"
    assert {path.name for path in folder.iterdir()} == {*card.files, "small.card.json"}
    for name, file in card.files.items():
        content = (folder / name).read_bytes()
        assert (file.sha256, file.bytes) == (sha256_of(content), len(content))
    assert card.data is not None
    assert card.data["sha256"] == sha256_of(SMALL_REVIEWS.read_bytes())
    assert (card.data["rows"], card.data["products"], sum(card.data["stars"].values())) == (72, 12, 72)
    assert {"bdlab", "python", "scikit-learn", "numpy", "scipy", "joblib"} == set(card.libraries)
    assert "HelpfulnessNumerator" in card.unused_columns
    assert card.training["rating_c"] > 0


def test_the_cards_figures_beat_a_constant_guess(small_training: tuple[Path, Card]) -> None:
    validation = small_training[1].validation
    assert validation is not None
    assert validation["folds"] == len(validation["per_fold"]) == 5
    assert sum(fold["reviews"] for fold in validation["per_fold"]) == validation["metrics"]["reviews"] == 72
    assert validation["metrics"]["star_mse"] < 0.6 * validation["constant"]["star_mse"]
    assert validation["metrics"]["negative_f1"] > 0.7
    assert validation["metrics"]["sentiment_auc"] is not None
    assert validation["metrics"]["sentiment_auc"] > 0.9
    assert (validation["constant"]["sentiment_auc"], validation["constant"]["negative_f1"]) == (0.5, 0.0)


def test_training_again_gives_the_same_data_file(small_model: Path, tmp_path: Path) -> None:
    train(SMALL_REVIEWS, tmp_path / "again", name="small", version="0.0.1")
    again = (tmp_path / "again" / "small.terms.json.gz").read_bytes()
    assert again == (small_model / "small.terms.json.gz").read_bytes()


def test_training_into_the_same_folder_replaces_the_model(tmp_path: Path) -> None:
    train(SMALL_REVIEWS, tmp_path, version="1.0.0", folds=2)
    train(SMALL_REVIEWS, tmp_path, version="1.0.1", folds=2)
    assert load_scorer(str(tmp_path)).name == "reviews@1.0.1"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "reviews.card.json",
        "reviews.joblib",
        "reviews.terms.json.gz",
    ]


def test_progress_counts_up_to_its_end(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    train(SMALL_REVIEWS, tmp_path, folds=3, progress=lambda *step: seen.append(step))
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert list(dict.fromkeys(what for what, _ in seen)) == [
        "reading the reviews",
        "counting the terms",
        "cross-validating and fitting",
        "writing the model",
        "done",
    ]


@pytest.fixture
def by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spread the fits over processes, however few reviews there are."""
    monkeypatch.setattr(fitting, "_FEW", 0)


@pytest.mark.usefixtures("by_processes")
def test_processes_fit_the_same_model(small_training: tuple[Path, Card], tmp_path: Path) -> None:
    card = train(SMALL_REVIEWS, tmp_path, name="small", version="0.0.1")
    assert card.validation == small_training[1].validation
    terms = (tmp_path / "small.terms.json.gz").read_bytes()
    assert terms == (small_training[0] / "small.terms.json.gz").read_bytes()


@pytest.mark.usefixtures("by_processes")
def test_an_interrupt_ends_the_processes_and_writes_nothing(tmp_path: Path) -> None:
    def interrupt(what: str, _share: float) -> None:
        if what.startswith("cross-validating"):
            assert multiprocessing.active_children()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SMALL_REVIEWS, tmp_path, progress=interrupt)
    assert not multiprocessing.active_children()
    assert not list(tmp_path.iterdir())


def test_of_too_many_terms_those_of_most_products_are_kept(small_model: Path, tmp_path: Path) -> None:
    bounded = Parameters(summary_most_terms=5, review_most_terms=40)
    card = train(SMALL_REVIEWS, tmp_path, folds=2, parameters=bounded)
    assert card.training["review_most_terms"] == 40
    every, few = (
        terms.decode((folder / name).read_bytes(), source=name)
        for folder, name in ((small_model, "small.terms.json.gz"), (tmp_path, "reviews.terms.json.gz"))
    )
    assert 0 < len(few.summary.terms) <= 5
    assert 20 < len(few.review.terms) <= 40 < len(every.review.terms)
    assert {".", "the"} < set(few.review.terms) < set(every.review.terms)


def test_a_head_is_what_scikit_learn_fits_to_the_same_reviews() -> None:
    corpus = read_corpus(read_examples(SMALL_REVIEWS))
    fold_of = np.full(len(corpus.stars), -1)
    features = count_terms(corpus, fold_of, 0, Parameters())
    head, _ = fitting.Fits(corpus, features, fold_of, Parameters()).run(fitting.Job("rating", 0), lambda _: None)
    examples = list(read_examples(SMALL_REVIEWS))
    rows = [(e.summary, e.text, e.stars) for e in examples]
    rows += [("", e.summary, e.stars) for e in examples if e.summary.strip()]
    vectorizers = [
        TfidfVectorizer(analyzer=analyzer, vocabulary=features.terms[field], binary=True)
        for field, analyzer in (("summary", normalised_summary_terms), ("review", normalised_review_terms))
    ]
    parts = [vectorizer.fit_transform([row[:2] for row in rows]) for vectorizer in vectorizers]
    stars = np.array([row[2] for row in rows], dtype=float)
    expected = ExpectedStars(8.0).fit(sparse.hstack([0.6 * parts[0], parts[1]]).tocsr(), stars)
    assert head.weights == pytest.approx(expected.coef_, abs=2e-3)
    assert head.intercept == pytest.approx(expected.intercept_, abs=2e-3)


def test_a_text_listed_under_another_product_is_not_learnt_by_heart(tmp_path: Path) -> None:
    words = ("red", "blue", "green", "brown", "black", "white", "pink", "grey")
    # Each text is under two products, with stars that nothing but the text itself tells.
    rows = [f"{side}{n},{1 + 4 * (n % 2)},,{word} {word}er" for side in "pq" for n, word in enumerate(words)]
    card = train(csv_file(tmp_path, HEADER, *rows), tmp_path / "model", folds=4)
    assert card.validation is not None
    assert card.validation["metrics"]["star_mse"] > 3


def test_a_file_without_summaries_can_be_trained_on(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path,
        HEADER,
        *(f"p{n},{stars},,{word} thing number{n}" for n in range(8) for stars, word in ((1, "bad"), (5, "good"))),
    )
    train(path, tmp_path / "model", folds=2)
    scorer = load_scorer(str(tmp_path / "model"))
    assert scorer.score(Review(text="a good thing", summary="good")).sentiment == "positive"
    assert scorer.score(Review(text="a bad thing")).sentiment == "negative"


def test_columns_are_found_in_any_order_and_case_after_a_byte_order_mark(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "\ufeffTEXT,extra,score,Summary,productid", '"two\nlines",x,4,s,p', "", "one,y,2,t,q")
    assert [(e.line, e.product, e.stars, e.summary, e.text) for e in read_examples(path)] == [
        (2, "p", 4, "s", "two\nlines"),
        (5, "q", 2, "t", "one"),
    ]


@pytest.mark.parametrize("column", ["ProductId", "Score", "Summary", "Text"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    path = csv_file(tmp_path, ",".join(name for name in HEADER.split(",") if name != column), "a,b,c")
    with pytest.raises(InvalidInput, match=f"the column '{column}' is missing; the first line has "):
        train(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "is empty"),
        ([HEADER], "holds no reviews: 0 rows"),
        ([HEADER + ",text"], "two columns are named 'Text': 'Text' and 'text'"),
        ([HEADER, "p,5,s,t", "q,6,s,t"], "line 3: field 'Score' has to be an integer from 1 to 5, and is "),
        ([HEADER, "p,,s,t"], "line 2: field 'Score' is empty"),
        ([HEADER, "p,4.5,s,t"], "line 2: field 'Score' has to be"),
        ([HEADER, '"p\nq",5,s,"t\nu"', "p,five,s,t"], "line 5: field 'Score' has to be"),
        ([HEADER, " ,5,s,t"], "line 2: ProductId is empty"),
        ([HEADER, "p,5,s, "], "line 2: Text is empty"),
        ([HEADER, "p,5,s"], "line 2: the row has 3 columns, and the header has 4"),
        ([HEADER, "p,5,s,t", 'q,5,s,"never closed'], "row that begins on line 3: not valid CSV"),
    ],
)
def test_a_file_that_cannot_be_used_says_where(tmp_path: Path, lines: list[str], why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        list(read_examples(csv_file(tmp_path, *lines)))
    assert why in refused.value.message
    assert "reviews.csv" in refused.value.message


def test_another_encoding_is_named_by_line_and_byte(tmp_path: Path) -> None:
    path = csv_file(tmp_path, HEADER, "p,5,ok,ok", "q,5,café,ok", encoding="cp1252")
    with pytest.raises(InvalidInput, match=r"line 3: not UTF-8: byte 0xe9 at offset 46") as refused:
        list(read_examples(path))
    assert "iconv" in refused.value.hint


def test_a_folder_or_nothing_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: is a directory"):
        list(read_examples(tmp_path))
    with pytest.raises(InvalidInput, match="cannot be read: no such file or directory"):
        list(read_examples(tmp_path / "absent.csv"))


def test_a_file_in_place_of_the_output_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match=r"the folder .*file cannot be written to: file exists"):
        train(SMALL_REVIEWS, tmp_path / "file")


def test_too_few_products_for_the_folds(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"\(12 products\), 13 folds: .* greater than") as refused:
        train(SMALL_REVIEWS, tmp_path, folds=13)
    assert "no more than products" in refused.value.hint


def test_one_fold_validates_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"1 folds: .*n_splits=2 or more"):
        train(SMALL_REVIEWS, tmp_path, folds=1)


@pytest.mark.parametrize(("stars", "missing"), [(5, "negative"), (1, "positive")])
def test_one_sentiment_alone_is_nothing_to_learn_from(tmp_path: Path, stars: int, missing: str) -> None:
    path = csv_file(tmp_path, HEADER, *(f"p{n},{stars},s,t{n}" for n in range(6)))
    with pytest.raises(TrainingFailed, match=f"to learn the {missing} sentiment from"):
        train(path, tmp_path / "model", folds=2)


@pytest.mark.parametrize("name", ["", "../up", "a b", "a/b", ".hidden", "x" * 101, "ok\n"])
def test_a_name_that_makes_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="is not valid"):
        train(SMALL_REVIEWS, tmp_path, name=name)
    assert not list(tmp_path.iterdir())


def test_the_figures_are_numbers_that_json_has(small_model: Path) -> None:
    card = json.loads((small_model / "small.card.json").read_text())
    for value in card["validation"]["metrics"].values():
        assert math.isfinite(value)
