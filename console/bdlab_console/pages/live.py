"""The newest predictions as they are stored, and how many, how fast, and with what outcomes."""

from __future__ import annotations

from itertools import islice
from typing import Any
from urllib.parse import urlencode

from litestar import Request, get
from litestar.response import Stream, Template

from bdlab_console.newest import Feed, Wanted
from bdlab_console.parts import Console
from bdlab_console.rendering import hides, page

_FIRST = 50


def routes(parts: Console) -> list[Any]:
    """Return the routes of `/live`."""
    feed = Feed(parts)

    def wanted_by(request: Request[Any, Any, Any]) -> Wanted:
        asked = {name: request.query_params.get(name, "").strip()[:200] for name in ("model", "outcome", "text")}
        return Wanted(**asked, hide=hides(request))

    @get("/live", include_in_schema=False)
    async def live(request: Request[Any, Any, Any]) -> Template:
        wanted = wanted_by(request)
        channel = await feed.channel(wanted, request.app)
        asked = {name: value for name, value in request.query_params.items() if name != "after" and value}
        found = [*islice(filter(wanted.has, feed.rows), _FIRST)]
        models = sorted({row["model"] for row in feed.rows} | ({wanted.model} - {""}))
        shown: dict[str, Any] = {
            "models": models,
            "query": urlencode(asked) + "&" * bool(asked),
            "shown": "texts" in asked,
        }
        return page(request, "live.html", feed=feed, wanted=wanted, newest=found, after=channel.last, **shown)

    @get("/live/events", include_in_schema=False)
    async def events(request: Request[Any, Any, Any]) -> Stream:
        channel = await feed.channel(wanted_by(request), request.app)
        return await channel.events(request)

    return [live, events]
