"""Cards and model files: what is refused, and with which words."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bdlab.contract import review_contract
from bdlab.errors import ContractInvalid, ModelError, ModelNotFound, ModelTampered
from bdlab.model import load_contract, load_scorer
from bdlab.model.scorer import sha256_of
from tests.samples import Review

BEFORE_FOLDER = Path(__file__).parents[1] / "data" / "before"

REVIEW = Review(text="Great, I love it!", summary="Great")


@pytest.fixture
def model(small_model: Path, tmp_path: Path) -> Path:
    """A copy of the small model that a test may spoil."""
    return Path(shutil.copytree(small_model, tmp_path / "model"))


def change_card(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "small.card.json"
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))


def test_a_card_and_its_folder_are_the_same_model(model: Path) -> None:
    by_card, by_folder = load_scorer(str(model / "small.card.json")), load_scorer(str(model))
    assert by_card.name == by_folder.name == "small@0.0.1"
    assert by_card.sha256 == by_folder.sha256 == sha256_of((model / "small.terms.json.gz").read_bytes())
    assert by_card.score(REVIEW) == by_folder.score(REVIEW)
    assert not by_card.blocking


def test_the_shipped_model_is_the_default() -> None:
    assert load_scorer().name == "reviews@1.1.0"


#: tests/data/before was trained on reviews_small.csv by the last version that took texts as they stood, and
#: these are its scores: stars, and the confidence in a positive sentiment.
BEFORE = {
    "I don't like it": (3.98833107466424, 0.6165687425866655),
    "I don&#39;t like it": (3.711267000424052, 0.5268781477189106),
    "I don\xb4t like it": (3.711267000424052, 0.5268781477189106),
    "fine&lt;br&gt;tea &amp; good": (3.9596681885739295, 0.941248744697885),
    "très bon, tre\u0300s": (3.523304587983907, 0.5200972455213668),
    "Excellent lamp! I love it.": (4.913640516264558, 0.9520356357002236),
}


@pytest.mark.parametrize("file", ["before.card.json", "before.joblib"])
def test_a_model_made_before_texts_were_normalised_scores_as_it_did(file: str) -> None:
    scores = load_scorer(str(BEFORE_FOLDER / file)).score_many([Review(text=text) for text in BEFORE])
    assert {score.sentiment for score in scores} == {"positive"}
    for score, expected in zip(scores, BEFORE.values(), strict=True):
        assert (score.prediction, score.confidence) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["small.terms.json.gz", "small.joblib"])
@pytest.mark.parametrize("place", [0, 100, -1])
def test_one_changed_byte_is_refused_with_the_files_name(model: Path, name: str, place: int) -> None:
    content = bytearray((model / name).read_bytes())
    content[place] ^= 1
    (model / name).write_bytes(content)
    with pytest.raises(ModelTampered, match=name) as refused:
        load_scorer(str(model))
    assert "small.card.json" in refused.value.message


def test_the_run_time_needs_no_joblib_file(model: Path) -> None:
    (model / "small.joblib").unlink()
    assert load_scorer(str(model)).score(REVIEW).sentiment == "positive"


def test_a_missing_data_file_is_named(model: Path) -> None:
    (model / "small.terms.json.gz").unlink()
    with pytest.raises(ModelNotFound, match=r"small\.terms\.json\.gz cannot be read: No such file"):
        load_scorer(str(model))


@pytest.mark.parametrize(
    "path", ["nowhere.card.json", "nowhere.joblib", "nowhere", "nowhere.joblib#sha256=" + "0" * 64]
)
def test_a_path_to_nothing_is_not_found(tmp_path: Path, path: str) -> None:
    with pytest.raises(ModelNotFound, match=r"nowhere.* cannot be read") as missing:
        load_scorer(str(tmp_path / path))
    assert "BDLAB_MODEL_PATH" in missing.value.hint


def test_a_folder_without_a_card_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="holds no model cards"):
        load_scorer(str(tmp_path))


def test_a_folder_with_two_cards_is_not_guessed_at(model: Path) -> None:
    shutil.copy(model / "small.card.json", model / "other.card.json")
    with pytest.raises(ModelNotFound, match="holds 2 model cards"):
        load_scorer(str(model))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field `name`"),
        (b'{"name": "a", "version": "1", "files": {}}', "length >= 1"),
        (b'{"name": "a\\n", "version": "1", "files": {"x": {"role": "terms", "sha256": "", "bytes": 1}}}', "regex"),
        (b"\xff\xfe", "malformed"),
        (b'{"name": "a", "training": {"a": ' + b"[" * 100_000, "recursion"),
    ],
)
def test_a_file_that_is_no_card_says_why(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "a.card.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"a\.card\.json is not a model card") as refused:
        load_scorer(str(tmp_path / "a.card.json"))
    assert why in refused.value.message


def test_a_card_may_begin_with_a_byte_order_mark(model: Path) -> None:
    path = model / "small.card.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_scorer(str(path)).name == "small@0.0.1"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"version"', '"version": "9", "version"', "'version' stands twice"),
        ('"text": {', '"text": {"type": "string"}, "text": {', "'text' stands twice"),
        ('"contract"', '"contracts"', "'contracts'; is 'contract' meant"),
        ('"contract"', '"Contract"', "'Contract'; is 'contract' meant"),
        ('"role"', '"trusts": ["a"], "role"', "unknown field `trusts`"),
        ('"training"', f'"deep": {"[" * 5000}{"]" * 5000}, "training"', "recursion"),
    ],
)
def test_what_a_card_says_unclearly_is_refused(model: Path, old: str, new: str, why: str) -> None:
    path = model / "small.card.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ModelError, match=r"small\.card\.json is not a model card") as refused:
        load_scorer(str(path))
    assert why in refused.value.message


@pytest.mark.parametrize("name", ["../small.terms.json.gz", "/etc/passwd", "..", "a\\b", "a\0b", "a" * 256, "\n"])
def test_a_card_names_only_files_beside_it(model: Path, name: str) -> None:
    change_card(model, lambda card: card["files"].update({name: card["files"]["small.terms.json.gz"]}))
    with pytest.raises(ModelError, match="not beside it"):
        load_scorer(str(model))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"no gzip", "Not a gzipped file"),
        (gzip.compress(b'{"a": 1}')[:-4], "end-of-stream"),
        (gzip.compress(b"{"), "truncated"),
        (gzip.compress(b'{"format": "bdlab-terms/0"}'), "Invalid enum value"),
    ],
    # A gzip header holds the time, and tests are told apart by their names.
    ids=["no gzip", "cut short", "no JSON", "another format"],
)
def test_a_data_file_of_another_kind_says_why(model: Path, content: bytes, why: str) -> None:
    (model / "small.terms.json.gz").write_bytes(content)
    change_card(model, lambda card: card["files"]["small.terms.json.gz"].update(sha256=sha256_of(content)))
    with pytest.raises(
        ModelError, match=r"small\.terms\.json\.gz is not a term table that this version reads"
    ) as refused:
        load_scorer(str(model))
    assert why in refused.value.message


def test_lists_of_different_lengths_are_refused(model: Path) -> None:
    table = json.loads(gzip.decompress((model / "small.terms.json.gz").read_bytes()))
    table["review"]["rating"].pop()
    content = gzip.compress(json.dumps(table).encode())
    (model / "small.terms.json.gz").write_bytes(content)
    change_card(model, lambda card: card["files"]["small.terms.json.gz"].update(sha256=sha256_of(content)))
    with pytest.raises(ModelError, match="lists differ in length"):
        load_scorer(str(model))


# The contract of a card says what the model takes and gives.


def contract_with(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> dict[str, Any]:
    """The review contract with its input's and its output's properties changed."""
    document = json.loads(json.dumps(review_contract().document))
    change(document["input"]["properties"], document["output"]["properties"])
    document.pop("columns")
    return dict(document)


def test_a_card_says_the_contract_and_one_without_is_of_reviews(model: Path) -> None:
    assert load_contract() == load_contract(str(model)) == review_contract()
    change_card(model, lambda card: card.pop("contract"))
    assert load_contract(str(model)) == load_scorer(str(model)).codec.contract == review_contract()


def test_a_scorer_has_the_types_of_its_cards_contract(model: Path) -> None:
    contract = contract_with(lambda given, _: given.update(lang={"enum": ["de", "en"], "default": "en"}))
    change_card(model, lambda card: card.update(contract=contract))
    for many in (False, True):
        scorer = load_scorer(str(model), many=many)
        review = scorer.codec.input(text="Great, I love it!", summary="Great", lang="de")
        assert scorer.score_many([review]) == [scorer.score(review)]
        assert isinstance(scorer.score(review), scorer.codec.score)
    assert load_scorer(str(model / "small.joblib")).codec.contract == load_contract(str(model))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda given, _: given.pop("summary"), "no field 'summary'"),
        (lambda given, _: given["summary"].update(type=["string", "null"]), "'summary' is another"),
        (lambda _, gives: gives.pop("sentiment"), "no field 'sentiment'"),
        (lambda _, gives: gives["sentiment"]["enum"].append("neutral"), "'sentiment' is another"),
        (lambda _, gives: gives["prediction"].update(maximum=10), "'prediction' is another"),
        (lambda _, gives: gives.update(price={"type": "number"}), "field 'price' is none"),
    ],
)
def test_a_term_table_gives_no_other_contract(
    model: Path, change: Callable[[dict[str, Any], dict[str, Any]], object], why: str
) -> None:
    change_card(model, lambda card: card.update(contract=contract_with(change)))
    with pytest.raises(ModelError, match=why) as refused:
        load_scorer(str(model))
    assert "small.terms.json.gz" in refused.value.message


def test_a_contract_that_cannot_be_used_is_refused_with_the_card_and_the_field(model: Path) -> None:
    contract = contract_with(lambda given, _: given.update(Model={"type": "string"}))
    change_card(model, lambda card: card.update(contract=contract))
    for load in (load_contract, load_scorer):
        with pytest.raises(ContractInvalid, match=r"small\.card\.json: .* field 'Model'"):
            load(str(model))
