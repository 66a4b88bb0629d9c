"""A prediction: its trace, event, row, model, re-scores, and feedback; and where one is looked for."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import msgspec
from litestar import Request, get, post
from litestar.response import Redirect, Template

from bdlab import hops
from bdlab.errors import InvalidInput
from bdlab.events import Position, Record
from bdlab.model.scorer import SHIPPED, Card, read_card
from bdlab.resources import models_dir
from bdlab.wiring.hops import trace
from bdlab_console.api import IN, Api, Reply, body_of, key_of
from bdlab_console.parts import Console
from bdlab_console.rendering import page
from bdlab_console.sessions import presented

_KEEP_S, _LOOK_S, _WAIT_S = 3.0, 3.0, 60.0
_TRACES_SINCE, _MS = timedelta(hours=24), timedelta(milliseconds=1)


def routes(parts: Console) -> list[Any]:
    api, stop, ask = Api(parts), threading.Event(), parts.reader.ask

    def look(asked: str) -> dict[str, Any]:
        """Return what is known of what `asked` names: of several predictions most of the first."""
        records: dict[Position, Record] = {}
        since = datetime.now(UTC) - _TRACES_SINCE
        found = trace(parts.session, stop, asked, since=since, look_s=_LOOK_S, records=records)
        one = found[0]
        seen: dict[str, Any] = {"found": found, "one": one, "record": one.position and records.get(one.position)}
        with suppress(ValueError):  # a dead letter may have any id
            identity = UUID(one.id)
            stored = one.outcome in ("stored", "duplicate")
            seen |= {"row": parts.reader.get(identity) if stored else None, "rows": feedback(one.id)}
            seen["rescored"] = ask("rescored_of", id=one.id)
        return seen | {"card": card(one.model), "spans": spans(one.hops)}

    def card(model: str) -> Card | None:
        name, _, version = model.partition("@")
        rows = ask("version", "models", name=name, version=version)
        found = msgspec.convert(rows[0]["card"], Card) if rows else read_card(models_dir() / SHIPPED)
        return found if found.title == model else None

    def feedback(prediction_id: str) -> list[dict[str, Any]]:
        return ask("feedback_of", id=prediction_id)

    async def show(request: Any, asked: str, reply: Reply, key: str = "") -> Template:
        hops.parse(asked)
        answer = await parts.shared.get(("seen", asked), lambda: look(asked), keep_s=_KEEP_S)
        # Its texts may be long, and few look for the same.
        asyncio.get_running_loop().call_later(_KEEP_S, parts.shared.forget, ("seen", asked))
        seen, contract = answer.found(), await parts.contract()
        known = seen["one"].outcome not in ("never seen", "pruned")
        more = {"asked": asked, "contract": contract, "reply": reply, "prefix": IN, "key": key or str(uuid4())}
        waiting = {"given": (reply.body or {}).get("id", ""), "since": time.time()}
        return page(request, "predictions.html", status_code=200 if known else 404, **seen | more | waiting)

    @get("/predictions", include_in_schema=False)
    async def find(asked: str = "") -> Redirect:
        return Redirect(f"/predictions/{quote(asked.strip())}" if asked.strip() else "/live")

    @get("/predictions/{asked:path}", include_in_schema=False)
    async def one(request: Request[Any, Any, Any], asked: Path) -> Template:
        return await show(request, str(asked).strip("/"), Reply())

    @post("/predictions/{asked:path}", status_code=200, include_in_schema=False)
    async def say(request: Request[Any, Any, Any], asked: Path) -> Template:
        contract, given, prediction_id = await parts.contract(), await request.form(), str(asked).strip("/")
        truths = {name: value for name, value in body_of(contract.truths, given).items() if value is not None}
        if not truths:
            raise InvalidInput("the feedback gives no right answer", hint="Go back and give at least one.")
        body, key = {"prediction_id": prediction_id, **truths}, key_of(given)
        reply = await api.post("/feedback", body, key=key, credential=presented(request))
        return await show(request, prediction_id, reply, "" if reply.body else key)

    @get("/feedback/{prediction_id:uuid}", include_in_schema=False)
    async def given(request: Request[Any, Any, Any], prediction_id: UUID, given: UUID, since: float) -> Template:
        asked = str(prediction_id)
        answer = await parts.shared.get(("feedback", asked), lambda: feedback(asked), keep_s=0.25)
        waits: dict[str, Any] = {"given": str(given) if time.time() - since < _WAIT_S else "", "since": since}
        waits |= {"one": {"id": asked}, "contract": await parts.contract(), "rows": answer.value or []}
        return page(request, "parts/feedback.html", **waits)

    return [find, one, say, given]


def spans(found: tuple[hops.Hop, ...]) -> list[tuple[float, float]]:
    """Return from where to where each hop goes, in per cent of the whole way."""
    moments = [hop.at for hop in found if hop.at]
    whole_ms = (max(moments) - min(moments)) / _MS if len(moments) > 1 else 1.0
    shown = []
    for hop in found:
        end_ms = (hop.at - min(moments)) / _MS if hop.at else 0.0
        begin_ms = max(0.0, end_ms - max(0.0, hop.ms or 0.0))
        shown.append((begin_ms / whole_ms * 100, end_ms / whole_ms * 100))
    return shown
