"""MLServer's runtime over scikit-learn, with its adaptive batching; publishes nothing."""

from __future__ import annotations

import json

from benchmarks.peers.model import load, predict
from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Reviews(MLModel):
    async def load(self) -> bool:
        self.model = load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        texts = StringCodec.decode_input(payload.inputs[0])
        answers = [json.dumps(found) for found in predict(self.model, texts)]
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("predictions", answers)])
