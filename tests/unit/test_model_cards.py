"""`bdlab model init` and `check`: cards with guessed contracts, and what is wrong with a card."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given
from hypothesis import strategies as st
from skl2onnx import to_onnx
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from bdlab import load_model
from bdlab.contract import example_of, parse_contract
from bdlab.errors import InvalidInput, ModelError, ModelNotFound
from bdlab.inputs import Validator
from bdlab.model import load_contract, load_scorer
from bdlab.model.draft import Draft, draft_card, guess, inspect
from bdlab_cli.app import app
from tests.json_results import as_documented
from tests.unit.test_train_command import bdlab as run

CITIES = ["Bonn", "Köln", "Ulm"]


def sample_frame(rows: int = 60) -> pd.DataFrame:
    places = range(rows)
    return pd.DataFrame(
        {
            "price": [100.5 + 10 * place for place in places],
            "city": [CITIES[place % 3] if place % 7 else None for place in places],
            "living area (m2)": [40.5 + place if place % 5 else None for place in places],
            "rooms": [1 + place % 6 for place in places],
            "isNew": [place % 2 == 0 for place in places],
            "note": [f"note {place}" if place % 11 else None for place in places],
        }
    )


def houses(head: Any, *, notes: bool = False) -> Any:
    return make_pipeline(
        make_column_transformer(
            (make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()), ["city"]),
            (SimpleImputer(), ["living area (m2)", "rooms", "isNew"]),
            *([(TfidfVectorizer(), "note")] if notes else []),
        ),
        head,
    )


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    sample_frame().to_csv(path, index=False)
    return path


def dumped(model: Any, folder: Path, name: str = "houses.joblib") -> Path:
    path = folder / name
    if path.suffix == ".skops":
        path.write_bytes(skops.io.dumps(model))
    else:
        joblib.dump(model, path)
    return path


def regression(folder: Path) -> Path:
    rows = sample_frame()
    return dumped(houses(Ridge()).fit(rows.drop(columns=["price", "note"]), rows["price"]), folder)


def properties(draft: Draft, part: str = "input") -> dict[str, Any]:
    assert draft.card.contract is not None
    return dict(draft.card.contract[part]["properties"])


def test_a_card_of_a_regression_has_what_model_and_sample_say(sample: Path, tmp_path: Path) -> None:
    draft = draft_card(regression(tmp_path), sample, target="price", version="2.1")
    assert draft.path == str(tmp_path / "houses.card.json")
    assert properties(draft) == {
        "city": {"enum": ["Bonn", "Köln", "Ulm", None], "examples": ["Köln"]},
        "living area (m2)": {
            "type": ["number", "null"],
            "examples": [41.5, 42.5, 43.5, 44.5, 46.5, 47.5, 48.5, 49.5, 51.5, 52.5],
        },
        "rooms": {"type": "integer", "examples": [1, 2, 3, 4, 5, 6]},
        "isNew": {"type": "boolean", "examples": [True, False]},
    }
    assert properties(draft, "output") == {"prediction": {"type": "number"}}
    whys = {found.field: found.why for found in draft.guesses}
    assert "3 different texts; 9 are missing" in whys["city"]
    assert "60 values: whole numbers" in whys["rooms"]
    assert draft.predicted["rows"] == 60
    assert draft.predicted["lowest"] < draft.predicted["highest"]
    scorer = load_scorer(str(tmp_path))
    assert scorer.name == "houses@2.1"
    assert load_contract(str(tmp_path)) == scorer.codec.contract
    assert draft.card.libraries["scikit-learn"]
    report = inspect(draft.path, sample)
    assert (report.model, report.rows, report.findings) == ("houses@2.1", 60, ())


def test_bounds_only_where_they_are_asked_for(sample: Path, tmp_path: Path) -> None:
    draft = draft_card(regression(tmp_path), sample, bounds=True)
    rooms = {"type": "integer", "minimum": 1, "maximum": 6, "examples": [1, 2, 3, 4, 5, 6]}
    assert properties(draft)["rooms"] == rooms
    assert properties(draft)["living area (m2)"]["maximum"] == 99.5
    assert "minimum" not in properties(draft)["isNew"]


@pytest.mark.parametrize("name", ["houses.joblib", "houses.skops"])
def test_a_card_of_a_classification_has_its_classes(sample: Path, tmp_path: Path, name: str) -> None:
    rows = sample_frame()
    target = np.where(rows["price"] > 400, "dear", "cheap")
    model = houses(GaussianNB()).fit(rows.drop(columns=["price", "note"]), target)
    draft = draft_card(dumped(model, tmp_path, name), sample, trust=True)
    assert properties(draft, "output")["prediction"] == {"enum": ["cheap", "dear"]}
    assert set(properties(draft, "output")) == {"prediction", "confidence"}
    assert sum(draft.predicted["classes"].values()) == 60
    assert inspect(draft.path, sample).findings == ()


def test_the_truth_is_no_input(sample: Path, tmp_path: Path) -> None:
    rows = sample_frame()
    model = GaussianNB().fit(rows[["price", "rooms"]].to_numpy(), rows["isNew"].map({True: "a", False: "b"}))
    rows = rows[["price", "rooms"]].assign(grade=rows["isNew"].map({True: "a", False: "b"}))
    rows.to_csv(sample, index=False)
    file = dumped(model, tmp_path)
    with pytest.raises(InvalidInput, match="takes 2 fields, and the sample has 3 columns") as refused:
        draft_card(file, sample)
    assert "--target" in refused.value.hint
    with pytest.raises(InvalidInput, match="has no column 'Grade'"):
        draft_card(file, sample, target="Grade")
    draft = draft_card(file, sample, target="grade")
    assert list(properties(draft)) == ["price", "rooms"]


def test_a_missing_text_is_null_only_if_the_model_takes_null(sample: Path, tmp_path: Path) -> None:
    rows = sample_frame()
    model = houses(Ridge(), notes=True).fit(rows.fillna({"note": ""}), rows["price"])
    draft = draft_card(dumped(model, tmp_path), sample)
    notes = [f"note {place}" for place in range(1, 11)]
    assert properties(draft)["note"] == {"type": "string", "default": "", "examples": notes}
    assert None in properties(draft)["city"]["enum"]
    assert "takes no null" in next(found.why for found in draft.guesses if found.field == "note")


def test_a_model_of_one_text(sample: Path, tmp_path: Path) -> None:
    rows = sample_frame()[["note", "isNew"]].fillna({"note": "none"})
    rows.to_csv(sample, index=False)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(rows["note"], rows["isNew"])
    with pytest.raises(ModelError) as failed:
        draft_card(dumped(model, tmp_path), sample)
    assert failed.value.hint.startswith("Its inputs were 'note', 'isNew'; if one is none, name it with --target")
    draft = draft_card(dumped(model, tmp_path), sample, target="isNew")
    assert properties(draft)["note"]["type"] == "string"
    assert properties(draft, "output")["prediction"] == {"enum": ["False", "True"]}
    assert inspect(draft.path, sample).findings == ()


@pytest.mark.parametrize("kind", ["regression", "zipmap", "plain"])
def test_a_card_of_an_onnx_model(sample: Path, tmp_path: Path, kind: str) -> None:
    rows = sample_frame()[["price", "rooms"]]
    rows.to_csv(sample, index=False)
    own = rows.to_numpy(np.float32)
    if kind == "regression":
        model, options = Ridge().fit(own, rows["rooms"]), None
    else:
        model = make_pipeline(StandardScaler(), LogisticRegression())
        model.fit(own, np.where(own[:, 0] > 300, "dear", "cheap"))
        options = {"zipmap": kind == "zipmap"}
    (tmp_path / "houses.onnx").write_bytes(to_onnx(model, own[:1], options=options).SerializeToString())
    draft = draft_card(tmp_path / "houses.onnx", sample)
    classes = {"enum": ["cheap", "dear"]}
    assert properties(draft, "output")["prediction"] == ({"type": "number"} if options is None else classes)
    assert inspect(draft.path, sample).findings == ()


def test_types_in_a_skops_file_are_shown_first_and_trusted_only_if_one_says_so(sample: Path, tmp_path: Path) -> None:
    rows = sample_frame().drop(columns=["price", "note"])
    model = make_pipeline(FunctionTransformer(passed), houses(Ridge())).fit(rows, sample_frame()["price"])
    file = dumped(model, tmp_path, "houses.skops")
    with pytest.raises(ModelError, match=f"does not trust: .*{passed.__name__}") as refused:
        draft_card(file, sample, target="price")
    assert "--trust" in refused.value.hint
    assert not (tmp_path / "houses.card.json").exists()
    draft = draft_card(file, sample, target="price", trust=True)
    assert f"{passed.__module__}.passed" in draft.card.files["houses.skops"].trusted
    assert inspect(draft.path, sample).findings == ()


def passed(rows: Any) -> Any:
    return rows


def test_a_card_is_replaced_only_by_force_and_may_go_to_another_folder(sample: Path, tmp_path: Path) -> None:
    file = regression(tmp_path)
    draft_card(file, sample)
    with pytest.raises(InvalidInput, match="there is a card already") as refused:
        draft_card(file, sample)
    assert "--force" in refused.value.hint
    draft_card(file, sample, version="2", force=True)
    assert load_scorer(str(tmp_path)).name == "houses@2"
    draft = draft_card(file, sample, name="mine", output=tmp_path / "out")
    assert Path(draft.path).parent == tmp_path / "out"
    assert load_scorer(draft.path).name == "mine@1.0.0"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows: rows.drop(columns="rooms"), "lacks what the model takes: rooms"),
        (lambda rows: rows.head(0), "has no rows"),
        (lambda rows: rows.assign(rooms=None), "the column 'rooms' of the sample is empty"),
    ],
)
def test_a_sample_that_does_not_tell_enough_is_refused(
    sample: Path, tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], why: str
) -> None:
    change(sample_frame()).to_csv(sample, index=False)
    with pytest.raises(InvalidInput, match=why):
        draft_card(regression(tmp_path), sample)
    assert not (tmp_path / "houses.card.json").exists()


def test_a_file_of_another_kind_and_a_missing_sample_are_refused(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"ends with none of \.joblib"):
        draft_card(sample, sample)
    with pytest.raises(InvalidInput, match="cannot be read"):
        draft_card(regression(tmp_path), tmp_path / "none.csv")
    with pytest.raises(
        InvalidInput, match="the name 'My houses' or the version '1' of a model is not valid"
    ) as refused:
        draft_card(regression(tmp_path), sample, name="My houses", version="1")
    assert refused.value.hint.startswith("Each has letters, digits, '_', '.' and '-'")


@pytest.mark.parametrize(
    ("cells", "schema"),
    [
        (["1", "-2", "3"], {"type": "integer"}),
        (["1", "+3"], {"type": "number"}),
        (["1", "2.5", "1e3", ".5"], {"type": "number"}),
        (["007", "008"], {"type": "string"}),
        (["9" * 20, "1"], {"type": "number"}),
        (["true", "False"], {"type": "boolean"}),
        (["2026-01-01T00:00:00Z", "2026-01-01 01:00:00+02:00"], {"type": "string", "format": "date-time"}),
        (["2026-01-01T00:00:00"], {"type": "string"}),
        (["a", "b"] * 10, {"enum": ["a", "b"]}),
        (["a", "b"] * 9, {"type": "string"}),
        (["1", ""], {"type": ["integer", "null"]}),
        (["a", ""] * 10, {"enum": ["a", None]}),
    ],
)
def test_what_cells_are_taken_for(cells: Sequence[str], schema: dict[str, Any]) -> None:
    found = guess("x", cells).schema
    assert found.pop("examples")
    assert found == schema


@given(st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=5), min_size=1).filter(any))
def test_every_guess_is_a_contract_with_an_example_of_its_own(cells: list[str]) -> None:
    fields = {"x": guess("x", cells, bounds=True).schema}
    output = {"type": "object", "properties": {"prediction": {"type": "number"}}}
    given = {"type": "object", "properties": fields, "required": [] if "" in cells else ["x"]}
    contract = parse_contract({"input": given, "output": output})
    assert Validator(contract).find_problems(example_of(contract)) == []


# What `check` finds.


def changed(path: str, change: Callable[[dict[str, Any]], object]) -> str:
    card = json.loads(Path(path).read_text())
    change(card)
    Path(path).write_text(json.dumps(card))
    return path


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda given, _: given.update(Offset={"type": ["string", "null"]}), "'Offset'"),
        (lambda given, _: given.update(is_new={"type": ["string", "null"]}), "same column"),
        (lambda _, gives: gives.update(upper={"type": "number"}), "does not give .*'upper'"),
        (lambda given, _: given.pop("city"), "takes the column 'city'"),
        (lambda _, gives: gives["prediction"].update(maximum=1), "no number from .* to 1"),
    ],
)
def test_check_finds_what_is_wrong_with_a_contract(
    sample: Path, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object], what: str
) -> None:
    draft = draft_card(regression(tmp_path), sample)

    def change_both(card: dict[str, Any]) -> None:
        change(*(card["contract"][part]["properties"] for part in ("input", "output")))

    [found] = inspect(changed(draft.path, change_both)).findings
    assert re.search(what, found.what)
    assert found.hint


def test_check_finds_rows_and_predictions_that_are_wrong(sample: Path, tmp_path: Path) -> None:
    model = Roots().fit(sample_frame()[["rooms"]])
    sample_frame()[["rooms"]].to_csv(sample, index=False)
    draft = draft_card(dumped(model, tmp_path), sample)
    sample.write_text("rooms\n1\n-1\nmany\n2\n")
    report = inspect(draft.path, sample)
    assert [found.what.partition(":")[0] for found in report.findings] == ["line 4", "line 3"]
    assert "predicted nan" in report.findings[1].what
    assert report.rows == 3


class Roots(RegressorMixin, BaseEstimator):  # type: ignore[misc] # they have no types
    def fit(self, rows: Any, target: Any = None) -> Roots:
        self.n_features_in_ = rows.shape[1]
        return self

    def predict(self, rows: Any) -> Any:
        with np.errstate(invalid="ignore"):
            return np.sqrt(rows[:, 0])


def test_check_finds_a_missing_file_and_a_changed_one(sample: Path, tmp_path: Path) -> None:
    draft = draft_card(regression(tmp_path), sample)
    (tmp_path / "houses.joblib").write_bytes(b"other")
    [found] = inspect(draft.path).findings
    assert "sha256" in found.what
    (tmp_path / "houses.joblib").unlink()
    [found] = inspect(draft.path).findings
    assert found.what.endswith(": houses.joblib is not there")
    with pytest.raises(ModelNotFound):
        inspect(str(tmp_path / "none.card.json"))


def test_a_text_that_looks_like_a_number_is_a_text_to_a_model_of_texts(sample: Path, tmp_path: Path) -> None:
    rows = pd.DataFrame({"code": [100 + place for place in range(60)]})
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    file = dumped(model.fit(rows["code"].astype(str), [place % 2 for place in range(60)]), tmp_path)
    rows.assign(more=1).to_csv(sample, index=False)
    with pytest.raises(ModelError) as refused:
        draft_card(file, sample)
    assert "'code', 'more'; if one is none, name it with --target" in refused.value.hint
    rows.to_csv(sample, index=False)
    draft = draft_card(file, sample)
    assert properties(draft)["code"]["type"] == "string"
    expected = model.predict(rows["code"].astype(str)).tolist()
    found = load_model(draft.path).predict(rows.astype(str).to_dict("records"))
    assert [int(score["prediction"]) for score in found] == expected


def test_a_sample_without_rows_is_no_sample(sample: Path, tmp_path: Path) -> None:
    file = regression(tmp_path)
    card = Path(draft_card(file, sample, target="price").path)
    sample.write_text(sample.read_text().splitlines()[0])
    for contract in (None, card):
        with pytest.raises(InvalidInput, match="has no rows"):
            draft_card(file, sample, contract=contract, force=True)
    with pytest.raises(InvalidInput, match="has no rows"):
        inspect(str(card), sample)


def test_a_card_that_cannot_be_written_is_said(sample: Path, tmp_path: Path) -> None:
    file = regression(tmp_path)
    for output, why in ((sample, "file exists"), (Path("/proc/none"), "no such file")):
        with pytest.raises(InvalidInput, match=f"the folder {output} cannot be written to: {why}") as refused:
            draft_card(file, sample, output=output)
        assert "that you may write" in refused.value.hint


def test_titles_and_numbers_of_a_sample_may_have_spaces_around_them(tmp_path: Path) -> None:
    file = dumped(Ridge().fit(pd.DataFrame({"area": [1.0, 2], "rooms": [1, 2]}), [1.0, 2]), tmp_path)
    rows = tmp_path / "rows.csv"
    rows.write_text("area, rooms\n1.5, +1\n2, 2\n")
    kinds = [field["type"] for field in properties(draft_card(file, rows)).values()]
    assert kinds == ["number", "number"]
    rows.write_text("area;rooms\n1;2\n")
    with pytest.raises(InvalidInput, match="lacks what the model takes: area, rooms") as refused:
        draft_card(file, rows, force=True)
    assert "--delimiter" in refused.value.hint


@pytest.mark.parametrize("missing", ["NaN", "NA", "null"])
def test_a_word_for_a_missing_number_makes_no_texts_of_a_column(missing: str) -> None:
    with pytest.raises(InvalidInput, match=f"has {missing.lower()!r} among its numbers") as refused:
        guess("area", ["1.5", missing, "2"])
    assert "empty" in refused.value.hint
    assert guess("area", ["1.5", missing, "2"], text=True).schema["type"] == "string"
    assert guess("area", [missing, "other"]).schema["type"] == "string"


def test_the_order_of_probabilities_without_names_is_in_the_card(sample: Path, tmp_path: Path) -> None:
    rows = sample_frame()[["price", "rooms"]]
    rows.to_csv(sample, index=False)
    own = rows.to_numpy(np.float32)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(own, (own[:, 0] > 300).astype(int))
    content = to_onnx(model, own[:1], options={"zipmap": False}).SerializeToString()
    (tmp_path / "houses.onnx").write_bytes(content)
    draft = draft_card(tmp_path / "houses.onnx", sample)
    assert properties(draft, "output")["prediction"] == {"enum": ["0", "1"]}
    enum = ["1", "0"]
    path = changed(draft.path, lambda card: card["contract"]["output"]["properties"]["prediction"].update(enum=enum))
    assert draft.card.files["houses.onnx"].classes == ("0", "1")
    given = rows.to_dict("records")
    expected = [str(label) for label in model.predict(own)]
    assert inspect(path, sample).findings == ()
    found = load_model(path).predict(given)
    assert [score["prediction"] for score in found] == expected
    assert min(score["confidence"] for score in found) >= 0.5
    # Without it the enum is taken for the order, and the example shows that it is not.
    changed(path, lambda card: card["files"]["houses.onnx"].pop("classes"))
    [finding] = inspect(path, sample).findings
    assert "by the order of the enum is not the surest" in finding.what
    assert '"classes" of the file' in finding.hint
    changed(path, lambda card: card["contract"]["output"]["properties"]["prediction"].update(enum=["0", "1"]))
    assert [score["prediction"] for score in load_model(path).predict(given)] == expected
    # A model that was trained again may have them in another order; the sample shows it.
    again = draft_card(tmp_path / "houses.onnx", sample, contract=Path(path), output=tmp_path / "again", version="2")
    assert again.card.files["houses.onnx"].classes == ("0", "1")


# The commands.


def test_the_commands_write_and_check_a_card(sample: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The first as a person starts it; the others here, where the libraries are imported already."""

    def bdlab(*arguments: str, code: int = 0) -> str:
        assert (app(["model", *arguments], standalone_mode=False) or 0) == code
        return capfd.readouterr().out

    file = regression(tmp_path)
    init = ("init", str(file), "--sample", str(sample))
    done = run("model", *init, "--target", "price", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "whole numbers" in done.stdout
    card = str(tmp_path / "houses.card.json")
    assert card in done.stdout
    drafted = as_documented("model init", bdlab(*init, "--force", "--json"))
    assert drafted["path"] == card
    assert {found["field"] for found in drafted["guesses"]} == {"city", "living area (m2)", "rooms", "isNew"}
    checked = as_documented("model check", bdlab("check", card, "--sample", str(sample), "--json"))
    assert checked["findings"] == []
    assert checked["columns"]["living_area_m2"] == "double precision"
    assert checked["columns"]["rooms"] == "bigint NOT NULL"
    body = shlex.split(checked["request"])[-1]
    assert load_model(card).validate(json.loads(body)) == []
    assert "can be served, and predicts 60 rows" in bdlab("check", card, "--sample", str(sample))
    changed(card, lambda found: found["contract"]["input"]["properties"].pop("city"))
    assert "wrong: houses.joblib takes the column 'city'" in bdlab("check", card, code=10)


def test_up_starts_no_server_for_a_model_that_is_not_there(tmp_path: Path) -> None:
    done = run("up", "--data-dir", str(tmp_path / "stack"), "--model", "none.card.json", cwd=tmp_path)
    assert done.returncode == 1
    assert f"the model file {tmp_path / 'none.card.json'} cannot be read" in done.stderr
    assert not (tmp_path / "stack").exists()


# The Python API.


def test_a_loaded_model_predicts_rows_and_says_what_is_wrong_with_one(sample: Path, tmp_path: Path) -> None:
    draft = draft_card(regression(tmp_path), sample)
    model = load_model(draft.path)
    row = {"city": "Ulm", "rooms": 3, "isNew": True}
    assert (model.name, model.contract.number) == ("houses@1.0.0", 1)
    one = model.predict(row)
    assert one == model.predict([row, row])[1]
    assert one["explanation"] == []
    assert [problem.field for problem in model.validate({"city": "Rom", "rooms": 1.5})] == ["city", "rooms", "isNew"]
    with pytest.raises(InvalidInput, match=r"^field 'city' has to be one of"):
        model.predict(row | {"city": "Rom"})
    with pytest.raises(InvalidInput, match=r"^input 1: field 'city' has to be one of"):
        model.predict([row, row | {"city": "Rom"}])
    shipped = load_model().predict({"text": "This product is terrible!"})
    assert shipped["sentiment"] == "negative"
    assert shipped["explanation"][0]["term"] == "terrible"


def test_a_loaded_model_takes_the_values_and_paths_that_programs_have(sample: Path, tmp_path: Path) -> None:
    model = load_model(Path(draft_card(regression(tmp_path), sample).path))
    row = {"city": "Ulm", "living area (m2)": 80.5, "rooms": 3, "isNew": True}
    area, rooms, new = np.float64(80.5), np.int64(3), np.bool_(1)
    same = row | {"living area (m2)": area, "rooms": rooms, "isNew": new, "more": object()}
    assert model.predict([same, MappingProxyType(row)]) == model.predict([row, row])
    wrong = {"city": object(), "living area (m2)": float("nan"), "rooms": np.array([1, 2]), "isNew": pd.NA}
    assert [problem.field for problem in model.validate(wrong)] == [*row]
    without_names: Any = {1: 2}
    assert [problem.field for problem in model.validate(without_names)] == ["rooms", "isNew"]
    for unusable in (None, "abc", 7):
        [problem] = model.validate(unusable)  # type: ignore[arg-type] # as an untyped program may
        assert "has to be a JSON object" in problem.why


def test_importing_bdlab_loads_none_of_it() -> None:
    program = "import sys; before = set(sys.modules); import bdlab; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "['bdlab']"
