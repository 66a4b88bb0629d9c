"""The models of examples/, each from its script to verified rows."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fix_golden import Place
from tests.fix_pipeline import Pipeline

EXAMPLES = Path(__file__).parents[2] / "examples"
#: A value that the field of the contract cannot have, and what is said of it.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "diabetes": ({"age": 131}, "has to be between 0 and 130, and is 131"),
    "tickets": ({"channel": "fax"}, "has to be one of 'chat', 'mail', 'phone', and is 'fax'"),
    "iris": ({"petal width (cm)": None}, "has to be a number, and is null"),
}


@pytest.mark.once
@pytest.mark.long
@pytest.mark.parametrize("name", BAD)
def test_an_example_runs_from_its_script_to_verified_rows(name: str, tmp_path: Path, pipeline: Pipeline) -> None:
    folder = tmp_path / name
    shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("*.joblib", "*.onnx"))
    trained = subprocess.run(
        [sys.executable, folder / "train.py"], capture_output=True, text=True, check=False, timeout=120
    )
    assert trained.returncode == 0, trained.stderr
    (model,) = (path for path in folder.iterdir() if path.suffix in (".joblib", ".onnx"))
    card, sample = folder / f"{name}.card.json", folder / "sample.csv"
    assert sample.read_bytes() == (EXAMPLES / name / "sample.csv").read_bytes()

    place = Place(pipeline)
    place.environment["BDLAB_MODEL_PATH"] = str(card)
    wanted = json.loads(card.read_text())["contract"]
    place.done("model", "init", str(model), "--sample", str(sample), "--contract", str(card), "--force")
    assert json.loads(card.read_text())["contract"] == wanted
    checked = json.loads(place.done("model", "check", str(card), "--sample", str(sample), "--json"))
    assert (checked["findings"], checked["rows"]) == ([], 10)
    assert "contract" in place.done("migrate")

    rows = [asked(row, wanted) for row in csv.DictReader(sample.read_text("utf-8").splitlines())]
    with place.serve() as (_, client):
        (answer,) = client.post("/predict/batch", json=rows[:1]).json()
        bad, why = BAD[name]
        refused = client.post("/predict", json=rows[0] | bad)
        assert refused.status_code == 422
        assert refused.json()["errors"] == [{"field": next(iter(bad)), "why": why}]
    place.done("predict", "--file", str(sample), "--run-id", "once")
    place.done("predict", json.dumps(rows[1]))
    # The same rows once more are duplicates, and a row that the table does not take is a dead letter.
    place.done("predict", "--file", str(sample), "--run-id", "once")
    place.database.execute("ALTER TABLE predictions ADD CONSTRAINT for_now CHECK (source <> 'demo')")
    place.done("predict", json.dumps(rows[2]), "--source", "demo")
    place.done("consume", "--until-idle")
    letter = json.loads(place.done("dlq", "list", "--json"))  # one, on one line
    assert letter["sqlstate"] == "23514"
    place.database.execute("ALTER TABLE predictions DROP CONSTRAINT for_now")
    place.done("dlq", "replay", "--all", "--wait", "0")
    place.done("consume", "--until-idle")

    stored = [json.loads(row) for row in place.rows("SELECT * FROM predictions")]
    assert len(stored) == 13
    first = next(row for row in stored if row["id"] == answer["id"])
    assert first["prediction"] == answer["prediction"]
    verified = json.loads(place.done("verify", "--json"))
    assert verified["verified"] is True


def asked(row: dict[str, str], contract: dict[str, Any]) -> dict[str, Any]:
    """A row of the sample as the body of a request."""
    return {field: value(row[field], schema) for field, schema in contract["input"]["properties"].items()}


def value(cell: str, schema: dict[str, Any]) -> Any:
    kinds = schema.get("type", "string")
    if cell == "":
        return None
    if "boolean" in kinds:
        return cell == "True"
    return float(cell) if "number" in kinds else cell
