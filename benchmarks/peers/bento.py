"""BentoML with adaptive batching over scikit-learn; publishes nothing.

Run: python -m bentoml serve benchmarks.peers.bento:Reviews --port PORT
"""

from __future__ import annotations

from typing import Any

import bentoml
from benchmarks.peers.model import load, predict


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Reviews:
    def __init__(self) -> None:
        self.model = load()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000, route="/predict")
    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        return predict(self.model, texts)
