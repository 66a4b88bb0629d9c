"""Models of any contract in each format: their predictions are those of the library itself."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import joblib
import lightgbm
import msgspec
import numpy as np
import onnx
import pandas as pd
import pytest
import skops.io
import xgboost
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.base import BaseEstimator
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from bdlab.errors import InvalidInput, ModelError
from bdlab.events import Position, Record, encode
from bdlab.model import load_scorer
from bdlab.model.scorer import sha256_of
from bdlab_cli.wiring.bulk_predict import MANY_BYTES
from tests.unit.test_model_pipeline import Explosive
from tests.unit.test_train_command import bdlab

ROWS = """city,living area (m2),rooms,isNew,seen,note
Bonn,51.5,2,true,2026-01-01T10:00:00Z,small and quiet
Köln,,3,false,2026-02-01T10:00:00Z,loud street
,80,4,true,2026-01-03T10:00:00Z,large garden
Ulm,120.25,5,,2026-05-01T10:00:00Z,large and new
Bonn,45,1,false,2026-01-01T10:00:00Z,small
Ulm,95,4,true,2026-01-09T10:00:00Z,quiet street
Köln,70,,false,2026-03-01T10:00:00Z,loud and small
Bonn,150,6,true,2026-01-01T10:00:00Z,large
"""
PRICES = [100.5, 140, 210, 333, 90, 250, 160, 410]
CLASSES = ["low", "mid", "mid", "high", "low", "high", "mid", "high"]

HOUSES: dict[str, Any] = {
    "city": {"enum": ["Bonn", "Köln", "Ulm", None]},
    "living area (m2)": {"type": ["number", "null"], "minimum": 0},
    "rooms": {"type": ["integer", "null"]},
    "isNew": {"type": ["boolean", "null"]},
    "seen": {"type": "string", "format": "date-time", "default": "2026-01-01T00:00:00Z"},
    "note": {"type": "string", "examples": ["small"]},
}
PRICE = {"prediction": {"type": "number"}}
CLASS: dict[str, Any] = {
    "prediction": {"enum": ["high", "low", "mid"]},
    "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
}


def frame() -> pd.DataFrame:
    return pd.read_csv(io.StringIO(ROWS), parse_dates=["seen"])


def month(moments: Any) -> Any:
    return np.array([[moment.month] for moment in moments.iloc[:, 0]])


def houses(head: Any) -> Any:
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["city", "isNew"]),
        (make_pipeline(SimpleImputer(), StandardScaler()), ["living area (m2)", "rooms"]),
        (TfidfVectorizer(), "note"),
        (FunctionTransformer(month), ["seen"]),
    )
    return make_pipeline(columns, head)


def contract(inputs: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    required = [
        name
        for name, field in inputs.items()
        if "default" not in field and "null" not in field.get("type", ()) and None not in field.get("enum", ())
    ]
    return {
        "input": {"type": "object", "title": "House", "properties": inputs, "required": required},
        "output": {"type": "object", "properties": outputs},
    }


def carded(
    folder: Path, content: bytes, role: str, inputs: dict[str, Any], outputs: dict[str, Any], **more: Any
) -> Path:
    """Write a model and its card; `more` is of the card's file."""
    name = f"house.{role}"
    (folder / name).write_bytes(content)
    file = {"role": role, "sha256": sha256_of(content), "bytes": len(content), **more}
    card = {"name": "house", "version": "1", "files": {name: file}, "contract": contract(inputs, outputs)}
    path = folder / "house.card.json"
    path.write_text(json.dumps(card))
    return path


def pickled(model: Any) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    return buffer.getvalue()


def written(model: Any, role: str) -> tuple[bytes, dict[str, Any]]:
    """The content of a file of this role, and what the card has to say of it."""
    if role == "pipeline":
        return pickled(model), {}
    content = skops.io.dumps(model)
    return content, {"trusted": skops.io.get_untrusted_types(data=content)}


class Without(NamedTuple):
    """Finds modules as if one was not installed."""

    name: str

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def as_json(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as requests have them."""
    found: list[dict[str, Any]] = json.loads(rows.to_json(orient="records", date_format="iso"))
    for row in found:
        if row.get("rooms") is not None:
            row["rooms"] = int(row["rooms"])
    return found


def check(card: Path, rows: list[dict[str, Any]], model: Any, own: Any) -> None:
    """Compare with what the library itself says to `own`, which are the same rows."""
    scorer = load_scorer(str(card))
    inputs = [msgspec.convert(row, scorer.codec.input) for row in rows]
    scores = scorer.score_many(inputs)
    expected = np.asarray(model.predict(own)).reshape(-1).tolist()
    chosen = scorer.codec.contract.outputs[0].choices
    assert [score.prediction for score in scores] == ([str(one) for one in expected] if chosen else expected)
    if chosen:
        chances = np.asarray(model.predict_proba(own), dtype=float).clip(0, 1).tolist()
        names = [str(name) for name in model.classes_]
        assert [score.probabilities for score in scores] == [dict(zip(names, row, strict=True)) for row in chances]
        assert all(score.confidence == score.probabilities[score.prediction] for score in scores)
    for one, score in zip(inputs, scores, strict=True):
        alone = scorer.score(one)
        same = score.prediction if chosen else pytest.approx(score.prediction)
        assert (alone.prediction, alone.explanation) == (same, ())
        # The event of it can be read, with its bounds.
        key, value = encode(scorer.codec.make(UUID(int=1), one, score, model=scorer.name))
        record = Record(Position("c", "t", 0, 0), key, value)
        assert scorer.codec.decode(record)[0].prediction == score.prediction
    assert scorer.score_many([]) == []
    assert scorer.blocking


# Each format with scikit-learn's pipelines.


@pytest.mark.parametrize("role", ["pipeline", "skops"])
@pytest.mark.parametrize(
    ("head", "target", "outputs"),
    [(Ridge(), PRICES, PRICE), (LogisticRegression(), CLASSES, CLASS)],
    ids=["regression", "classification"],
)
def test_a_pipeline_of_named_columns_gets_a_data_frame(
    tmp_path: Path, role: str, head: Any, target: list[Any], outputs: dict[str, Any]
) -> None:
    model = houses(head).fit(frame(), target)
    content, more = written(model, role)
    card = carded(tmp_path, content, role, HOUSES, outputs, **more)
    check(card, as_json(frame()), model, frame())


@pytest.mark.parametrize("role", ["pipeline", "skops"])
@pytest.mark.parametrize(
    "head",
    [
        lightgbm.LGBMRegressor(n_estimators=5, min_child_samples=1, verbose=-1),
        lightgbm.LGBMClassifier(n_estimators=5, min_child_samples=1, verbose=-1),
        xgboost.XGBRegressor(n_estimators=5, enable_categorical=True),
        xgboost.XGBClassifier(n_estimators=5, enable_categorical=True),
    ],
    ids=lambda head: type(head).__name__,
)
@pytest.mark.parametrize("piped", [False, True])
def test_gradient_boosting_in_a_file_and_in_a_pipeline(tmp_path: Path, role: str, head: Any, *, piped: bool) -> None:
    rows = frame()
    outputs, target = PRICE, [float(price) for price in PRICES]
    if "Classifier" in type(head).__name__:
        outputs, target = CLASS | {"prediction": {"enum": ["0", "1", "2"]}}, [0, 1, 1, 2, 0, 2, 1, 2]
    if piped:
        model = houses(head).fit(rows, target)
    else:
        rows = rows[["living area (m2)", "rooms", "city"]].astype({"city": "category"})
        model = head.fit(rows, target)
    content, more = written(model, role)
    card = carded(tmp_path, content, role, HOUSES, outputs, **more)
    check(card, as_json(frame()), model, rows)


def test_a_large_file_is_scored_by_a_model_with_threads_of_its_own(tmp_path: Path) -> None:
    """In a forked process it would wait for them."""
    rows = pd.DataFrame({"area": np.arange(50_000) / 7, "rooms": 1, "new": True})
    model = lightgbm.LGBMRegressor(n_estimators=2, n_jobs=2, verbose=-1)
    model.fit(rows.to_numpy(float)[::100], rows["area"][::100])
    card = carded(tmp_path, pickled(model), "pipeline", NUMBERS, PRICE)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    assert (tmp_path / "rows.csv").stat().st_size > MANY_BYTES
    options = ("--no-publish", "--model", str(card), "--file", "rows.csv", "--output", "out.csv")
    done = bdlab("predict", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(tmp_path / "out.csv")["prediction"]
    assert found.tolist() == np.asarray(model.predict(rows.to_numpy(float))).tolist()


def test_a_pipeline_of_one_text_gets_a_list_of_strings(tmp_path: Path) -> None:
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(frame()["note"], CLASSES)
    card = carded(tmp_path, pickled(model), "pipeline", {"note": {"type": ["string", "null"]}}, CLASS)
    check(card, [{"note": note} for note in frame()["note"]], model, list(frame()["note"]))
    check(card, [{"note": None}], model, [""])


@pytest.mark.parametrize("role", ["pipeline", "skops"])
def test_numbers_and_truths_without_names_get_an_array_of_floats(tmp_path: Path, role: str) -> None:
    rows: list[list[Any]] = [[51.5, 2, True], [90, None, False], [80, 4, None], [None, 5, True]]
    own = np.array(rows, dtype=float)
    model = make_pipeline(SimpleImputer(), Ridge()).fit(own, [1.0, 2, 3, 5])
    inputs = {name: HOUSES[name] for name in ("living area (m2)", "rooms", "isNew")}
    content, more = written(model, role)
    card = carded(tmp_path, content, role, inputs, PRICE, **more)
    check(card, [dict(zip(inputs, row, strict=True)) for row in rows], model, own)


def test_texts_among_them_get_an_array_of_objects_with_none(tmp_path: Path) -> None:
    own = np.array([["Bonn", 2.0], [None, 3.0], ["Ulm", np.nan], ["Bonn", 7.0]], dtype=object)
    columns = make_column_transformer((OneHotEncoder(), [0]), (SimpleImputer(), [1]))
    model = make_pipeline(columns, LogisticRegression()).fit(own, ["low", "mid", "mid", "high"])
    card = carded(tmp_path, pickled(model), "pipeline", {n: HOUSES[n] for n in ("city", "rooms")}, CLASS)
    rows = [{"city": city, "rooms": None if np.isnan(rooms) else int(rooms)} for city, rooms in own]
    check(card, rows, model, own)


def test_the_class_is_what_the_library_predicts_and_not_always_the_most_probable(tmp_path: Path) -> None:
    target = [int(price > 150) for price in PRICES]
    model = FixedThresholdClassifier(houses(LogisticRegression()), threshold=0.9).fit(frame(), target)
    outputs = CLASS | {"prediction": {"enum": ["0", "1"]}}
    card = carded(tmp_path, pickled(model), "pipeline", HOUSES, outputs)
    scores = load_scorer(str(card))
    check(card, as_json(frame()), model, frame())
    inputs = [msgspec.convert(row, scores.codec.input) for row in as_json(frame())]
    assert min(score.confidence for score in scores.score_many(inputs)) < 0.5


# ONNX.


def from_onnx(content: bytes, rows: dict[str, Any]) -> list[Any]:
    """What onnxruntime says to the rows."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return list(session.run(None, rows))


NUMBERS: dict[str, Any] = {"area": {"type": "number"}, "rooms": {"type": "integer"}, "new": {"type": "boolean"}}
NUMBER_ROWS: list[list[Any]] = [[51.5, 2, True], [90.25, 3, False], [80, 4, False], [120, 5, True]]


def number_inputs() -> list[dict[str, Any]]:
    return [dict(zip(NUMBERS, row, strict=True)) for row in NUMBER_ROWS]


def scored(card: Path, rows: list[dict[str, Any]]) -> list[Any]:
    scorer = load_scorer(str(card))
    return scorer.score_many([msgspec.convert(row, scorer.codec.input) for row in rows])


def test_onnx_with_one_matrix(tmp_path: Path) -> None:
    own = np.array(NUMBER_ROWS, dtype=np.float32)
    content = to_onnx(Ridge().fit(own, [1.0, 2, 3, 5]), own[:1]).SerializeToString()
    scores = scored(carded(tmp_path, content, "onnx", NUMBERS, PRICE), number_inputs())
    assert [score.prediction for score in scores] == from_onnx(content, {"X": own})[0].reshape(-1).tolist()


@pytest.mark.parametrize("zipmap", [True, False])
def test_onnx_with_inputs_by_name(tmp_path: Path, *, zipmap: bool) -> None:
    rows = pd.DataFrame({"city": ["Bonn", "Ulm", "", "Bonn"], "area": [1.5, 2, np.nan, 4], "rooms": [1, 2, 3, 4]})
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["city"]), (SimpleImputer(), ["area", "rooms"])
    )
    model = make_pipeline(columns, LogisticRegression()).fit(rows, ["low", "mid", "high", "high"])
    types = {"city": StringTensorType, "area": FloatTensorType, "rooms": Int64TensorType}
    content = to_onnx(
        model, initial_types=[(name, kind([None, 1])) for name, kind in types.items()], options={"zipmap": zipmap}
    ).SerializeToString()
    inputs = {
        "city": {"enum": ["Bonn", "Ulm", None]},
        "rooms": {"type": "integer"},
        "area": {"type": ["number", "null"]},
    }
    card = carded(tmp_path, content, "onnx", inputs, CLASS)
    given = [
        {"city": city or None, "area": None if np.isnan(area) else area, "rooms": rooms}
        for city, area, rooms in rows.itertuples(index=False)
    ]
    feed = {
        "city": rows[["city"]].to_numpy(object),
        "area": rows[["area"]].to_numpy(np.float32),
        "rooms": rows[["rooms"]].to_numpy(np.int64),
    }
    labels, chances = from_onnx(content, feed)
    for score, label, row in zip(scored(card, given), labels, chances, strict=True):
        expected = row if zipmap else dict(zip(["high", "low", "mid"], row.tolist(), strict=True))
        assert (score.prediction, score.probabilities) == (label, expected)
        assert score.confidence == expected[label]


def network(batch: int | None = None, *, softmax: bool = True, double: bool = False, opset: int = 18) -> bytes:
    """Three numbers to the probabilities of three classes, without labels, as networks are exported."""
    kind = TensorProto.DOUBLE if double else TensorProto.FLOAT
    weights = np.array([[0.1, -0.1, 0], [1, 0, -1], [0, 2, 1]], np.float64 if double else np.float32)
    nodes = [make_node("MatMul", ["x", "w"], ["sums"]), make_node("Softmax", ["sums"], ["out"], axis=1)]
    graph = make_graph(
        nodes[: 1 + softmax],
        "g",
        [make_tensor_value_info("x", kind, [batch, 3])],
        [make_tensor_value_info("out" if softmax else "sums", kind, [batch, 3])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    made = make_model(graph, opset_imports=[make_opsetid("", opset)], ir_version=9)
    return bytes(made.SerializeToString())


def constant() -> bytes:
    """A model that has no input."""
    node = make_node("Constant", [], ["y"], value_floats=[7.0])
    graph = make_graph([node], "constant", [], [make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    made = make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("double", [False, True])
def test_onnx_of_a_network_gives_probabilities_alone(tmp_path: Path, batch: int | None, *, double: bool) -> None:
    content = network(batch, double=double)
    card = carded(tmp_path, content, "onnx", NUMBERS, CLASS)
    for row, score in zip(NUMBER_ROWS, scored(card, number_inputs()), strict=True):
        [chances] = from_onnx(content, {"x": np.array([row], np.float64 if double else np.float32)})
        # A batch is added up in another order.
        assert list(score.probabilities.values()) == pytest.approx(chances[0].tolist(), rel=1e-12)
        assert score.prediction == ["high", "low", "mid"][chances[0].argmax()]


def test_the_card_may_say_the_order_of_a_networks_probabilities(tmp_path: Path) -> None:
    order = ["mid", "high", "low"]
    card = carded(tmp_path, network(), "onnx", NUMBERS, CLASS, classes=order)
    for row, score in zip(NUMBER_ROWS, scored(card, number_inputs()), strict=True):
        [chances] = from_onnx(network(), {"x": np.array([row], np.float32)})
        assert list(score.probabilities) == order
        assert score.prediction == order[chances[0].argmax()]
    for wrong, why in ((["mid", "mid", "low"], "the class 'mid' twice"), (["mid", "no", "low"], "class 'no'")):
        with pytest.raises(ModelError, match=why):
            load_scorer(str(carded(tmp_path, network(), "onnx", NUMBERS, CLASS, classes=wrong)))


# What does not fit is refused when it is loaded.


@pytest.mark.parametrize(
    ("content", "inputs", "outputs", "why"),
    [
        (b"garbage", NUMBERS, CLASS, "cannot be loaded by onnxruntime .*protobuf"),
        (network(opset=99), NUMBERS, CLASS, "cannot be loaded by onnxruntime .*pset 99"),
        (network(), {"area": {"type": "number"}}, CLASS, "of n x 3, and the contract has 1 inputs"),
        (network(), (NUMBERS | {"rooms": {"type": "string"}}), CLASS, "input 'rooms' is a string"),
        (
            network(),
            (NUMBERS | {"new": {"type": "string", "format": "date-time"}}),
            CLASS,
            "input 'new' is a date-time",
        ),
        (network(4), NUMBERS, CLASS, "no other number of rows than 4"),
        (constant(), NUMBERS, PRICE, "has no input"),
        (network(), NUMBERS, PRICE, r"did not predict one result for each input: 1 x 3 results for 1"),
        (network(softmax=False), NUMBERS, CLASS, "no probabilities that add up to 1"),
        (network(), NUMBERS, CLASS | {"prediction": {"enum": ["a", "b"]}}, "no probabilities that add up to 1"),
        (network(), NUMBERS, CLASS | {"price": {"type": "number"}}, "does not give the contract's output 'price'"),
    ],
)
def test_an_onnx_model_that_does_not_fit_says_why(
    tmp_path: Path, content: bytes, inputs: dict[str, Any], outputs: dict[str, Any], why: str
) -> None:
    with pytest.raises(ModelError, match=why) as refused:
        load_scorer(str(carded(tmp_path, content, "onnx", inputs, outputs)))
    assert refused.value.hint


def numbers_to(head: Any, target: Any = (1.0, 2.0, 3.0, 5.0)) -> Any:
    return make_pipeline(FunctionTransformer(), head).fit(np.array(NUMBER_ROWS, float), list(target))


class Constant(BaseEstimator):  # type: ignore[misc] # it has no types
    """Predicts what it is told, for any number of rows."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def predict(self, rows: Any) -> Any:
        return np.array(self.result)


@pytest.mark.parametrize(
    ("model", "outputs", "why"),
    [
        (Constant([float("nan")]), PRICE, "predicted nan, which is no number from -1.79769e\\+308"),
        (Constant([float("-inf")]), PRICE, "predicted -inf"),
        (Constant([1.0, 2.0]), PRICE, "one result for each input: 2 results for 1"),
        (Constant([]), PRICE, "one result for each input: 0 results for 1"),
        (Constant([[1.0, 2.0]]), PRICE, "one result for each input: 1 x 2 results for 1"),
        (Constant(["dear"]), PRICE, "failed: ValueError: could not convert string to float: .*'dear'"),
        (
            Constant([7.0]),
            {"prediction": {"type": "number", "maximum": 5}},
            "predicted 7, which is no number from -1.79769e.308 to 5",
        ),
        (Constant([7.0]), CLASS, "predicts no classes, and the contract's output 'prediction' is an enum"),
        (Constant([7.0]), PRICE | {"upper": {"type": "number"}}, "does not give the contract's output 'upper'"),
        (Constant([7.0]), PRICE | {"confidence": CLASS["confidence"]}, "output 'confidence'"),
        ({"rating": Constant([7.0])}, PRICE, "is a dict, which does not predict"),
        (
            lightgbm.train({"verbose": -1}, lightgbm.Dataset(np.ones((9, 3)), np.arange(9)), 1),
            PRICE,
            "is a Booster of lightgbm",
        ),
    ],
)
def test_a_prediction_that_is_not_the_contracts_is_refused_at_loading(
    tmp_path: Path, model: Any, outputs: dict[str, Any], why: str
) -> None:
    card = carded(tmp_path, pickled(model), "pipeline", NUMBERS, outputs)
    with pytest.raises(ModelError, match=why) as refused:
        load_scorer(str(card))
    assert refused.value.hint


def test_a_classifier_that_does_not_fit_says_why(tmp_path: Path) -> None:
    for model, inputs, outputs, why in (
        (numbers_to(GaussianNB(), "abca"), NUMBERS, PRICE, "predicts classes, and .* is a number"),
        (numbers_to(GaussianNB(), "abca"), NUMBERS, CLASS, "predicts the class 'a', which .* enum"),
        (numbers_to(LinearSVC(), CLASSES[:4]), NUMBERS, CLASS, "classifier without predict_proba"),
        (numbers_to(Ridge()), {"area": NUMBERS["area"]}, PRICE, "takes 3 features, and the contract has 1"),
        (houses(Ridge()).fit(frame(), PRICES), NUMBERS, PRICE, "takes the column 'city'"),
        (
            numbers_to(MultiOutputClassifier(GaussianNB()), [["a", "b"], ["b", "b"], ["a", "a"], ["b", "a"]]),
            NUMBERS,
            CLASS,
            "several outputs at once",
        ),
    ):
        with pytest.raises(ModelError, match=why):
            load_scorer(str(carded(tmp_path, pickled(model), "pipeline", inputs, outputs)))


def test_a_model_that_fails_for_one_input_fails_for_that_one_alone(tmp_path: Path) -> None:
    model = numbers_to(Ridge())
    scorer = load_scorer(str(carded(tmp_path, pickled(model), "pipeline", NUMBERS, PRICE)))
    rows = [msgspec.convert(row, scorer.codec.input) for row in number_inputs()]
    huge = msgspec.structs.replace(rows[0], area=1e308 * 10)
    with pytest.raises(ModelError, match=r"the model house@1 failed: ValueError: .*infinity"):
        scorer.score_many([*rows, huge])
    assert len(scorer.score_many(rows)) == 4


@pytest.mark.parametrize("many", [2, 3, 4])
def test_a_classifier_of_few_numbers_is_not_taken_for_stars(tmp_path: Path, many: int) -> None:
    """Without a contract, its classes alone would say so; with one they are what they are."""
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    model.fit(frame()["note"], [1 + number % many for number in range(len(PRICES))])
    path = tmp_path / "mine.joblib"
    path.write_bytes(pickled(model))
    with pytest.raises(ModelError, match=r"neither stars \(1 to 5\) nor a sentiment") as refused:
        load_scorer(f"{path}#sha256={sha256_of(path.read_bytes())}")
    assert "bdlab model init" in refused.value.hint
    outputs = CLASS | {"prediction": {"enum": [str(1 + number) for number in range(many)]}}
    card = carded(tmp_path, pickled(model), "pipeline", {"text": {"type": "string"}}, outputs)
    check(card, [{"text": note} for note in frame()["note"]], model, list(frame()["note"]))


# Files that run code, and files that do not.


def test_a_skops_file_with_a_type_that_is_not_trusted_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    model = make_pipeline(FunctionTransformer(month), Ridge())
    content = skops.io.dumps(model)
    name = f"{month.__module__}.month"
    with pytest.raises(ModelError, match=re.escape(f"does not trust: {name}")) as refused:
        load_scorer(str(carded(tmp_path, content, "skops", NUMBERS, PRICE, trusted=["numpy.dtype"])))
    assert "model init --trust" in refused.value.hint
    explosive = skops.io.dumps({"model": Explosive(tmp_path / "ran")})
    with pytest.raises(ModelError, match="Explosive"):
        load_scorer(str(carded(tmp_path, explosive, "skops", NUMBERS, PRICE)))
    assert not (tmp_path / "ran").exists()


def test_a_missing_package_is_said_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = pickled(numbers_to(lightgbm.LGBMRegressor(n_estimators=1, verbose=-1)))
    card = carded(tmp_path, content, "pipeline", NUMBERS, PRICE)
    found = json.loads(card.read_text()) | {"libraries": {"lightgbm": "4.6.0"}}
    card.write_text(json.dumps(found))
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightgbm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Without("lightgbm"), *sys.meta_path])
    with pytest.raises(ModelError, match="No module named 'lightgbm'") as refused:
        load_scorer(str(card))
    assert refused.value.hint == "pip install lightgbm==4.6.0"


@pytest.mark.parametrize(
    ("role", "package", "extra"),
    [("skops", "skops", "skops"), ("onnx", "onnxruntime", "onnx"), ("pipeline", "pandas", "pandas")],
)
def test_a_missing_extra_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, package: str, extra: str
) -> None:
    content = pickled(houses(Ridge()).fit(frame(), PRICES)) if role == "pipeline" else b"any"
    card = carded(tmp_path, content, role, HOUSES, PRICE)
    monkeypatch.setattr("bdlab.errors.find_spec", lambda name: None if name == package else name)
    with pytest.raises(InvalidInput, match=f"the package {package} is not installed") as refused:
        load_scorer(str(card))
    assert refused.value.hint == f"pip install 'bdlab[{extra}]'"


@pytest.mark.parametrize("role", ["onnx", "skops"])
def test_a_file_without_a_card_says_how_to_get_one(tmp_path: Path, role: str) -> None:
    (tmp_path / f"house.{role}").write_bytes(b"any")
    with pytest.raises(ModelError, match="has no card beside it") as refused:
        load_scorer(str(tmp_path / f"house.{role}"))
    assert "bdlab model init" in refused.value.hint


def test_a_role_that_is_not_known_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has the role 'torch'") as refused:
        load_scorer(str(carded(tmp_path, b"any", "torch", NUMBERS, PRICE)))
    assert "one of terms, onnx, skops, pipeline" in refused.value.hint


def test_without_a_choice_a_file_that_runs_no_code_is_taken(tmp_path: Path) -> None:
    own = np.array(NUMBER_ROWS, dtype=np.float32)
    content = to_onnx(Ridge().fit(own, [1.0, 2, 3, 5]), own[:1]).SerializeToString()
    card = json.loads(carded(tmp_path, pickled(Explosive(tmp_path / "ran")), "pipeline", NUMBERS, PRICE).read_text())
    other = json.loads(carded(tmp_path, content, "onnx", NUMBERS, PRICE).read_text())
    card["files"] |= other["files"]
    (tmp_path / "house.card.json").write_text(json.dumps(card))
    assert load_scorer(str(tmp_path)).sha256 == sha256_of(content)
    assert not (tmp_path / "ran").exists()
