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
from bdlab.hops import Trace
from bdlab.wiring.hops import trace
from bdlab_console.api import IN, Api, Reply, body_of, key_of, typed
from bdlab_console.parts import Console
from bdlab_console.rendering import page
from bdlab_console.sessions import presented

_SOON_S, _LOOKED_FOR_S, _EXAMPLES = 2.0, 60.0, 5


def routes(parts: Console) -> list[Any]:
    api, stop = Api(parts), threading.Event()

    def form(request: Any, contract: Contract, values: dict[str, str], reply: Reply, **more: Any) -> Template:
        most = min(_EXAMPLES, max(len(field.examples) for field in contract.inputs))
        shown: dict[str, Any] = {"contract": contract, "typed": values, "reply": reply, "prefix": IN, "examples": most}
        return page(request, "trying.html", **shown | {"key": str(uuid4())} | more)

    @get("/try", include_in_schema=False)
    async def empty(request: Request[Any, Any, Any], example: int = 0) -> Template:
        contract = await parts.contract()
        values = {field.name: typed(field, field.default) for field in contract.inputs}
        for field in contract.inputs if example > 0 else ():
            if field.examples:
                values[field.name] = typed(field, field.examples[(example - 1) % len(field.examples)])
        return form(request, contract, values, Reply())

    @post("/try", status_code=200, include_in_schema=False)
    async def send(request: Request[Any, Any, Any]) -> Template:
        contract, given, credential = await parts.contract(), await request.form(), presented(request)
        values = {field.name: str(given.get(IN + field.name, "")) for field in contract.inputs}
        body, key = body_of(contract.inputs, given), key_of(given)
        reply = await api.post("/predict", body, key=key, credential=credential)
        if (answer := reply.body) is None:
            return form(request, contract, values, reply, key=key)
        lines = api.commands("/predict", body, keyed=bool(credential) or "predict" in api.needed)
        explanation = msgspec.convert(answer["explanation"], list[Term])
        shown = await way(UUID(answer["id"]), time.time())
        return form(request, contract, values, reply, explanation=explanation, body=body, commands=lines, **shown)

    async def way(prediction_id: UUID, since: float) -> dict[str, Any]:
        """Return what is known of its way, for parts/way.html."""
        asked = str(prediction_id)
        rows = await parts.shared.get(("way", asked), lambda: parts.reader.ask("way", id=asked), keep_s=0.25)
        row = next(iter(rows.value or ()), None)
        age_s, found, look_from = time.time() - since, list[Trace](), datetime.now(UTC) - timedelta(hours=1)
        if row is None and not rows.error and age_s > _SOON_S:
            question = partial(trace, parts.session, stop, asked, since=look_from, look_s=2.0)
            found = (await parts.shared.get(("hops", asked), question, keep_s=3.0)).value or []
        verified = bool(row and row["recorded"] == 1 and (row["next_offset"] or 0) > row["offset"])
        shown = {"id": asked, "row": row, "trace": next(iter(found), None), "verified": verified}
        return shown | {"since": since, "ended": age_s > _LOOKED_FOR_S, "rows": rows}

    @get("/try/way/{prediction_id:uuid}", include_in_schema=False)
    async def on(request: Request[Any, Any, Any], prediction_id: UUID, since: float) -> Template:
        name = "parts/way.html" if request.headers.get("hx-request") else "way.html"
        return page(request, name, **await way(prediction_id, since))

    return [empty, send, on]
