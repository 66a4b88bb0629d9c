"""Audit: who changed what in the console, when, and what became of it."""

from __future__ import annotations

from typing import Any

from litestar import Request, get
from litestar.response import Template

from bdlab_console.parts import Console
from bdlab_console.rendering import page

_PAGE = 50


def routes(parts: Console) -> list[Any]:
    @get("/audit", include_in_schema=False)
    async def entries(
        request: Request[Any, Any, Any], actor: str = "", action: str = "", before: int | None = None
    ) -> Template:
        chosen = {
            name: value.strip().replace("\0", "") or None for name, value in (("actor", actor), ("action", action))
        }
        asked: dict[str, Any] = {**chosen, "before": before, "limit": _PAGE + 1}
        question = lambda: parts.reader.ask("page", "audit", **asked)  # noqa: E731
        found = await parts.shared.get(("audit", *asked.values()), question, keep_s=1.0)
        rows = found.found()
        more = rows[_PAGE - 1]["id"] if len(rows) > _PAGE else None
        return page(request, "audit.html", rows=rows[:_PAGE], more=more, away=[found], asked=chosen, before=before)

    return [entries]
