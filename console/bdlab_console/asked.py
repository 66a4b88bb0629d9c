"""Figures of which predictions are wanted, as the address of a page says it, and counted in the background."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self, get_args

from litestar import Request

from bdlab.errors import InvalidInput
from bdlab.postgres.quality import asked
from bdlab.retry import AWAY
from bdlab.selection import Source
from bdlab.values import duration, moment
from bdlab_console.parts import Console


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
            raise InvalidInput(f"The range of time is empty: {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M}")
        return since, until

    def what(self, **more: Any) -> dict[str, Any]:
        """Return what the queries of quality are asked with."""
        return asked(*self.range(), self.source, **more)


async def counted(parts: Console, key: Hashable, question: Callable[[], Any], *, keep_s: float) -> dict[str, Any]:
    """Return what the macro `counted` shows of a question that may take a minute: the newest answer, if there is one,
    and since when another is being counted."""
    answer, counting = await parts.counted.begin(key, question, keep_s=keep_s)
    kind = "unhealthy" if isinstance(answer.error, AWAY) else "note"
    return {
        "found": answer.value,
        "at": answer.at,
        "error": answer.error and (answer.error, kind),
        "counting": counting,
    }
