"""The OpenAPI document, as far as the handlers' signatures do not give it, and the page that shows it."""

import asyncio
import gzip
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
from litestar import MediaType, Request, Response, get
from litestar.openapi import OpenAPIConfig, ResponseSpec, spec
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.types import Receive

from bdlab import __version__
from bdlab.contract import Contract
from bdlab.selection import schemas
from bdlab.serving.access import NEED, Need
from bdlab.serving.problems import PROBLEM_JSON, ProblemDetails
from bdlab.serving.requests import MAX_KEY_LENGTH, QUERY, SOURCE_HEADER, SOURCES, NoQuery

_TEXTS: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("routes.toml").read_text("utf-8"))
_ASSETS = Path(__file__).with_name("swagger_ui")
DIRECT = "direct"  # the key of a route's `opt` with its direct endpoint
Endpoint = Callable[[Any, Receive], Awaitable[bytes]]
"""Takes the scope and `receive` of a request; returns the JSON of its 200. Raises Problem or BdlabError."""
_PROBLEM = spec.Reference(ref=f"#/components/schemas/{ProblemDetails.__name__}")
_RETRY_AFTER = spec.OpenAPIHeader(
    schema=spec.Schema(type=spec.OpenAPIType.INTEGER, minimum=1), description="Seconds to wait; only with a problem."
)
_BOUNDS: dict[str, Any] = {
    "Idempotency-Key": {"minLength": 1, "maxLength": MAX_KEY_LENGTH},
    SOURCE_HEADER: {"enum": SOURCES},
}
_SCHEMES = {name: spec.SecurityScheme(**one) for name, one in _TEXTS["schemes"].items()}


def describe(
    path: str,
    *,
    body: Any = None,
    query: type[msgspec.Struct] = NoQuery,
    state: type[msgspec.Struct] | None = None,
    need: Need | None = None,
    direct: Endpoint | None = None,
    contract: Contract | None = None,
) -> dict[str, Any]:
    """Return the keyword arguments of a route with the parameters in `query`, and its documentation from routes.toml. A
    status route has its answer, `state`, also with 503. `need` is the key that it needs, and `direct` answers without
    the framework. `contract` has the words of a route that publishes."""
    texts = dict(_TEXTS[path])
    # A JSON schema goes into the document as it is.
    parameters: list[Any] = [spec.Parameter(**one) for one in texts.pop("parameters", ())]
    for name, about in _TEXTS["headers"].items() if contract else ():
        shape: Any = {"type": "string", **_BOUNDS.get(name, {})}
        parameters.append(spec.Parameter(name, "header", shape, description=_worded(about, contract)))
    for name, shape in schemas(query).items():
        parameters.append(spec.Parameter(name, "query", shape, description=shape.get("description")))
    link = texts.pop("link", "")
    own = texts.pop("problems", {}) | (_TEXTS["predicting"] if contract else {})
    responses = {
        int(status): _response(ProblemDetails, _worded(about, contract), PROBLEM_JSON) for status, about in own.items()
    }
    if state:
        responses[503] = _response(state, texts.pop("unavailable"))

    @dataclass
    class Described(spec.Operation):
        def __post_init__(self) -> None:
            self.parameters = parameters or None
            if body:
                content = {"application/json": spec.OpenAPIMediaType(schema=body)}
                self.request_body = spec.RequestBody(content=content, required=True)
            self.responses = _with_problems(self.responses or {}, _TEXTS["by_key"] if need else {})
            if link:
                text = spec.OpenAPIHeader(schema=spec.Schema(type=spec.OpenAPIType.STRING), description=link)
                cast("Any", self.responses["200"]).headers = {"Link": text}
            if need:
                self.security = [*([] if need[1] else [{}]), *({name: [need[0]]} for name in _SCHEMES)]

    return {
        "path": path,
        "responses": responses,
        "operation_class": Described,
        "opt": {QUERY: query, DIRECT: direct, NEED: need},
        **{key: _worded(text, contract) if isinstance(text, str) else text for key, text in texts.items()},
    }


def _worded(text: str, contract: Contract | None) -> str:
    return text.format(noun=contract.noun, one=contract.one, plural=contract.plural) if contract else text


def _with_problems(responses: Mapping[str, Any], more: dict[str, str]) -> dict[str, Any]:
    """Return `responses`, `more` and those of every route, without the 400 that the framework adds."""
    found = {status: answer for status, answer in responses.items() if status != "400"}
    for status, description in (_TEXTS["anywhere"] | more).items():
        answer = found.setdefault(status, spec.OpenAPIResponse(description=description, content={}))
        answer.content.setdefault(PROBLEM_JSON, spec.OpenAPIMediaType(schema=_PROBLEM))
    for status in {"429", "503"}.intersection(found):
        found[status].headers = {"Retry-After": _RETRY_AFTER}
    return dict(sorted(found.items()))


def _response(answer: Any, description: str, media_type: str = MediaType.JSON) -> ResponseSpec:
    return ResponseSpec(answer, media_type=media_type, description=description, generate_examples=False)


class SwaggerUi(OpenAPIRenderPlugin):
    """The page at /docs: Swagger UI with `assets`, so that a browser loads nothing from another host."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        return (_ASSETS / "index.html").read_bytes()


@get(["/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"], include_in_schema=False)
async def assets(request: Request[Any, Any, Any]) -> Response[bytes]:
    name = Path(request.url.path).name
    body = await asyncio.to_thread((_ASSETS / f"{name}.gz").read_bytes)
    headers = {"Cache-Control": "max-age=3600", "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
    else:
        body = await asyncio.to_thread(gzip.decompress, body)
    kind = "text/css" if name.endswith(".css") else "text/javascript"
    return Response(body, media_type=kind, headers=headers)


def config(contract: Contract) -> OpenAPIConfig:
    return OpenAPIConfig(
        title="bdlab",
        version=__version__,
        description=f"Predictions from {contract.description or contract.plural}; "
        "each is durable before its response is sent.",
        path="/docs",
        components=spec.Components(security_schemes=dict(_SCHEMES)),
        use_handler_docstrings=True,
        render_plugins=[SwaggerUi(path=["/", "/swagger"])],
    )
