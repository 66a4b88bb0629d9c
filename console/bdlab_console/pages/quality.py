"""How good the stored predictions are, and how far inputs have drifted: counted in the background, once for all."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from litestar import Request, get
from litestar.response import Template
from msgspec import to_builtins

from bdlab.postgres.quality import NUMBERS
from bdlab.wiring.quality import judge
from bdlab.wiring.tables import tables
from bdlab_console.asked import Asked, counted
from bdlab_console.parts import Console
from bdlab_console.rendering import page

_BUCKETS_S = (300, 3600, 6 * 3600, 86_400, 7 * 86_400, 28 * 86_400, 364 * 86_400)
_MOST_BUCKETS = 60


def routes(parts: Console) -> list[Any]:
    """Return the routes of the page."""

    @get("/quality")
    async def quality(request: Request[Any, Any, Any]) -> Template:
        wanted = Asked.of(request, last="7d")

        def question() -> dict[str, Any]:
            what = wanted.what(model=wanted.model or None, rescored=False)
            width_s = _width_s(*wanted.range())
            contract, found = parts.figures.contract(), judge(parts.figures, parts.settings, what, sliced=wanted.slices)
            buckets = parts.figures.over_time(contract, what, width_s)
            return {"versions": [_shown(to_builtins(one), contract, buckets) for one in found], "width_s": width_s}

        shown = await counted(parts, ("quality", wanted), question, keep_s=60.0)
        name = "parts/quality.html" if request.headers.get("hx-target") == "figures" else "quality.html"
        contract = await parts.contract()
        return page(request, name, asked=wanted, contract=contract, **shown)

    return [quality]


def _width_s(since: datetime, until: datetime) -> int:
    """Return how wide the buckets of a range are: the narrowest of which there are not too many."""
    length_s = (until - since) / timedelta(seconds=1)
    return next((width for width in _BUCKETS_S if length_s / width <= _MOST_BUCKETS), _BUCKETS_S[-1])


def _shown(version: dict[str, Any], contract: Any, buckets: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a version's figures as the template shows them: its tables, words for its drift, and its buckets."""
    number = next((at for at, field in enumerate(contract.truths) if field.name == version["judged"]), 0)
    measure = "mse" if contract.truths[number].kind in NUMBERS else "error_rate"
    names = {"at": "at", "rows": "rows", "known": f"n{number}", "error": f"{measure}{number}", "mean": "mean"}
    own = [{name: row[each] for name, each in names.items()} for row in buckets if row["model"] == version["model"]]
    shown = {"tables": [*tables("version", version)], "buckets": own, "x": [row["at"].timestamp() for row in own]}
    return version | shown | {"measure": {"mse": "MSE"}.get(measure, "error rate")}
