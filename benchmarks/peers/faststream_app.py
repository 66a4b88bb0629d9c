"""FastStream's HTTP route, which publishes to Kafka and waits for the confirmation; without a model.

Run: python -m benchmarks.peers.faststream_app PORT BOOTSTRAP_SERVERS
"""

from __future__ import annotations

import json
import sys

import uvicorn
from faststream import FastStream
from faststream.asgi import AsgiResponse, Request, post
from faststream.confluent import KafkaBroker
from pydantic import BaseModel


class Review(BaseModel):
    text: str
    summary: str = ""


broker = KafkaBroker(sys.argv[2], acks="all", enable_idempotence=True, logger=None)


@post
async def predict(request: Request) -> AsgiResponse:
    review = Review.model_validate_json(await request.body())
    await broker.publish(review, topic="predictions", no_confirm=False)
    body = json.dumps({"id": "0" * 36, "text": review.text, "explanation": "0" * 230})
    return AsgiResponse(body.encode(), status_code=200, headers={"content-type": "application/json"})


app = FastStream(broker, logger=None).as_asgi(asgi_routes=[("/predict", predict)])
uvicorn.run(app, port=int(sys.argv[1]), access_log=False)
