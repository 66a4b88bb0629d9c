"""Versions of the model: their cards, how two compare, and which one serves."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from litestar import Request, get, post
from litestar.response import Redirect, Template
from msgspec import to_builtins

from bdlab.contract import review_contract
from bdlab.contract.schema import parse_contract
from bdlab.errors import BdlabError, InvalidInput
from bdlab.postgres import audit
from bdlab.postgres.session import Session
from bdlab.wiring.models import former, promote_version, version_row
from bdlab.wiring.quality import compare, serving
from bdlab.wiring.tables import document_of, tables
from bdlab_console.asked import Asked, counted
from bdlab_console.parts import Console
from bdlab_console.rendering import page
from bdlab_console.sessions import caller

_KEPT_S = 3.0


def routes(parts: Console) -> list[Any]:
    """Return the routes of the versions; `promote` changes which of them serves."""

    def known() -> dict[str, Any]:
        promotions, back = parts.reader.ask("promotions", "models"), ""
        with suppress(BdlabError):
            back = former([each["model"] for each in promotions])
        found = {"versions": parts.reader.ask("versions", "models"), "serving": serving(parts.reader)}
        return found | {"promotions": promotions[::-1], "back": back}

    async def registry() -> dict[str, Any]:
        found, address = await parts.shared.get("models", known, keep_s=_KEPT_S), parts.settings.model.registry
        return found.found() | {"registry": address, "may": bool(address) and parts.may("promote")}

    async def compared(request: Request[Any, Any, Any], a: str, b: str) -> dict[str, Any]:
        """Return the comparison as the template shows it, as far as it is known."""
        asked = Asked.of(request, last="30d")
        shown = {"a": a, "b": b, "asked": asked, "is_part": request.headers.get("hx-target") == "figures"}

        def question() -> dict[str, Any]:
            found = compare(parts.figures, (a, b), asked.what(), sliced=asked.slices, worst=5)
            return {**to_builtins(found), "tables": [*tables("comparison", document_of(found))]}

        return shown | (await counted(parts, ("compare", a, b, asked), question, keep_s=30.0) if b and a != b else {})

    @get("/models")
    async def models(request: Request[Any, Any, Any]) -> Template:
        return page(request, "models.html", **await registry())

    @get("/models/compare")
    async def comparison(request: Request[Any, Any, Any], a: str = "", b: str = "") -> Template:
        found, contract = await registry(), await parts.contract()
        shown = await compared(request, a or found["serving"], b)
        name = "parts/comparison.html" if shown["is_part"] else "compare.html"
        return page(request, name, contract=contract, **found, **shown)

    @get("/models/{name:str}/{version:str}")
    async def model(request: Request[Any, Any, Any], name: str, version: str) -> Template:
        title = f"{name}@{version}"
        row = (await parts.shared.get(title, partial(version_row, parts.reader.ask, title), keep_s=_KEPT_S)).found()
        document = row["card"].get("contract")
        contract = parse_contract(document) if document else review_contract()
        return page(request, "model.html", title=title, row=row, contract=contract, **await registry())

    @get("/models/{name:str}/{version:str}/promote", opt={"scope": "promote"})
    async def ask(request: Request[Any, Any, Any], name: str, version: str, why: str = "") -> Template:
        title, found = f"{name}@{version}", await registry()
        shown = await compared(request, found["serving"], title)
        template = "parts/comparison.html" if shown["is_part"] else "promote.html"
        return page(request, template, title=title, why=why, **found, **shown)

    @post("/models/{name:str}/{version:str}/promote", opt={"scope": "promote"})
    async def promote(request: Request[Any, Any, Any], name: str, version: str) -> Redirect:
        form, title, actor = await request.form(), f"{name}@{version}", caller(request)
        why, seen = str(form.get("why", "")).strip(), str(form.get("serving", ""))
        if not why:
            raise InvalidInput("A reason is missing", hint="Say in a few words why: others read it in the history.")

        def change() -> None:
            name = "bdlab console"
            with parts.as_service("promote") as vault, Session(vault, application_name=name) as tables:
                if (now := serving(parts.reader)) != seen:
                    raise InvalidInput(f"Meanwhile {now} serves, and no longer {seen}: nothing was changed")
                begun = audit.begin(tables, actor, "promote", title, {"why": why, "before": seen})
                try:
                    done = promote_version(tables, parts.settings, title, why, by=f"{actor} (console)")
                except BdlabError as error:
                    audit.end(tables, begun, "failed", {"error": error.message})
                    raise
                audit.end(tables, begun, done or "unchanged")

        await parts.shared.run(change)
        parts.shared.forget("models")
        return Redirect("/models", status_code=303)

    return [models, comparison, model, ask, promote]
