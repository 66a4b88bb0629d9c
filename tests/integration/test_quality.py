"""Live error, calibration, drift and comparisons, as sums that a real Postgres makes of rows with known figures."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from psycopg2 import sql
from uuid_utils.compat import uuid7

from bdlab import quality
from bdlab.contract import parse_contract, review_contract
from bdlab.errors import BdlabError, InvalidInput
from bdlab.model.scorer import Card, File
from bdlab.postgres.quality import QualityReader, asked
from bdlab.profile import Profile, profile_of
from bdlab.settings import Settings
from bdlab.wiring.quality import compare, judge
from tests.fix_database import Database, admin_login, adopt
from tests.fix_pipeline import Pipeline
from tests.json_results import as_documented

NOW = datetime.now(UTC)

HOUSES = {
    "input": {
        "type": "object",
        "properties": {
            "area": {"type": "number"},
            "kind": {"enum": ["flat", "50% {own}", "house's"]},
            "note": {"type": ["string", "null"]},
            "a0": {"type": "boolean"},
            "sold": {"type": "string", "format": "date-time"},
        },
        "required": ["area", "kind", "note", "a0", "sold"],
    },
    "output": {"type": "object", "properties": {"prediction": {"type": "number"}}},
}
MAILS = {
    "input": {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]},
    "output": {
        "type": "object",
        "properties": {
            "prediction": {"enum": ["ham", "spam", "it's"]},
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        },
    },
}


def house(area: float = 50.0, **more: Any) -> dict[str, Any]:
    return {"area": area, "kind": "50% {own}", "note": "n" * 12, "a0": True, "sold": NOW, "prediction": 1.0} | more


class World:
    """A database with a contract, rows as they would be stored, and cards as they would be registered."""

    def __init__(self, database: Database, document: Mapping[str, Any] | None) -> None:
        self.database, self.contract = database, parse_contract(document) if document else review_contract()
        if document:
            adopt(database.credentials("owner"), self.contract)
        self.offset = 0

    def insert(self, table: str, rows: list[dict[str, Any]]) -> None:
        names = sql.SQL(", ").join(map(sql.Identifier, rows[0]))
        form = "INSERT INTO {0} ({1}) SELECT {1} FROM jsonb_populate_recordset(NULL::{0}, %s::jsonb)"
        statement = sql.SQL(form).format(sql.Identifier(table), names)
        self.database.execute(statement, [msgspec.json.encode(rows).decode()])

    def predict(self, rows: Iterable[Mapping[str, Any]], model: str = "m@1", **more: Any) -> list[str]:
        """Store predictions of a model; their ids."""
        made = []
        for row in rows:
            self.offset += 1
            fixed = {"explanation": [], "model": model, "created_at": NOW, "source": None, "stored_at": NOW}
            place = {"log_id": 9_999, "partition": 0, "offset": self.offset}
            made.append({"id": str(uuid7()), **row, **fixed, **place, **more})
        self.insert("predictions", made)
        return [row["id"] for row in made]

    def tell(self, ids: Iterable[str], truths: Iterable[Any], after_s: float = 60.0) -> None:
        """Store feedback on predictions."""
        made = []
        for each, truth in zip(ids, truths, strict=True):
            self.offset += 1
            place = {"log_id": 9_999, "partition": 0, "offset": self.offset}
            moment = NOW + timedelta(seconds=after_s)
            one = {"id": str(uuid7()), "prediction_id": each, "source": "test", "created_at": moment, "stored_at": NOW}
            made.append({**one, **place, "prediction": truth})
        self.insert("feedback", made)

    def rescore(self, ids: Iterable[str], said: Iterable[Any], model: str = "m@2", **more: Any) -> None:
        fixed = {"model": model, "run": str(uuid7()), "scored_at": NOW}
        outputs = [{"prediction": one, **more} for one in said]
        self.insert("rescored", [{"id": each, **fixed, **row} for each, row in zip(ids, outputs, strict=True)])

    def register(self, profile: Profile | None = None, model: str = "m@1", **metrics: float) -> None:
        name, version = model.split("@")
        file = File(role="onnx", sha256="0" * 64, bytes=1)
        card = Card(
            name=name,
            version=version,
            files={"m.onnx": file},
            contract=self.contract.document,
            profile=profile,
            validation={"metrics": metrics},
        )
        text = msgspec.json.encode(card).decode()
        statement = "INSERT INTO model_versions (name, version, card, sha256) VALUES (%s, %s, %s, %s)"
        self.database.execute(statement, [name, version, text, "0" * 64])

    def profile(self, rows: list[dict[str, Any]]) -> Profile:
        columns = {
            field.column: [row[field.column] for row in rows] for field in self.contract if field.column in rows[0]
        }
        return profile_of(self.contract, columns)

    def judge(self, *, model: str | None = None, rescored: bool = False, **more: Any) -> list[quality.Version]:
        with QualityReader(self.database.credentials("reader")) as reader:
            what = asked(None, None, more.pop("source", "real"), model=model, rescored=rescored)
            return judge(reader, Settings(), what, **more)

    def compare(self, **more: Any) -> quality.Comparison:
        with QualityReader(self.database.credentials("reader")) as reader:
            return compare(reader, ("m@1", "m@2"), asked(None, None, "real"), **more)


@pytest.fixture
def houses(new_database: Callable[[], Database]) -> World:
    return World(new_database(), HOUSES)


@pytest.fixture
def mails(new_database: Callable[[], Database]) -> World:
    return World(new_database(), MAILS)


def test_errors_delay_and_slices_are_those_of_the_rows(houses: World) -> None:
    rows = [house(float(number), kind="flat" if number < 40 else "house's") for number in range(100)]
    houses.register(None, mse=0.25, mae=0.5)
    ids = houses.predict(rows)
    houses.predict([house()], source="drill")
    # The flats are right; of the other sixty, forty are known, and are wrong by 2.
    houses.tell(ids[:80], [1.0] * 40 + [3.0] * 40)
    houses.tell(ids[:1], [1.0], after_s=30)  # an older one does not count
    (found,) = houses.judge(min_rows=50)
    assert (found.model, found.rows, found.labelled, found.delay_s) == ("m@1", 100, 80, (60.0, 60.0))
    errors = found.errors["prediction"]
    assert (errors.rows, errors.mse, errors.mae, errors.bias) == (80, 2.0, 1.0, -1.0)
    assert errors.card == {"mse": 0.25, "mae": 0.5}
    assert found.calibration == []
    worst = found.slices[0]
    assert (worst.field, worst.bin, worst.rows, worst.labelled, worst.error) == ("kind", "house's", 60, 40, 4.0)
    (one,) = houses.judge(sliced=["area"])
    assert {each.field for each in one.slices} == {"area"}
    assert sum(each.rows for each in one.slices if each.labelled) == 80
    assert any("no profile" in note for note in found.notes)

    report = quality.report_of([found], None, 1.9, 50)
    assert report.alarms == ["m@1: mse of prediction is 2, above 1.9"]
    assert quality.report_of([found], None, 2.1, 50).alarms == []
    few = quality.report_of([found], 0.2, 1.9, 200)
    assert (few.alarms, len(few.unknown)) == ([], 2)
    assert len(houses.judge(source="all")) == 1
    assert houses.judge(source="all")[0].rows == 101
    assert houses.judge(source="drill")[0].rows == 1


def test_classes_have_an_error_rate_a_log_loss_and_a_calibration(mails: World) -> None:
    mails.register(None, accuracy=0.9)
    ids = mails.predict(
        [{"size": n, "prediction": "spam", "confidence": 0.8} for n in range(50)]
        + [{"size": n, "prediction": "it's", "confidence": 0.6} for n in range(50)]
    )
    mails.tell(ids, ["spam"] * 40 + ["ham"] * 10 + ["it's"] * 30 + ["ham"] * 20)
    (found,) = mails.judge()
    errors = found.errors["prediction"]
    assert (errors.rows, errors.error_rate) == pytest.approx((100, 0.3))
    assert errors.mse is None
    logs = 40 * math.log(0.8) + 10 * math.log(0.1) + 30 * math.log(0.6) + 20 * math.log(0.2)
    assert errors.log_loss == pytest.approx(-logs / 100)
    assert errors.card == {"error_rate": pytest.approx(0.1)}
    told = [(each.upto, each.rows, each.confidence, each.right) for each in found.calibration]
    assert told == [pytest.approx((0.7, 50, 0.6, 0.6)), pytest.approx((0.9, 50, 0.8, 0.8))]
    assert found.calibration_error == pytest.approx(0.0)


def test_a_field_that_drifted_alarms_and_the_others_do_not(houses: World) -> None:
    chance = random.Random(1)

    def rows(number: int, mean: float, share: float) -> list[dict[str, Any]]:
        kinds = ["flat", "50% {own}", "house's"]
        return [
            house(
                chance.gauss(mean, 10),
                kind=chance.choice(kinds),
                note=None if chance.random() < share else "n" * chance.randrange(50),
                a0=chance.random() < 0.3,
                prediction=chance.gauss(0, 1),
            )
            for _ in range(number)
        ]

    houses.register(houses.profile(rows(2000, 50, 0.1)))
    houses.predict(rows(1000, 50, 0.1))
    (found,) = houses.judge()
    assert set(found.drift) == {"area", "kind", "note", "a0", "prediction"}  # a moment moves by itself
    assert all(each.judged and each.psi < 0.05 for each in found.drift.values())
    report = quality.report_of([found], 0.2, None, 200)
    assert (report.alarms, report.unknown) == ([], [])

    houses.predict(rows(1000, 65, 0.6), model="n@1")
    houses.register(houses.profile(rows(2000, 50, 0.1)), model="n@1")
    (found,) = houses.judge(model="n@1")
    assert found.drift["area"].psi > 1
    assert found.drift["note"].psi > 1
    assert max(found.drift[name].psi for name in ("kind", "a0", "prediction")) < 0.05
    alarms = quality.report_of([found], 0.2, None, 200).alarms
    assert [alarm.split(" is ")[0] for alarm in alarms] == ["n@1: PSI of area", "n@1: PSI of note"]
    # What the database counts in a bin is what the profile does.
    profile = houses.profile(rows(50, 50, 0.1))
    some = rows(300, 50, 0.1)
    houses.predict(some, model="o@1")
    houses.register(profile, model="o@1")
    (found,) = houses.judge(model="o@1")
    assert not any(each.judged for each in found.drift.values())  # the profile is of 50 rows
    for name, bins in profile.fields.items():
        counts = dict.fromkeys(range(-1, len(bins.shares)), 0)
        for row in some:
            counts[bins.bin_of(row[name])] += 1
        assert found.drift[name].psi == pytest.approx(bins.psi(counts)), name


def test_nothing_stored_is_told(houses: World) -> None:
    assert houses.judge() == []
    report = quality.report_of([], 0.2, None, 200)
    assert report.unknown == ["--max-psi: no version has a profile and enough rows"]
    with pytest.raises(BdlabError, match="nothing is stored of m@9"):
        houses.judge(model="m@9")
    with pytest.raises(BdlabError, match="nothing is stored of m@1"):
        houses.compare()
    houses.predict([house()])
    with pytest.raises(BdlabError, match="nothing is stored of m@2"):
        houses.compare()
    with pytest.raises(InvalidInput, match="no such input field"):
        houses.compare(sliced=["nowhere"])


def test_a_comparison_of_numbers_has_the_figures_of_the_pairs(houses: World) -> None:
    chance = random.Random(2)
    truths = [chance.gauss(0, 1) for _ in range(400)]
    ids = houses.predict(
        [house(n, prediction=truth + 1, kind="flat" if n < 200 else "house's") for n, truth in enumerate(truths)]
    )
    houses.rescore(ids, [truth + (0.5 if n < 200 else 1.5) for n, truth in enumerate(truths)])
    houses.rescore(ids[:10], [99.0] * 10, model="m@1")  # what it said at once counts
    found = houses.compare(sliced=["kind", "a0", "sold"], worst=3)
    assert (found.rows, found.verdict, found.judged) == (400, "undecided", None)
    output = found.outputs["prediction"]
    assert output.distances == pytest.approx((0.5, 0.5, 0.5, 0.5))
    assert output.same == 0.0
    assert output.mean_distance == pytest.approx(0.5)
    assert output.mean_difference == pytest.approx(0.0)
    assert len(found.furthest) == 3
    assert found.furthest[0]["input"]["kind"] in {"flat", "house's"}
    assert "right answers are known" in found.why

    houses.tell(ids, truths)
    found = houses.compare(sliced=["kind"])
    errors = found.outputs["prediction"].errors
    assert errors is not None
    assert errors.low is not None
    assert errors.high is not None
    # Squared errors: A's are 1, B's 0.25 for half of them and 2.25 for the others.
    assert (errors.rows, errors.a, errors.b) == pytest.approx((400, 1, 1.25))
    assert errors.low < 0.25 < errors.high
    assert found.verdict == "worse"
    assert houses.compare(tolerance=0.25).verdict == "undecided"
    assert houses.compare(tolerance=0.6).verdict == "not worse"
    assert {each.bin: each.errors.difference for each in found.slices if each.errors} == {
        "flat": pytest.approx(-0.75),
        "house's": pytest.approx(1.25),
    }


def test_a_comparison_of_classes_counts_flips(mails: World) -> None:
    said = ["ham"] * 60 + ["spam"] * 40
    ids = mails.predict([{"size": n, "prediction": one, "confidence": 0.9} for n, one in enumerate(said)])
    other = ["ham"] * 50 + ["it's"] * 10 + ["spam"] * 40
    mails.rescore(ids, other, confidence=0.7)
    mails.tell(ids[40:80], ["ham"] * 40)
    found = mails.compare(worst=2)
    output = found.outputs["prediction"]
    assert output.flips == {"ham": {"ham": 50, "it's": 10}, "spam": {"spam": 40}}
    assert output.same == pytest.approx(0.9)
    assert output.errors is not None
    assert (output.errors.rows, output.errors.a, output.errors.b) == (40, 0.5, 0.75)
    assert found.verdict == "worse"
    assert [each["a"]["prediction"] for each in found.furthest] == ["ham", "ham"]
    assert json.loads(msgspec.json.encode(found))["furthest"][0]["b"] == {"prediction": "it's"}


@pytest.fixture
def stored(pipeline: Pipeline) -> Iterator[World]:
    """Reviews of cli@1 in the pipeline, which cli@2 has re-scored, worse; cli@1 is promoted."""
    world = World(Database(admin_login(pipeline.postgres, "bdlab")), None)
    votes = {"helpfulness_numerator": 1, "helpfulness_denominator": 1}
    review = {
        "summary": "s",
        "text": "This \x1b[31m works",
        "prediction": 4.0,
        "sentiment": "positive",
        "confidence": 0.9,
    }
    ids = world.predict([votes | review] * 40, model="cli@1")
    world.rescore(ids, [3.0] * 40, model="cli@2", sentiment="positive", confidence=0.6)
    world.tell(ids, [4.5] * 40)
    for model in ("cli@1", "cli@2"):
        world.register(None, model, mse=0.2)
    world.database.execute("INSERT INTO model_promotions (name, version) VALUES ('cli', '1')")
    yield world
    for table in ("model_promotions", "model_versions", "rescored", "feedback", "predictions"):
        key = "name = 'cli'" if table.startswith("model") else "log_id = 9999 AND created_at >= %s"
        rest = "model LIKE 'cli@%%'" if table in {"rescored", "predictions"} else key
        world.database.execute(f"DELETE FROM {table} WHERE {rest}", [NOW])  # noqa: S608


@pytest.mark.once
def test_the_commands_alarm_and_refuse_by_their_exit_codes(stored: World, pipeline: Pipeline, tmp_path: Path) -> None:
    def run(line: str) -> tuple[int, str, str]:
        done = pipeline.run(*line.split())
        return done.returncode, done.stdout, done.stderr

    file = tmp_path / "bdlab.prom"
    code, out, _ = run(f"quality --model cli@1 --max-error 0.2 --min-rows 30 --textfile {file}")
    assert (code, "ALARM cli@1: mse of prediction is 0.25, above 0.2" in out) == (10, True)
    assert 'bdlab_quality_card_error{measure="mse",model="cli@1",output="prediction"} 0.2' in file.read_text()
    code, out, error = run("quality --last 1d --model cli@1 --max-error 0.3 --max-psi 0.2 --min-rows 30 --json")
    assert (code, "no version has a profile" in error) == (1, True)
    assert as_documented("quality", out)["alarms"] == []
    code, out, _ = run("quality --model cli@2 --rescored --json")
    assert (code, as_documented("quality", out)["versions"][0]["errors"]["prediction"]["mse"]) == (0, 2.25)

    code, out, _ = run("compare cli@1 cli@2 --slice text")
    assert (code, "B is worse" in out, "\x1b[31m" in out) == (10, True, False)
    code, out, _ = run("compare cli@2 cli@1 --json")
    assert (code, as_documented("compare", out)["verdict"]) == (0, "not worse")

    code, _, error = run("model promote cli@2 --if-better")
    assert (code, "cli@2 (B) is not promoted, since beside cli@1 (A) it is worse" in error) == (10, True)
    assert run("model promote cli@3 --if-better")[0] == 1
    # With this tolerance it is compared, and then looked for in the registry.
    code, _, error = run("model promote cli@2 --if-better --tolerance 2.1")
    assert (code, "model.registry is empty" in error) == (2, True)
