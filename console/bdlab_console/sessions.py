"""Who looks: the key or token in a cookie or a header, what it may be used for, and where somebody signs in."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast
from urllib.parse import quote, urlsplit

import msgspec
import structlog
from litestar import Request, Response, get, post
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, PermissionDeniedException
from litestar.middleware.csrf import CSRFMiddleware
from litestar.middleware.session.client_side import ClientSideSessionBackend, CookieBackendConfig
from litestar.plugins.htmx import ClientRedirect
from litestar.response import Redirect, Template
from litestar.types import Message, Receive, Scope, ScopeSession, Send

from bdlab.access import ApiKeys, required_scopes
from bdlab.errors import BdlabError
from bdlab.hosts import is_this_machine
from bdlab.serving.access import ADVICE, CALLER, GIVEN, Caller, Gate, RateLimit
from bdlab.serving.problems import Problem
from bdlab.settings import HttpSettings
from bdlab_console.provider import Provider
from bdlab_console.rendering import page

log = structlog.get_logger()
_SESSION_S = 12 * 3600
_WRONG_A_SECOND = 5.0  # are told and logged; nobody guesses 256 bits, but anybody could fill a log
_LOADED = "bdlab.loaded"
_OWN_PATH = re.compile(r"/(?!/)[!-\[\]-~]*")  # no browser reads a host in it: no backslash, no control character
_CLAIMED = re.compile(r"bdlab_([a-z][a-z0-9-]{0,39})_")
_CSRF_FORM = re.compile(r"[0-9a-f]{128}")


class _Cookies(ClientSideSessionBackend):
    """A session ends 12 hours after its sign-in. Its cookie is sent only when it is another one than the request's: an
    answer that is under way while somebody signs out does not bring it back."""

    async def load_from_connection(self, connection: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        with suppress(Exception):  # what is not a cookie of this process, however it was made up, is no session
            found = await super().load_from_connection(connection)
        found = found if found.get("until", 0) > time.time() else {}
        connection.scope[_LOADED] = dict(found)
        return found

    async def store_in_message(self, scope_session: ScopeSession, message: Message, connection: Any) -> None:
        if not (loaded := connection.scope.get(_LOADED)) or scope_session != loaded:
            await super().store_in_message(scope_session, message, connection)


class CookieConfig(CookieBackendConfig):
    _backend_class = _Cookies


class Csrf(CSRFMiddleware):
    """Also refuses what a page of another origin sends, and replaces the cookie of a process before this one."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            request: Request[Any, Any, Any] = Request(scope)
            origin, own = request.headers.get("origin"), request.headers.get("host")
            if origin and request.method not in self.config.safe_methods and origin.partition("://")[2] != own:
                raise PermissionDeniedException(f"CSRF: it was sent by a page of {origin[:100]!r} to {own!r}")
            cookie = request.cookies.get(self.config.cookie_name, "")
            if not _CSRF_FORM.fullmatch(cookie) or self._decode_csrf_token(cookie) is None:
                request.cookies.pop(self.config.cookie_name, None)
        await super().__call__(scope, receive, send)

    def _csrf_tokens_match(self, request_csrf_token: Any, cookie_csrf_token: str) -> bool:
        formed = isinstance(request_csrf_token, str) and _CSRF_FORM.fullmatch(request_csrf_token)
        return bool(formed) and super()._csrf_tokens_match(request_csrf_token, cookie_csrf_token)


def checked(http: HttpSettings) -> HttpSettings:
    """Return the console's settings with the scopes that need a sign-in. Raises SettingsInvalid."""
    if not http.require_key:
        need = "none" if is_this_machine(http.host) else "read,replay,promote"
        http = msgspec.structs.replace(http, require_key=need)
    required_scopes(http, "console")
    return http


class Access:
    """Decides on each request. The cookie holds the credential itself, encrypted with a key of this process (AES-GCM):
    each request looks it up again, so that a revoked key ends the session, and `serve` gets it for Try and feedback."""

    def __init__(
        self, keys: ApiKeys, http: HttpSettings, provider: Provider | None, *, secure: bool, cookie: str
    ) -> None:
        """Raises SettingsInvalid for console.require_key or an issuer that is not valid."""
        self.gate = Gate(keys, checked(http), lambda _reason: None, section="console")
        self.provider, self.wrong = provider, RateLimit(_WRONG_A_SECOND)
        form: dict[str, Any] = {"key": cookie, "max_age": _SESSION_S, "secure": secure, "samesite": "lax"}
        self.cookies = CookieConfig(secret=os.urandom(32), exclude="^/static/", **form)

    async def admit(self, request: Request[Any, Any, Any]) -> Response[Any] | None:
        """Note who asks. Returns where to sign in, or raises HTTPException for who may not do it."""
        opt = request.route_handler.opt
        if request.url.path == "/health/live" or request.url.path.startswith("/static/"):
            return None
        if given := presented(request):
            scope_of(request)[GIVEN] = [given.encode()]
        try:
            if opt.get("open"):  # says who is signed in, if somebody is
                with suppress(Problem):
                    await self.gate.admit(request.scope, ("read", False))
                return None
            for scope in dict.fromkeys(("read", str(opt.get("scope", "read")))):
                await self.gate.admit(request.scope, self.gate.need(scope))
        except Problem as problem:
            return self._refused(request, problem)
        return None

    def _refused(self, request: Request[Any, Any, Any], problem: Problem) -> Response[Any]:
        status = problem.details.status or 0
        if status != 401 or _in_header(request):
            scopes = ",".join(dict.fromkeys(("read", request.route_handler.opt.get("scope", "read"))))
            made = f"Sign in with a key that may: `bdlab api-key create NAME --scope {scopes}` makes one."
            hint = made if status == 403 else "It is the one of a header, which a proxy in front may send."
            raise HTTPException(_why(problem), status_code=status, extra={"hint": hint}) from problem
        request.clear_session()
        if page_url := request.headers.get("hx-current-url"):  # a piece of a page: the browser leaves the page
            return ClientRedirect(f"/sign-in?then={quote(urlsplit(page_url).path)}")
        then = request.url.path + f"?{request.url.query}" * bool(request.url.query) if request.method == "GET" else "/"
        return Redirect(f"/sign-in?then={quote(then)}", status_code=303)

    def allows(self, request: Request[Any, Any, Any], scope: str) -> bool:
        """Return whether who asks has the scope, or needs none for it."""
        found: Caller | None = scope_of(request).get(CALLER)
        return not self.gate.need(scope)[1] or bool(found and scope in found.scopes)

    async def still(self, request: Request[Any, Any, Any]) -> bool:
        """Return whether who was admitted would be again, as far as that can be told now."""
        try:
            await self.gate.admit(request.scope, self.gate.need("read"))
        except Problem as problem:
            return problem.details.status not in (401, 403)
        return float(request.session.get("until", "inf")) > time.time()

    async def sign_in(self, request: Request[Any, Any, Any], credential: str) -> tuple[int, str]:
        """Begin a session. Returns status and reason of a refusal; 0 if there is none."""
        scope_of(request)[GIVEN] = [credential.encode()]
        try:
            await self.gate.admit(request.scope, self.gate.need("read"))
        except Problem as problem:
            if self.wrong.take(1):
                return 429, "Too many wrong keys were sent. Try again in a second."
            claimed = _CLAIMED.match(credential)
            log.warning("sign-in refused", key=claimed[1] if claimed else "none", reason=problem.details.type)
            return problem.details.status or 401, _why(problem)
        request.set_session({"credential": credential, "until": time.time() + _SESSION_S})
        log.info("signed in", key=caller(request))
        return 0, ""


def _why(problem: Problem) -> str:
    return (problem.details.detail or "").replace(ADVICE, "").strip()


def _in_header(request: Request[Any, Any, Any]) -> str:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return request.headers.get("x-api-key", "") or (token.strip() if kind.lower() == "bearer" else "")


def presented(request: Request[Any, Any, Any]) -> str:
    """Return the key or token that a request presents in a header or its cookie; empty if none."""
    return _in_header(request) or str(request.session.get("credential", ""))


def caller(request: Request[Any, Any, Any]) -> str:
    """Return who is signed in, for the audit; `nobody` on a console that asks for no sign-in."""
    found: Caller | None = scope_of(request).get(CALLER)
    return found.name if found else "nobody"


def scope_of(request: Request[Any, Any, Any]) -> dict[str, Any]:
    return cast("dict[str, Any]", request.scope)


def routes(access: Access) -> list[Any]:
    """Return the routes of signing in and out."""

    def form_page(request: Request[Any, Any, Any], then: str, status: int = 200, why: str = "") -> Template:
        return page(request, "sign-in.html", status_code=status, then=then, why=why, provider=access.provider)

    @get("/sign-in", opt={"open": True}, include_in_schema=False)
    async def form(request: Request[Any, Any, Any], then: str = "/") -> Template:
        return form_page(request, then)

    @post("/sign-in", opt={"open": True}, include_in_schema=False)
    async def sign_in(request: Request[Any, Any, Any]) -> Response[Any]:
        data: Mapping[str, Any] = await request.form()
        then = str(data.get("then", ""))
        status, why = await access.sign_in(request, str(data.get("credential", "")).strip())
        return form_page(request, then, status, why) if status else _sent_on(then)

    @post("/sign-out", opt={"open": True}, include_in_schema=False)
    async def sign_out(request: Request[Any, Any, Any]) -> Redirect:
        request.clear_session()
        return Redirect("/sign-in", status_code=303)

    return [form, sign_in, sign_out, *(_by_provider(access, access.provider, form_page) if access.provider else [])]


def _sent_on(then: str) -> Redirect:
    return Redirect(then if _OWN_PATH.fullmatch(then) else "/", status_code=303)


def _by_provider(access: Access, provider: Provider, form_page: Callable[..., Template]) -> list[Any]:
    @get("/sign-in/provider", opt={"open": True}, include_in_schema=False)
    async def leave(request: Request[Any, Any, Any], then: str = "/") -> Response[Any]:
        address, kept = await provider.begin(str(request.base_url))
        request.set_session({**kept, "then": then, "until": time.time() + 600})
        return Redirect(address, status_code=303)

    @get("/sign-in/back", opt={"open": True}, include_in_schema=False)
    async def back(request: Request[Any, Any, Any]) -> Response[Any]:
        kept = dict(request.session)
        request.clear_session()
        then, status, why = str(kept.get("then", "/")), 401, "The identity provider gives no token that can be checked."
        try:
            for token in await provider.tokens(request.query_params, kept):
                status, why = await access.sign_in(request, token)
                if not status:
                    break
        except BdlabError as error:
            log.warning("sign-in refused", key="none", reason=error.message)
            why = error.message
        return form_page(request, then, status, why) if status else _sent_on(then)

    return [leave, back]
