"""The statistics of quality and comparisons by themselves: bins, PSI, intervals, gauges."""

from __future__ import annotations

import math
import random
from pathlib import Path

import msgspec
import pytest

from bdlab import quality
from bdlab.contract import Field, review_contract
from bdlab.errors import InvalidInput
from bdlab.model.scorer import Card, read_card
from bdlab.profile import NULL, Distribution, distribution_of, profile_of
from bdlab.resources import models_dir
from bdlab_cli.output.quality import write_gauges
from tests.monitoring import page_problems

NUMBER = Field(name="n", column="n", kind="number")
TEXT = Field(name="t", column="t", kind="string")


def test_psi_is_the_sum_over_the_bins() -> None:
    bins = Distribution(shares=(0.2, 0.5, 0.2), edges=(1.0, 2.0), nulls=0.1)
    assert bins.psi({0: 20, 1: 50, 2: 20, NULL: 10}) == pytest.approx(0)
    found = bins.psi({0: 50, 1: 50})
    gone = [(1e-4 - share) * math.log(1e-4 / share) for share in (0.2, 0.1)]
    assert found == pytest.approx(0.3 * math.log(2.5) + sum(gone))


def test_numbers_are_in_tenths_and_those_that_are_many_by_themselves() -> None:
    found = distribution_of(NUMBER, [float(number) for number in range(1000)])
    assert found.shares == pytest.approx((0.1,) * 10)
    assert found.bin_of(-5) == 0
    assert found.bin_of(found.edges[0]) == 1
    mostly_zero = distribution_of(NUMBER, [0.0] * 900 + [float(number) for number in range(1, 101)])
    assert mostly_zero.shares[mostly_zero.bin_of(0.0)] == 0.9
    constant = distribution_of(NUMBER, [7.0, 7.0, None, 7.0])
    assert constant.nulls == 0.25
    assert [constant.bin_of(value) for value in (6.9, 7.0, 7.1, None)] == [0, 1, 2, NULL]
    assert constant.shares == (0, 0.75, 0)


def test_texts_of_few_values_have_these_and_others_their_length() -> None:
    few = distribution_of(TEXT, ["a", "b"] * 10)
    assert (few.values, few.shares) == (("a", "b"), (0.5, 0.5, 0))
    assert few.label(few.bin_of("c")) == "(other)"
    many = distribution_of(TEXT, ["x" * number for number in range(1, 101)])
    assert many.length
    assert many.label(many.bin_of("x" * 15)) == "11 to 21 characters"
    moments = profile_of(review_contract(), {"text": ["x"], "prediction": [1.0]})
    assert set(moments.fields) == {"text", "prediction"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"shares": [1.0], "edges": [1.0]},
        {"shares": [0.5, 0.5, 0.0], "edges": [2.0, 1.0]},
        {"shares": [0.5, 0.5], "edges": [1.0], "values": ["a"]},
        {"shares": [0.5, 1.5], "edges": [1.0]},
        {"shares": [0.5, 0.5], "edges": [1.0], "more": 1},
    ],
)
def test_a_profile_is_parsed_strictly(wrong: dict[str, object]) -> None:
    card = read_card(models_dir() / "reviews.card.json")
    document = msgspec.to_builtins(card) | {"profile": {"rows": 1, "fields": {"text": wrong}}}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(document, Card)


def test_the_interval_holds_the_true_difference_about_as_often_as_it_says() -> None:
    chance = random.Random(3)
    held = 0
    for _ in range(120):
        # B is right where A is wrong in 30 %, and the reverse in 20 %: the difference is -0.1.
        found = [chance.choices([-1.0, 1.0, 0.0], [0.3, 0.2, 0.5])[0] for _ in range(100)]
        low, high = quality.interval(found, [1] * 100)
        held += low <= -0.1 <= high
    assert 0.88 <= held / 120 <= 0.99
    assert quality.interval([1.0, 2.0], [1, 2]) == (1.0, 1.0)


def test_the_gauges_are_those_of_the_page_and_replace_the_file(tmp_path: Path) -> None:
    errors = {"prediction": quality.Errors(rows=9, mse=0.5, card={"mse": 0.4})}
    drift = {name: quality.Drift(psi=0.1, rows=9, judged=name == "text", shares={}) for name in ("text", "summary")}
    one = quality.Version(
        model='m"\\n@1',
        rows=10,
        labelled=9,
        delay_s=(1.0, 2.0),
        errors=errors,
        judged="prediction",
        calibration=[],
        calibration_error=0.25,
        drift=drift,
        slices=[],
        notes=[],
    )
    file = tmp_path / "bdlab.prom"
    file.write_text("old")
    write_gauges(quality.Report(versions=[one], alarms=["a"], unknown=[]), file)
    text = file.read_text()
    assert page_problems("quality", text) == []
    assert "bdlab_quality_alarms 1.0" in text
    assert 'field="summary"' not in text  # too few rows for a judgement
    assert [path.name for path in tmp_path.iterdir()] == ["bdlab.prom"]
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_gauges(quality.Report(versions=[], alarms=[], unknown=[]), tmp_path / "no" / "x.prom")


def test_the_shipped_card_has_the_profile_of_what_it_reads() -> None:
    profile = read_card(models_dir() / "reviews.card.json").profile
    assert profile is not None
    assert set(profile.fields) == {"summary", "text", "prediction", "sentiment"}
    assert profile.known_terms is not None
    for bins in (*profile.fields.values(), profile.known_terms):
        assert sum(bins.shares) + bins.nulls == pytest.approx(1, abs=1e-4)
