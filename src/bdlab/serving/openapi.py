"""The OpenAPI document, as far as the handlers' signatures do not give it, and the page that shows it."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
from litestar import Request, Response, get
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIFormat,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    RequestBody,
    Schema,
    SecurityScheme,
)
from litestar.types import Receive

from bdlab import __version__
from bdlab.contract import Contract
from bdlab.inputs.schema import input_schema
from bdlab.serving.access import NEED, Need
from bdlab.serving.problems import PROBLEM_JSON, ProblemDetails
from bdlab.serving.query_parameters import QUERY, NoQuery, schemas
from bdlab.serving.requests import MAX_KEY_LENGTH, SOURCE_HEADER, SOURCES

DIRECT = "direct"
"""The key of a route's `opt` with its direct endpoint."""

Endpoint = Callable[[Any, Receive], Awaitable[bytes]]
"""Takes the scope and `receive` of a request; returns the JSON of its 200. Raises Problem or BdlabError."""


def _parameter(name: str, place: str, about: str, *, required: bool = False, **schema: Any) -> Parameter:
    kind = Schema(type=OpenAPIType.STRING, **schema)
    return Parameter(name=name, param_in=place, schema=kind, description=about, required=required)


PREDICTION_ID = _parameter(
    "prediction_id", "path", "The id in the response of /predict.", required=True, format=OpenAPIFormat.UUID
)

_PROBLEM = Reference(ref=f"#/components/schemas/{ProblemDetails.__name__}")
_RETRY_AFTER = OpenAPIHeader(
    schema=Schema(type=OpenAPIType.INTEGER, minimum=1), description="Seconds to wait; only with a problem."
)
#: The errors that any route may return before its handler runs.
_ANYWHERE = {
    "400": "Not exactly one valid Host header, or the client closed the connection before the end",
    "408": "The request came too slowly",
    "421": "The Host header names another server (setting http.allowed_hosts)",
    "422": "A query parameter that the route does not know, or a value that is not allowed",
    "431": "The head of the request is too large",
    "500": "A defect; the server's log has the reason",
    "503": "The server is stopping: retry after `Retry-After` seconds",
}
#: Those of a route with a scope.
_BY_KEY = {
    "400": f"{_ANYWHERE['400']}; or more than one key",
    "401": "There is no key, or the key or token is not valid, as `WWW-Authenticate` says",
    "403": "The key or token does not have the route's scope",
}
_SCHEMES = {
    "bearer": SecurityScheme(type="http", scheme="bearer", description="An API key, or an identity provider's token."),
    "apiKey": SecurityScheme(type="apiKey", security_scheme_in="header", name="X-API-Key", description="An API key."),
}


def describe(
    *,
    body: Any = None,
    headers: Sequence[Parameter] = (),
    query: type[msgspec.Struct] = NoQuery,
    path: Parameter | None = None,
    need: Need | None = None,
    direct: Endpoint | None = None,
) -> dict[str, Any]:
    """Return the keyword arguments of a route with these query parameters, and their documentation.

    `need` is the key that it needs, and `direct` answers without the framework.
    """

    @dataclass
    class Described(Operation):
        def __post_init__(self) -> None:
            parameters: list[Parameter | Reference] = [path] if path else []
            parameters += headers
            for name, schema in schemas(query).items():
                # A JSON schema goes into the document as it is.
                shape, text = cast("Any", schema), schema.get("description")
                parameters.append(Parameter(name=name, param_in="query", schema=shape, description=text))
            self.parameters = parameters or None
            if body:
                content = {"application/json": OpenAPIMediaType(schema=body)}
                self.request_body = RequestBody(content=content, required=True)
            self.responses = _with_problems(self.responses or {}, _BY_KEY if need else {})
            if need:
                self.security = [*([] if need[1] else [{}]), *({name: [need[0]]} for name in _SCHEMES)]

    return {"operation_class": Described, "opt": {QUERY: query, DIRECT: direct, NEED: need}}


def _with_problems(responses: Mapping[str, Any], more: dict[str, str]) -> dict[str, Any]:
    """Return `responses`, `more` and those of every route, without the 400 that the framework adds."""
    found = {status: answer for status, answer in responses.items() if status != "400"}
    for status, description in (_ANYWHERE | more).items():
        answer = found.setdefault(status, OpenAPIResponse(description=description, content={}))
        answer.content.setdefault(PROBLEM_JSON, OpenAPIMediaType(schema=_PROBLEM))
    for status in {"429", "503"}.intersection(found):
        found[status].headers = {"Retry-After": _RETRY_AFTER}
    return dict(sorted(found.items()))


def state_response(answer: type[msgspec.Struct], description: str) -> dict[int, ResponseSpec]:
    """Return the 503 of a status route, which has the same fields as its 200."""
    return {503: ResponseSpec(data_container=answer, description=description, generate_examples=False)}


def problem_response(description: str) -> ResponseSpec:
    return ResponseSpec(
        data_container=ProblemDetails, media_type=PROBLEM_JSON, description=description, generate_examples=False
    )


def describe_prediction(contract: Contract, direct: Endpoint, need: Need, *, most: int = 0) -> dict[str, Any]:
    """Return the keyword arguments of a route that takes an input; with `most` a list of 1 to so many."""
    body: Any = input_schema(contract)
    if most:
        body = {"items": body, "type": "array", "maxItems": most, "minItems": 1}
    key = f"The same key with the same {contract.noun} is the same prediction, with the same id."
    trace = "W3C trace context; it is passed on with the event. One that is not valid is ignored."
    source = f"Marks {contract.one} that no user wrote: statistics about the model leave its row out."
    headers = (
        _parameter("Idempotency-Key", "header", key, min_length=1, max_length=MAX_KEY_LENGTH),
        _parameter("traceparent", "header", trace),
        _parameter(SOURCE_HEADER, "header", source, enum=SOURCES),
    )
    responses = {
        408: "The body came too slowly",
        413: "The body, or the event made of it, is too large",
        415: "The body is not JSON, or it is compressed",
        422: f"The body is not a valid {contract.noun}: each wrong field and why",
        429: "The key's limit of predictions a second is reached, see `RateLimit`: retry after `Retry-After` seconds",
        503: "Not acknowledged, too many in flight, or the server is stopping: retry after `Retry-After` seconds",
    }
    return {
        "status_code": 200,
        "tags": ["predict"],
        "responses": {status: problem_response(about) for status, about in responses.items()},
        **describe(body=body, headers=headers, need=need, direct=direct),
    }


class SwaggerUi(OpenAPIRenderPlugin):
    """The page at /docs: Swagger UI with `assets`, so that a browser loads nothing from another host."""

    def __init__(self) -> None:
        super().__init__(path=["/", "/swagger"])

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        return _PAGE


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


_ASSETS = Path(__file__).with_name("swagger_ui")
_PAGE = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>bdlab API</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'self' 'unsafe-inline'; img-src 'self' data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
<script src="/docs/swagger-ui-bundle.js"></script>
</head><body><div id="api"></div><script>
SwaggerUIBundle({url: "/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null})
</script></body></html>
"""


def config(contract: Contract) -> OpenAPIConfig:
    return OpenAPIConfig(
        title="bdlab",
        version=__version__,
        description=f"Predictions from {contract.description or contract.plural}; "
        "each is durable before its response is sent.",
        path="/docs",
        components=Components(security_schemes=dict(_SCHEMES)),
        use_handler_docstrings=True,
        render_plugins=[SwaggerUi()],
    )
