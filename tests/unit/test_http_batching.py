"""Models that are slow one by one and quick in batches, behind the API."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from bdlab.errors import ModelError
from bdlab.events import Input, Score
from bdlab.model import load_scorer
from bdlab.resources import models_dir
from tests.fix_api import MemoryApi, serving
from tests.samples import REVIEWS, ReviewScore


class Slow:
    """Scores a batch when it is let; the prediction tells which review it was for."""

    name = "slow@1.0.0"
    sha256 = "0" * 64
    blocking = True
    codec = REVIEWS
    forkable = True

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.go = threading.Event()
        self.entered = threading.Event()

    def score(self, review: Input) -> Score:
        return self.score_many([review])[0]

    def score_many(self, reviews: Sequence[Input]) -> list[Score]:
        self.sizes.append(len(reviews))
        self.entered.set()
        assert self.go.wait(20)
        if any(review.text == "fails" for review in reviews):
            raise ModelError("no answer")
        return [
            ReviewScore(prediction=1 + int(review.text) / 100, sentiment="positive", confidence=0.9)
            for review in reviews
        ]


def test_what_gathers_while_a_batch_runs_is_the_next_batch() -> None:
    slow = Slow()
    memory = MemoryApi(scorer=slow)
    with memory.producer, serving(memory.parts) as client, ThreadPoolExecutor(40) as pool:

        def predicted(number: int) -> float:
            answer = httpx.post(f"{client.base_url}/predict", json={"text": str(number)}, timeout=30)
            return float(answer.json()["prediction"])

        first = pool.submit(predicted, 0)
        assert slow.entered.wait(10)
        others = [pool.submit(predicted, number) for number in range(1, 40)]
        gathered = threading.Event()
        while _in_flight(client) < 40:
            gathered.wait(0.01)
        slow.go.set()
        assert first.result() == 1.0
        assert [round(found.result() * 100) - 100 for found in others] == list(range(1, 40))
        assert slow.sizes == [1, 39]


def _in_flight(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("bdlab_predictions_in_flight "))


def test_a_batch_that_fails_is_503_and_the_next_one_is_not() -> None:
    slow = Slow()
    slow.go.set()
    memory = MemoryApi(scorer=slow)
    with memory.producer, serving(memory.parts) as client:
        assert client.post("/predict", json={"text": "fails"}).status_code == 503
        assert client.post("/predict", json={"text": "7"}).status_code == 200


def test_a_review_that_breaks_the_model_spoils_nobody_elses() -> None:
    slow = Slow()
    memory = MemoryApi(scorer=slow)
    with memory.producer, serving(memory.parts) as client, ThreadPoolExecutor(4) as pool:

        def status(text: str) -> int:
            return httpx.post(f"{client.base_url}/predict", json={"text": text}, timeout=30).status_code

        first = pool.submit(status, "0")
        assert slow.entered.wait(10)
        others = [pool.submit(status, text) for text in ("1", "fails", "2")]
        gathered = threading.Event()
        while _in_flight(client) < 4:
            gathered.wait(0.01)
        slow.go.set()
        assert first.result() == 200
        assert [found.result() for found in others] == [200, 503, 200]
        assert slow.sizes == [1, 3, 1, 1, 1]


def test_a_joblib_file_answers_as_the_compiled_model_does() -> None:
    [joblib_file] = models_dir().glob("*.joblib")
    body = {"text": "This product is terrible! I would not buy it again.", "summary": "Bad"}
    found = []
    for scorer in (load_scorer(), load_scorer(str(joblib_file))):
        memory = MemoryApi(scorer=scorer)
        with memory.producer, serving(memory.parts) as client:
            found.append(client.post("/predict", json=body).json())
    compiled, pipeline = found
    assert pipeline["prediction"] == pytest.approx(compiled["prediction"], abs=1e-9)
    assert pipeline["confidence"] == pytest.approx(compiled["confidence"], abs=1e-9)
    assert pipeline["sentiment"] == compiled["sentiment"]
    assert (pipeline["known_terms"], pipeline["warning"]) == (None, None)
