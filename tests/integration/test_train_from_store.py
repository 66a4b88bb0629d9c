"""`bdlab train --from-store`: training on rows of a real Postgres whose right answers are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, ClassVar

import joblib
import msgspec
import numpy as np
import pytest
from psycopg2 import sql
from sklearn.linear_model import LinearRegression
from uuid_utils.compat import uuid7

from bdlab.contract import parse_contract, review_contract
from bdlab.errors import ContractInvalid, InvalidInput, TrainingFailed
from bdlab.model import load_scorer, training
from bdlab.model.features import read_corpus
from bdlab.model.labelled import Labelled
from bdlab.model.refitting import estimator_of, refit
from bdlab.model.scorer import Card, encode_card, file_of, sha256_of
from bdlab.postgres.quality import QualityReader, asked
from bdlab_cli.wiring.samples import slang_reviews
from tests.fix_database import Database, adopt
from tests.fix_model import SMALL_REVIEWS

NOW = datetime.now(UTC).replace(microsecond=0)
REVIEWS = review_contract().document
PRODUCT = {"ProductId": {"type": ["string", "null"], "since": 2}}
GROUPED = REVIEWS | {
    "input": REVIEWS["input"] | {"properties": REVIEWS["input"]["properties"] | PRODUCT, "group": "ProductId"},
    "columns": [*REVIEWS["columns"], "product_id"],
}
HOUSES = {
    "input": {
        "type": "object",
        "title": "House",
        "properties": {"area": {"type": "number"}, "street": {"type": "integer"}},
        "required": ["area", "street"],
        "group": "street",
    },
    "output": {"type": "object", "properties": {"prediction": {"type": "number"}}},
}


class World:
    """A database with a contract, and rows as they would be stored."""

    def __init__(self, database: Database, document: Mapping[str, Any]) -> None:
        self.database, self.contract, self.offset = database, parse_contract(document), 0
        if document != REVIEWS:
            adopt(database.credentials("owner"), self.contract)

    def insert(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        made = []
        for row in rows:
            self.offset += 1
            place = {"log_id": 1, "partition": 0, "offset": self.offset}
            made.append({"created_at": NOW, "stored_at": NOW, **row, **place})
        if not made:
            return
        names = sql.SQL(", ").join(map(sql.Identifier, made[0]))
        form = "INSERT INTO {0} ({1}) SELECT {1} FROM jsonb_populate_recordset(NULL::{0}, %s::jsonb)"
        statement = sql.SQL(form).format(sql.Identifier(table), names)
        self.database.execute(statement, [msgspec.json.encode(made).decode()])

    def store(self, rows: Iterable[tuple[dict[str, Any], float | None]], **more: Any) -> list[str]:
        """Store inputs by their columns, each with the right prediction if it is known; their ids."""
        fixed = {"explanation": [], "model": "m@1", "prediction": 3, "source": None}
        if len(self.contract.truths) > 1:
            fixed |= {"summary": "", "helpfulness_numerator": 1, "helpfulness_denominator": 1}
            fixed |= {"sentiment": "positive", "confidence": 0.5}
        known = [({"id": str(uuid7()), **fixed, **given, **more}, truth) for given, truth in rows]
        self.insert("predictions", [row for row, _ in known])
        told = [(row["id"], truth) for row, truth in known if truth is not None]
        self.insert("feedback", [self.feedback(each, truth) for each, truth in told])
        return [row["id"] for row, _ in known]

    def feedback(self, prediction_id: str, truth: float | None, **more: Any) -> dict[str, Any]:
        return {"id": str(uuid7()), "prediction_id": prediction_id, "source": "shop", "prediction": truth, **more}

    @contextmanager
    def stored(self, source: str = "real", since: datetime | None = None) -> Iterator[Labelled]:
        with QualityReader(self.database.credentials("reader")) as reader:
            contract = reader.contract()
            yield Labelled(contract, reader.labelled(contract, asked(since, None, source)))

    def train(self, out: Path, csv: Path | None = None, **more: Any) -> Card:
        with self.stored(**more) as stored:
            return training.train(csv, out, stored=stored, folds=3, version="2")


@pytest.fixture
def reviews(new_database: Callable[[], Database]) -> World:
    return World(new_database(), REVIEWS)


def error(path: str, asked: list[tuple[dict[str, Any], int]]) -> float:
    scorer = load_scorer(path, many=True)
    scores = scorer.score_many([scorer.codec.input(**given) for given, _ in asked])
    return float(np.mean([(score.prediction - stars) ** 2 for score, (_, stars) in zip(scores, asked, strict=True)]))


def test_a_model_learns_from_feedback_and_its_card_says_of_which(reviews: World, tmp_path: Path) -> None:
    made = slang_reviews()
    learnt, others = list(islice(made, 240)), list(islice(made, 60))
    later = NOW + timedelta(hours=1)
    ids = reviews.store(learnt[:200])
    reviews.store(learnt[200:], stored_at=later)
    reviews.store([({"text": "nobody said anything of this"}, None)])
    reviews.store([({"text": "a drill"}, 5)], source="drill")
    pruned = reviews.store([({"text": "what is known of this was deleted"}, None)])
    reviews.insert("feedback", [reviews.feedback(pruned[0], 1, pruned_at=NOW)])
    # The newest counts, and need not be whole stars.
    newest = {"source": "reader", "created_at": later}
    reviews.insert(
        "feedback", [reviews.feedback(ids[0], learnt[0][1] + (0.4 if learnt[0][1] == 1 else -0.4), **newest)]
    )
    card = reviews.train(tmp_path)
    assert card.data is not None
    assert card.validation is not None
    assert card.data["rows"] == 240
    assert card.data["store"] == {
        "rows": 240,
        "stored_from": NOW.isoformat(),
        "stored_to": later.isoformat(),
        "feedback_sources": {"shop": 239, "reader": 1},
        "group": None,
    }
    assert "grouped by the text" in card.validation["method"]
    assert error("", others) > 4
    assert error(str(tmp_path), others) < 1
    assert reviews.train(tmp_path, since=later, csv=SMALL_REVIEWS).data == {
        **card.data,
        "file": SMALL_REVIEWS.name,
        "sha256": sha256_of(SMALL_REVIEWS.read_bytes()),
        "store": {**card.data["store"], "rows": 40, "stored_from": later.isoformat(), "feedback_sources": {"shop": 40}},
        "rows": 112,
        "products": 52,
        "stars": pytest.approx({str(stars): count for stars, count in enumerate((0, 0, 0, 0, 0), 1)}, abs=72),
    }


def test_too_few_rows_say_how_many_they_are_and_how_many_it_takes(reviews: World, tmp_path: Path) -> None:
    reviews.store(list(islice(slang_reviews(), 12)))
    with pytest.raises(TrainingFailed, match=r"12 stored reviews with feedback .* it takes 30: 10 for each of 3 folds"):
        reviews.train(tmp_path)
    with pytest.raises(TrainingFailed, match=r"^0 stored reviews"):
        reviews.train(tmp_path, source="demo")


def test_a_group_is_never_on_both_sides_and_without_one_neither_is_a_text(
    new_database: Callable[[], Database], reviews: World
) -> None:
    grouped = World(new_database(), GROUPED)
    some = list(islice(slang_reviews(), 60))
    grouped.store([({**given, "product_id": f"p{at % 7}"}, stars) for at, (given, stars) in enumerate(some)])
    grouped.store([({**given, "product_id": None}, stars) for given, stars in some[:5] * 2])
    reviews.store([({**given, "helpfulness_numerator": n}, stars) for n in range(3) for given, stars in some])
    for world, groups in ((grouped, 7 + 5), (reviews, 60)):
        with world.stored() as stored:
            corpus = read_corpus(training._stored(stored, lambda _: None))
        fold_of = training._folds(corpus, 5)
        assert corpus.count_products() == groups
        for numbers in (corpus.products, *([corpus.texts] if world is reviews else [])):
            sides = {(number, fold) for number, fold in zip(numbers.tolist(), fold_of.tolist(), strict=True)}
            assert len(sides) == len({number for number, _ in sides})


class Spy(LinearRegression):  # type: ignore[misc]
    """Notes the streets that it was fitted on, and then asked for."""

    seen: ClassVar[list[tuple[str, set[float]]]] = []

    def fit(self, rows: Any, right: Any) -> Spy:
        self.seen.append(("fit", {*rows[:, 1]}))
        return super().fit(rows, right)  # type: ignore[no-any-return]

    def predict(self, rows: Any) -> Any:
        self.seen.append(("predict", {*rows[:, 1]}))
        return super().predict(rows)


def test_an_estimator_of_a_card_is_fitted_again_by_its_groups(
    new_database: Callable[[], Database], tmp_path: Path
) -> None:
    world = World(new_database(), HOUSES)
    world.store([({"area": float(area), "street": area % 8}, 3.0 * area) for area in range(80)])
    file = tmp_path / "old.joblib"
    joblib.dump(Spy().fit(np.array([[1.0, 2.0], [2.0, 3.0]]), [1.0, 1.0]), file)
    entry = file_of("pipeline", file.read_bytes())
    old = Card(name="old", version="1", files={file.name: entry}, contract=HOUSES)
    (tmp_path / "old.card.json").write_bytes(encode_card(old))
    like = estimator_of(str(tmp_path / "old.card.json"))
    assert like is not None
    Spy.seen.clear()
    with world.stored() as stored:
        card = refit(
            like, tmp_path / "new", stored, folds=4, name="houses", version="2", progress=lambda _what, _share: None
        )
    *pairs, (last, streets) = Spy.seen[:9]
    for (fit, there), (predict, here) in list(pairwise(pairs))[::2]:
        assert (fit, predict) == ("fit", "predict")
        assert here
        assert not there & here
    assert (last, streets) == ("fit", set(range(8)))
    assert card.validation is not None
    assert card.validation["metrics"]["mse"] < 1e-6
    assert card.data is not None
    assert (card.data["rows"], card.data["groups"], card.data["store"]["group"]) == (80, 8, "street")
    scorer = load_scorer(str(tmp_path / "new"))
    assert (scorer.name, scorer.score(scorer.codec.input(area=7.0, street=1)).prediction) == (
        "houses@2",
        pytest.approx(21.0),
    )
    with world.stored() as stored, pytest.raises(InvalidInput, match="are no reviews"):
        training.train(None, tmp_path, stored=stored)


def test_a_group_names_an_input_field_and_changes_nothing_else() -> None:
    contract = parse_contract(GROUPED)
    assert (contract.group, review_contract().group) == ("product_id", "")
    assert contract.inputs == parse_contract(GROUPED | {"input": {**GROUPED["input"], "group": ""}}).inputs
    for part, name in (("input", "Product"), ("output", "prediction")):
        with pytest.raises(
            ContractInvalid, match=f"the contract's group: it names an input field, and '{name}' is none"
        ):
            parse_contract(GROUPED | {part: GROUPED[part] | {"group": name}})
