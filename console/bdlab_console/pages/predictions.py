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

from bdlab.errors import InvalidInput
from bdlab.events import Position, Record
from bdlab.hops import Hop, parse
from bdlab.model.scorer import SHIPPED, Card, read_card
from bdlab.resources import models_dir
from bdlab.wiring.hops import trace
from bdlab_console.api import IN, Api, Reply, body_of, key_of
from bdlab_console.parts import Console
from bdlab_console.rendering import inert, page
from bdlab_console.sessions import presented

_KEEP_S, _LOOK_S, _WAIT_S = 3.0, 3.0, 60.0
_TRACES_SINCE, _MS = timedelta(hours=24), timedelta(milliseconds=1)


def routes(parts: Console) -> list[Any]:
    api, ask = Api(parts), parts.reader.ask

    def look(asked: str) -> dict[str, Any]:
        """Return what is known of what `asked` names: of several predictions most of the first."""
        records: dict[Position, Record] = {}
        begin = datetime.now(UTC) - _TRACES_SINCE
        found = trace(parts.session, threading.Event(), asked, since=begin, look_s=_LOOK_S, records=records)
        one = found[0]
        seen: dict[str, Any] = {"found": found, "one": one, "record": one.position and records.get(one.position)}
        with suppress(ValueError):  # a dead letter may have any id
            identity = UUID(one.id)
            seen["row"] = parts.reader.get(identity) if one.outcome in ("stored", "duplicate") else None
            seen |= {"rows": ask("feedback_of", id=one.id), "rescored": ask("rescored_of", id=one.id)}
        return seen | {"card": card(one.model), "hops": spans(one.hops)}

    def card(model: str) -> dict[str, Any]:
        name, _, version = model.partition("@")
        rows = ask("version", "models", name=name, version=version)
        found = msgspec.convert(rows[0]["card"], Card) if rows else read_card(models_dir() / SHIPPED)
        shown = {"Made": found.created_at} | {file.role: f"sha256 {file.sha256[:16]}…" for file in found.files.values()}
        shown |= (found.validation or {}).get("metrics") or {}
        return {each: inert(value) for each, value in shown.items()} if found.title == model else {}

    async def show(request: Any, asked: str, reply: Reply, key: str = "") -> Template:
        parse(asked)
        answer = await parts.shared.get(("seen", asked), lambda: look(asked), keep_s=_KEEP_S)
        # Its texts may be long, and few look for the same.
        asyncio.get_running_loop().call_later(_KEEP_S, parts.shared.forget, ("seen", asked))
        seen: dict[str, Any] = answer.found() | {"asked": asked, "contract": await parts.contract(), "reply": reply}
        seen |= {"prefix": IN, "key": key or str(uuid4()), "given": (reply.body or {}).get("id", "")}
        code = 404 if seen["one"].outcome in ("never seen", "pruned") else 200
        return page(request, "predictions.html", status_code=code, since=time.time(), **seen)

    @get("/predictions", include_in_schema=False)
    async def find(asked: str = "") -> Redirect:
        return Redirect(f"/predictions/{quote(asked.strip())}" if asked.strip() else "/live")

    @get("/predictions/{asked:path}", include_in_schema=False)
    async def one(request: Request[Any, Any, Any], asked: Path) -> Template:
        return await show(request, str(asked).strip("/"), Reply())

    @post("/predictions/{asked:path}", status_code=200, include_in_schema=False)
    async def say(request: Request[Any, Any, Any], asked: Path) -> Template:
        contract, said, prediction_id = await parts.contract(), await request.form(), str(asked).strip("/")
        truths = {name: value for name, value in body_of(contract.truths, said).items() if value is not None}
        if not truths:
            raise InvalidInput("the feedback gives no right answer", hint="Go back and give at least one.")
        body, key = {"prediction_id": prediction_id, **truths}, key_of(said)
        reply = await api.post("/feedback", body, key=key, credential=presented(request))
        return await show(request, prediction_id, reply, "" if reply.body else key)

    @get("/feedback/{prediction_id:uuid}", include_in_schema=False)
    async def stored(request: Request[Any, Any, Any], prediction_id: UUID, given: UUID, since: float) -> Template:
        asked = str(prediction_id)
        answer = await parts.shared.get(("feedback", asked), lambda: ask("feedback_of", id=asked), keep_s=0.25)
        waits: dict[str, Any] = {"given": str(given) if time.time() - since < _WAIT_S else "", "since": since}
        waits |= {"one": {"id": asked}, "contract": await parts.contract(), "rows": answer.value or []}
        return page(request, "parts/feedback.html", **waits)

    return [find, one, say, stored]


def spans(hops: tuple[Hop, ...]) -> list[tuple[Hop, tuple[float, float]]]:
    """Return each hop with its begin and end, in per cent of the whole way."""
    moments = [hop.at for hop in hops if hop.at]
    whole_ms = (max(moments) - min(moments)) / _MS if len(set(moments)) > 1 else 1.0
    shown = []
    for hop in hops:
        end_ms = (hop.at - min(moments)) / _MS if hop.at else 0.0
        begin_ms = max(0.0, end_ms - max(0.0, hop.ms or 0.0))
        shown.append((hop, (begin_ms / whole_ms * 100, end_ms / whole_ms * 100)))
    return shown
