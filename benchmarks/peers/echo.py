"""Litestar under uvicorn, which decodes the same body and responds with one of the same size, and no more.

Run: python -m benchmarks.peers.echo PORT
"""

from __future__ import annotations

import json
import sys

import msgspec
import uvicorn
from litestar import Litestar, Response, post


class Review(msgspec.Struct):
    text: str
    summary: str = ""


@post("/predict", status_code=200)
async def echo(data: Review) -> Response[bytes]:
    body = json.dumps({"id": "0" * 36, "text": data.text, "explanation": "0" * 230})
    return Response(body.encode(), media_type="application/json")


uvicorn.run(Litestar([echo], openapi_config=None), port=int(sys.argv[1]), access_log=False)
