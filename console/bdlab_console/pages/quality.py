"""How good the stored predictions are, and how far inputs have drifted: counted in the background, once for all."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self, get_args

from litestar import Request, get
from litestar.response import Template
from msgspec import to_builtins

from bdlab.errors import InvalidInput
from bdlab.postgres.quality import NUMBERS, asked
from bdlab.selection import Source
from bdlab.values import duration, moment
from bdlab.wiring.quality import judge
from bdlab.wiring.tables import tables
from bdlab_console.parts import Console
from bdlab_console.rendering import page

_LASTS = ("24h", "7d", "30d")
_BUCKETS_S = (300, 3600, 6 * 3600, 86_400, 7 * 86_400, 28 * 86_400, 364 * 86_400)
_MOST_BUCKETS = 60


class Asked(NamedTuple):
    """Which predictions a page is about, as its address says: `last` or the moments, source, model, slices."""

    last: str
    since: str
    until: str
    source: str
    model: str
    slices: tuple[str, ...]

    @classmethod
    def of(cls, request: Request[Any, Any, Any], last: str) -> Self:
        """Read the parameters. Raises InvalidInput."""
        query = request.query_params
        given = {name: query.get(name, "").strip()[:200] for name in ("last", "since", "until", "source", "model")}
        slices = tuple(one for one in dict.fromkeys(query.getall("slice", [])) if one)[:5]
        if given["last"] != "custom":
            given |= {"since": "", "until": "", "last": given["last"] or last}
        found = cls(**given | {"source": given["source"] or "real"}, slices=slices)
        if found.source not in get_args(Source):
            raise InvalidInput(f"source={found.source}: it is one of {', '.join(get_args(Source))}")
        found.range()
        return found

    def range(self) -> tuple[datetime, datetime]:
        """Return the moments from and before which is asked for, as of now. Raises InvalidInput."""
        now = datetime.now(UTC)
        try:
            if self.last != "custom":
                return now - duration(self.last), now
            since, until = moment(self.since), moment(self.until) if self.until else now
        except (ValueError, OverflowError) as error:
            hint = "Give ISO 8601 moments in UTC, such as 2026-01-31 or 2026-01-31T12:00."
            raise InvalidInput(f"No range of time: {error}", hint=hint) from error
        if since >= until:
            raise InvalidInput(
                f"The range of time is empty: {since:%Y-%m-%d %H:%M} is not before {until:%Y-%m-%d %H:%M}"
            )
        return since, until

    def what(self, **more: Any) -> dict[str, Any]:
        """Return what the queries of quality are asked with."""
        return asked(*self.range(), self.source, **more)


async def counted(parts: Console, key: Hashable, question: Callable[[], Any], *, keep_s: float) -> dict[str, Any]:
    """Return what `parts/counted.html` shows of a question that may take a minute: the newest answer, if there is one,
    and since when another is being counted."""
    answer, counting = await parts.counted.begin(key, question, keep_s=keep_s)
    return {"found": answer.value, "at": answer.at, "error": answer.error, "counting": counting}


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
    measure = "MSE" if contract.truths[number].kind in NUMBERS else "error rate"
    names = {"at": "at", "rows": "rows", "known": f"n{number}", "error": f"error{number}", "mean": "mean"}
    own = [{name: row.get(each) for name, each in names.items()} for row in buckets if row["model"] == version["model"]]
    x = [row["at"].timestamp() for row in buckets if row["model"] == version["model"]]
    return version | {"tables": [*tables("version", version)], "buckets": own, "x": x, "measure": measure}
