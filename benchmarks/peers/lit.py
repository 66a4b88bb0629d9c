"""LitServe with batching over scikit-learn; publishes nothing.

Run: python -m benchmarks.peers.lit PORT
"""

import sys
from typing import Any

import litserve
from benchmarks.peers.model import load, predict


class Reviews(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = load()

    def decode_request(self, request: dict[str, Any]) -> str:
        return str(request["text"])

    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        return predict(self.model, texts)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    api = Reviews(max_batch_size=64, batch_timeout=0.002, api_path="/predict")
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        port=int(sys.argv[1]), log_level="warning", generate_client_file=False
    )
