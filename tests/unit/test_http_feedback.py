"""What the right answers were, over HTTP: the same promises, limits and messages as of predictions."""

from __future__ import annotations

import io
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from bdlab.feedback import FeedbackCodec
from bdlab.inputs import InputInvalid, Validator
from bdlab.inputs.files import InputFile
from bdlab_cli.wiring.arguments import from_arguments
from tests.fix_api import MemoryApi
from tests.samples import FEEDBACK

ID = "01987e5b-1c2d-7000-8000-000000000001"
GOOD: dict[str, Any] = {"prediction_id": ID, "prediction": 2.0, "sentiment": "negative"}


def test_it_is_on_the_topic_as_it_was_answered(api: httpx.Client, memory_api: MemoryApi) -> None:
    answer = api.post("/feedback", json=GOOD | {"source": "support", "created_at": "2026-01-31T12:00:00+01:00"})
    assert answer.status_code == 200
    found = answer.json()
    assert found == GOOD | {"id": found["id"], "source": "support", "created_at": "2026-01-31T11:00:00Z"}
    (record,) = memory_api.records()
    event, _ = FEEDBACK.decode(record)
    assert (str(event.id), str(event.prediction_id), event.prediction) == (found["id"], ID, 2.0)
    assert record.key == ID.encode()
    assert dict(record.headers)["ce_type"] == b"io.bdlab.feedback.v1"


def test_a_key_makes_it_the_same_event_and_another_answer_another(api: httpx.Client) -> None:
    def give(body: dict[str, Any]) -> str:
        return str(api.post("/feedback", json=body, headers={"Idempotency-Key": "k"}).json()["id"])

    assert give(GOOD) == give(GOOD)
    assert give(GOOD) != give(GOOD | {"prediction": 3.0})
    assert UUID(give(GOOD)).version == 8


def test_a_list_is_answered_in_its_order_each_with_its_own_id(api: httpx.Client, memory_api: MemoryApi) -> None:
    ids = [str(uuid4()) for _ in range(3)]
    bodies = [{"prediction_id": each, "prediction": 1.0} for each in ids]
    headers = {"Idempotency-Key": "k", "Bdlab-Source": "demo"}
    first, second = (api.post("/feedback/batch", json=bodies, headers=headers).json() for _ in range(2))
    assert [each["prediction_id"] for each in first] == ids
    assert {each["source"] for each in first} == {"demo"}
    assert [each["id"] for each in first] == [each["id"] for each in second]
    assert len({each["id"] for each in first}) == 3
    assert len(memory_api.records()) == 6


def test_a_list_of_one_has_the_id_of_a_lists_first(api: httpx.Client) -> None:
    def first(bodies: list[dict[str, Any]]) -> str:
        return str(api.post("/feedback/batch", json=bodies, headers={"Idempotency-Key": "k"}).json()[0]["id"])

    assert first([GOOD]) == first([GOOD, GOOD])
    assert first([GOOD]) != api.post("/feedback", json=GOOD, headers={"Idempotency-Key": "k"}).json()["id"]


@pytest.mark.parametrize(
    ("change", "field", "why"),
    [
        ({"prediction_id": "1"}, "prediction_id", "has to be a UUID"),
        ({"prediction_id": None}, "prediction_id", "has to be a UUID"),
        ({"prediction": 6}, "prediction", "has to be between 1 and 5 or null"),
        ({"sentiment": "bad"}, "sentiment", "has to be one of 'negative', 'positive' or null"),
        ({"source": "Some body"}, "source", "has to be a word"),
        ({"created_at": "2026-01-31"}, "created_at", "has to be a date and time"),
        ({"prediction": None, "sentiment": None}, "body", "'prediction' or 'sentiment', and gives none"),
        ({"predictoin_id": ID}, "predictoin_id", "is 'prediction_id' meant?"),
    ],
)
def test_what_is_wrong_is_named(api: httpx.Client, change: dict[str, Any], field: str, why: str) -> None:
    answer = api.post("/feedback", json=GOOD | change)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert why in error["why"]


def test_it_counts_beside_predictions(api: httpx.Client) -> None:
    api.post("/feedback", json=GOOD)
    api.post("/feedback", json=GOOD)
    lines = api.get("/metrics").text.splitlines()
    assert 'bdlab_feedback_total{outcome="acknowledged"} 2.0' in lines
    assert 'bdlab_predictions_total{outcome="acknowledged"} 0.0' in lines


def test_the_form_takes_what_the_codec_takes() -> None:
    codec = FeedbackCodec(FEEDBACK.contract)
    assert [field.column for field in codec.form.inputs] == [*codec.given.__struct_fields__]
    assert {each.name for each in msgspec.structs.fields(codec.given) if each.required} == {"prediction_id"}


def test_an_answer_without_any_truth_is_refused_in_a_terminal_and_a_file() -> None:
    codec = FeedbackCodec(FEEDBACK.contract)
    validator = Validator(codec.form, codec.given, any_of=("prediction", "sentiment"))
    with pytest.raises(InputInvalid, match="has to give 'prediction' or 'sentiment', and gives none"):
        from_arguments(validator, [f"prediction_id={ID}"], None, 999)
    with InputFile(
        "-", io.BytesIO(f"prediction_id,sentiment\n{ID},\n".encode()), validator, kind="csv", max_row_bytes=999
    ) as file:
        (row,) = file.rows()
    assert "gives none" in str(row)
