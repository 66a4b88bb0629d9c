"""Who looks: the key or token in a cookie or a header, what it may be used for, and where somebody signs in."""

from __future__ import annotations

import os
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
from litestar import Request, Response, get, post
from litestar.exceptions import HTTPException
from litestar.middleware.session.client_side import CookieBackendConfig
from litestar.plugins.htmx import ClientRedirect
from litestar.response import Redirect, Template

from bdlab.access import ApiKeys
from bdlab.hosts import is_this_machine
from bdlab.serving.access import CALLER, GIVEN, Caller, Gate
from bdlab.serving.problems import Problem
from bdlab.settings import HttpSettings
from bdlab_console.rendering import page

_SESSION_S = 12 * 3600


class Access:
    """Decides on each request. The cookie holds the credential itself, encrypted with a key of this process (AES-GCM):
    each request looks it up again, so that a revoked key ends the session, and `serve` gets it for Try and feedback."""

    def __init__(self, keys: ApiKeys, http: HttpSettings) -> None:
        """Raises SettingsInvalid for console.require_key or an issuer that is not valid."""
        if not http.require_key:
            need = "none" if is_this_machine(http.host) else "read,replay,promote"
            http = msgspec.structs.replace(http, require_key=need)
        self.gate = Gate(keys, http, lambda _reason: None)
        self.cookies = CookieBackendConfig(
            secret=os.urandom(32),
            key="bdlab-session",
            max_age=_SESSION_S,
            secure=bool(http.tls_cert_file),
            samesite="lax",
        )

    async def admit(self, request: Request[Any, Any, Any]) -> Response[Any] | None:
        """Note who asks. Returns where to sign in, or raises HTTPException for who may not do it."""
        opt = request.route_handler.opt
        if opt.get("open") or request.url.path.startswith("/static/"):
            return None
        given = presented(request)
        if given:
            scope_of(request)[GIVEN] = [given.encode()]
        scope = opt.get("scope", "read")
        try:
            await self.gate.admit(request.scope, self.gate.need(scope))
        except Problem as problem:
            if problem.details.status == 401:
                request.clear_session()
                if page_url := request.headers.get("hx-current-url"):  # a piece of a page: the browser leaves the page
                    return ClientRedirect(f"/sign-in?then={urlsplit(page_url).path}")
                then = request.url.path if request.method == "GET" else "/"
                return Redirect(f"/sign-in?then={then}")
            raise HTTPException(problem.details.detail, status_code=problem.details.status) from problem
        return None

    async def still(self, request: Request[Any, Any, Any]) -> bool:
        """Return whether who was admitted would be again, as far as that can be told now."""
        try:
            await self.gate.admit(request.scope, self.gate.need("read"))
        except Problem as problem:
            return problem.details.status not in (401, 403)
        return True

    async def check(self, request: Request[Any, Any, Any], credential: str) -> str:
        """Return why a credential is refused; empty if it is good."""
        scope_of(request)[GIVEN] = [credential.encode()]
        try:
            await self.gate.admit(request.scope, ("read", True))
        except Problem as problem:
            return problem.details.detail
        return ""


def presented(request: Request[Any, Any, Any]) -> str:
    """Return the key or token that a request presents in a header or its cookie; empty if none."""
    header = request.headers.get("x-api-key", "")
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return header or (token.strip() if kind.lower() == "bearer" else "") or request.session.get("credential", "")


def caller(request: Request[Any, Any, Any]) -> str:
    """Return who is signed in, for the audit; `nobody` on a console that asks for no sign-in."""
    found: Caller | None = scope_of(request).get(CALLER)
    return found.name if found else "nobody"


def scope_of(request: Request[Any, Any, Any]) -> dict[str, Any]:
    return cast("dict[str, Any]", request.scope)


def routes(access: Access) -> list[Any]:
    """Return the routes of signing in and out."""

    @get("/sign-in", opt={"open": True}, include_in_schema=False)
    async def form(request: Request[Any, Any, Any], then: str = "/") -> Template:
        return page(request, "sign-in.html", then=then, why="")

    @post("/sign-in", opt={"open": True}, include_in_schema=False)
    async def sign_in(request: Request[Any, Any, Any]) -> Response[Any]:
        data = await request.form()
        credential, then = str(data.get("credential", "")).strip(), str(data.get("then", "/"))
        if why := await access.check(request, credential):
            return page(request, "sign-in.html", then=then, why=why, status_code=401)
        request.set_session({"credential": credential})
        parts = urlsplit(then)
        own = then.startswith("/") and not then.startswith("//") and not parts.netloc and "\\" not in then
        return Redirect(then if own else "/", status_code=303)

    @post("/sign-out", opt={"open": True}, include_in_schema=False)
    async def sign_out(request: Request[Any, Any, Any]) -> Redirect:
        request.clear_session()
        return Redirect("/sign-in", status_code=303)

    return [form, sign_in, sign_out]
