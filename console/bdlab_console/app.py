"""The console's ASGI application: its pages, what each answer carries, and its errors as pages."""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from litestar import Litestar, MediaType, Request, Response, get
from litestar.config.csrf import CSRFConfig
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.middleware import DefineMiddleware
from litestar.plugins.htmx import HTMXPlugin
from litestar.plugins.jinja import JinjaTemplateEngine
from litestar.response import Redirect, Template
from litestar.static_files import create_static_files_router
from litestar.template.config import TemplateConfig

from bdlab.errors import BdlabError, InvalidInput, ModelNotFound
from bdlab.hosts import DEFAULT_PORTS, AllowedHosts, parse
from bdlab.settings import ConsoleSettings
from bdlab_console import pages, rendering, sessions
from bdlab_console.feed import Channel, Render, events
from bdlab_console.provider import Provider
from bdlab_console.servers import EVERY_S, Servers

if TYPE_CHECKING:
    from bdlab_console.parts import Console

log = structlog.get_logger()
_HERE = Path(__file__).parent
_STATIC = _HERE / "static"
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_INSTEAD = {"HX-Retarget": "#main", "HX-Reselect": "#main > *", "HX-Reswap": "innerHTML show:#main:top"}


def make_app(parts: Console) -> Litestar:
    """Return the console over open `parts`. Raises SettingsInvalid for console.allowed_hosts or console.require_key."""
    http = parts.settings.of_console().http
    allowed = AllowedHosts(http.allowed_hosts, bound=http.host, section="console")
    provider = Provider(parts.settings, parts.session) if parts.settings.console.oidc_client_id else None
    secure = bool(http.tls_cert_file) or parts.settings.console.public_url.startswith("https:")
    # Cookies know no ports: those of two consoles on one machine have two names.
    own = f"-p{http.port}" if http.port not in (0, ConsoleSettings().port) else ""
    access = sessions.Access(parts.session, http, provider, secure=secure, cookie=f"bdlab-session{own}")
    cookie: dict[str, Any] = {"cookie_name": f"bdlab-csrf{own}", "cookie_secure": secure, "cookie_httponly": True}
    csrf = CSRFConfig(secret=secrets.token_hex(32), exclude="^/static/", **cookie)
    # Each address has the hash of its file, so that none of them ever changes.
    static = create_static_files_router("/static", [_STATIC], after_request=_kept)

    servers = Servers(parts)

    async def before_request(request: Request[Any, Any, Any]) -> Response[Any] | None:
        _check_host(request, allowed)
        instead = await access.admit(request)
        if (
            instead is None
            and not request.url.path.startswith("/static/")
            and not request.route_handler.opt.get("open")
        ):
            request.state.servers = await servers.state(wait_s=0.05)
        return instead

    async def state(render: Render) -> dict[str, str]:
        return {"state": render("parts/servers.html", servers=await servers.state())}

    async def warm_up() -> None:
        """Have what the first page would wait for: compiled templates, and the contract, for which it connects."""
        for name in engine.list_templates():
            engine.get_template(name)
        with suppress(BdlabError):  # it is asked again when somebody looks
            await parts.contract()

    app = Litestar(
        on_startup=[warm_up],
        route_handlers=[
            *pages.routes(parts),
            *sessions.routes(access),
            events("/state/events", Channel(state, every_s=EVERY_S)),
            _live,
            _home,
            static,
        ],
        template_config=TemplateConfig(directory=_HERE / "templates", engine=JinjaTemplateEngine),
        plugins=[HTMXPlugin()],
        middleware=[DefineMiddleware(sessions.Csrf, config=csrf), access.cookies.middleware],
        before_request=before_request,
        after_request=_with_headers,
        exception_handlers={BdlabError: _failed, HTTPException: _refused, Exception: _defect},
        state=State({"access": access}),
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    engine = app.template_engine.engine  # type: ignore[union-attr]
    engine.globals |= {"pages": rendering.PAGES, "asset": _asset, "version": version("bdlab")}
    shown = (rendering.inert, rendering.text, rendering.words, rendering.pretty, rendering.hexed, rendering.figure)
    engine.filters |= {each.__name__: each for each in shown}
    app.state.mask_texts = parts.settings.console.mask_texts
    return app


@get("/", include_in_schema=False, sync_to_thread=False)
def _home() -> Redirect:
    return Redirect("/try")


@get("/health/live", media_type=MediaType.JSON, opt={"open": True}, include_in_schema=False, sync_to_thread=False)
def _live() -> dict[str, str]:
    """Say that the process answers; nobody is asked."""
    return {"status": "alive"}


@cache
def _asset(name: str) -> str:
    """Return the address of a file below static, with its hash, so that a browser takes a new one at once."""
    return f"/static/{name}?{hashlib.sha256((_STATIC / name).read_bytes()).hexdigest()[:12]}"


def _with_headers(response: Response[Any]) -> Response[Any]:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _kept(response: Response[Any]) -> Response[Any]:
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return _with_headers(response)


def _check_host(request: Request[Any, Any, Any], allowed: AllowedHosts) -> None:
    host = parse(request.headers.get("host", ""))
    if host and host.port is None:
        host = host._replace(port=DEFAULT_PORTS.get(request.scope["scheme"]))
    if request.url.path != "/health/live" and host not in allowed:
        name = request.headers.get("host", "")[:100]
        raise HTTPException(
            f"The Host header is {name!r}, which the setting console.allowed_hosts does not name.", status_code=421
        )


def _page_of(request: Request[Any, Any, Any], status: int, title: str, what: str, hint: str = "") -> Template:
    context = rendering.common(request) | {"title": title, "what": what, "hint": hint}
    headers = _HEADERS
    if request.headers.get("hx-request"):  # a form's error takes the page's place, a renewal's leaves what is there
        headers = headers | (_INSTEAD if request.method == "POST" else {"HX-Reswap": "none ignoreTitle:true"})
    return Template("error.html", context=context, status_code=status, headers=headers)


def _failed(request: Request[Any, Any, Any], error: BdlabError) -> Response[Any]:
    status = 404 if isinstance(error, ModelNotFound) else 400 if isinstance(error, InvalidInput) else 503
    return _page_of(
        request, status, "It cannot be shown now" if status == 503 else "This cannot be done", error.message, error.hint
    )


def _refused(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    if error.status_code == 403 and "CSRF" in error.detail:
        why = f" ({error.detail})" if error.detail.startswith("CSRF: ") else ""
        what = f"The form is not of this console, or from before it was started again; nothing was changed{why}."
        return _page_of(request, 403, "Send it again", what, "Go back, reload the page, and send it again.")
    titles = {
        403: "It takes more rights",
        404: "There is no such page",
        405: "There is no such page",
        421: "Wrong host",
    }
    title, extra = titles.get(error.status_code, "Refused"), error.extra if isinstance(error.extra, dict) else {}
    return _page_of(request, error.status_code, title, str(error.detail or ""), str(extra.get("hint", "")))


def _defect(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    log.error("page failed", method=request.method, path=request.url.path, exc_info=error)
    return _page_of(request, 500, "A defect of bdlab", "The page failed; the console's log has the reason.")
