"""FastAPI and scikit-learn, which produce to Kafka and do not wait for the acknowledgement.

Run: python -m benchmarks.peers.naive PORT BOOTSTRAP_SERVERS
"""

from __future__ import annotations

import json
import sys
import uuid
from typing import Any

import uvicorn
from benchmarks.peers.model import load, predict
from confluent_kafka import Producer
from fastapi import FastAPI
from pydantic import BaseModel


class Review(BaseModel):
    text: str
    summary: str = ""


model = load()
app = FastAPI()
producer = Producer({"bootstrap.servers": sys.argv[2]})


@app.post("/predict")
async def answer(review: Review) -> dict[str, Any]:
    found = predict(model, [review.text])[0] | {"id": str(uuid.uuid4())}
    producer.produce("predictions", json.dumps(found | review.model_dump()).encode(), key=found["id"])
    producer.poll(0)
    return found


uvicorn.run(app, port=int(sys.argv[1]), access_log=False)
