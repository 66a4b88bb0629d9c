"""Try: a form made from the contract, the answer with the words that decided, and its way into the database."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import msgspec
from litestar import Request, get, post
from litestar.response import Template

from bdlab.contract import Contract
from bdlab.events import Term
from bdlab.wiring.hops import trace
from bdlab_console.api import IN, Api, Reply, body_of, key_of, typed
from bdlab_console.parts import Console
from bdlab_console.rendering import page
from bdlab_console.sessions import presented

_SOON_S, _LOOKED_FOR_S, _EXAMPLES = 2.0, 60.0, 5


def routes(parts: Console) -> list[Any]:
    api, shared = Api(parts), parts.shared

    def form(request: Any, contract: Contract, values: dict[str, str], reply: Reply, **more: Any) -> Template:
        most = min(_EXAMPLES, max(len(field.examples) for field in contract.inputs))
        shown: dict[str, Any] = {"contract": contract, "typed": values, "reply": reply, "prefix": IN, "examples": most}
        return page(request, "trying.html", **shown | {"key": str(uuid4())} | more)

    @get("/try", include_in_schema=False)
    async def empty(request: Request[Any, Any, Any], example: int = 0) -> Template:
        contract, values = await parts.contract(), dict[str, str]()
        for field in contract.inputs:
            has_one = example > 0 and field.examples
            found = field.examples[(example - 1) % len(field.examples)] if has_one else field.default
            values[field.name] = typed(field, found)
        return form(request, contract, values, Reply())

    @post("/try", status_code=200, include_in_schema=False)
    async def send(request: Request[Any, Any, Any]) -> Template:
        contract, said, credential = await parts.contract(), await request.form(), presented(request)
        values = {field.name: str(said.get(IN + field.name, "")) for field in contract.inputs}
        body, key = body_of(contract.inputs, said), key_of(said)
        reply = await api.post("/predict", body, key=key, credential=credential)
        if (answer := reply.body) is None:
            return form(request, contract, values, reply, key=key)
        more = await way(UUID(answer["id"]), time.time())
        more["commands"] = api.commands("/predict", body, keyed=bool(credential) or "predict" in api.needed)
        more["given"] = {field.column: body.get(field.name) for field in contract.inputs}
        more["explanation"] = msgspec.convert(answer["explanation"], list[Term])
        return form(request, contract, values, reply, **more)

    @get("/try/way/{prediction_id:uuid}", include_in_schema=False)
    async def on(request: Request[Any, Any, Any], prediction_id: UUID, since: float) -> Template:
        return page(request, "parts/way.html", **await way(prediction_id, since))

    async def way(prediction_id: UUID, since: float) -> dict[str, Any]:
        """Return what is known of its way; where it is on the topic only if it is not stored soon."""
        asked, age_s = str(prediction_id), time.time() - since
        rows = await shared.get(("way", asked), lambda: parts.reader.ask("way", id=asked), keep_s=0.25)
        shown = {"id": asked, "rows": rows, "trace": None, "since": since, "ended": age_s > _LOOKED_FOR_S}
        if rows.value:
            row = rows.value[0]
            verified = row["recorded"] == 1 and (row["next_offset"] or 0) > row["offset"]
            return shown | {"row": row, "verified": verified}
        if not rows.error and age_s > _SOON_S:
            begin = datetime.now(UTC) - timedelta(hours=1)
            question = partial(trace, parts.session, threading.Event(), asked, since=begin, look_s=2.0)
            found = await shared.get(("hops", asked), question, keep_s=3.0)
            shown["trace"] = found.value[0] if found.value else None
        return shown

    return [empty, send, on]
