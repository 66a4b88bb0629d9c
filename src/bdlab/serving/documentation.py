"""What the OpenAPI document says beyond what the handlers' signatures do, and the page that shows it.

The page at /docs needs no network: it is plain HTML made from the document. Swagger UI, at /docs/swagger,
is loaded from a CDN by the browser.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from litestar import Request
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import OpenAPIRenderPlugin, SwaggerRenderPlugin
from litestar.openapi.spec import (
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
)

from bdlab import __version__
from bdlab.events import MAX_COUNT
from bdlab.reviews.schema import FIELDS, MISSPELT, NOT_EMPTY, STORABLE
from bdlab.serving.problems import PROBLEM_JSON, ProblemDetails
from bdlab.serving.queries import NoQuery, option, schemas
from bdlab.serving.requests import MAX_KEY_LENGTH, SOURCE_HEADER, SOURCES

EXAMPLE = {"text": "This product is terrible!", "summary": "Product review"}

_COUNT = Schema(type=OpenAPIType.INTEGER, minimum=0, maximum=MAX_COUNT, default=1)
REVIEW = Schema(
    title="Review",
    type=OpenAPIType.OBJECT,
    description="Fields that are none of these are left out, but for one whose name is nearly one of theirs.",
    required=["text"],
    properties={
        "text": Schema(
            type=OpenAPIType.STRING,
            min_length=1,
            pattern=NOT_EMPTY,
            description="The review; not only white space, and without U+0000.",
        ),
        "summary": Schema(
            type=OpenAPIType.STRING,
            pattern=STORABLE,
            default="",
            description="Its headline; without U+0000.",
        ),
        "HelpfulnessNumerator": _COUNT,
        "HelpfulnessDenominator": _COUNT,
    },
    additional_properties=True,
    property_names=Schema(any_of=[Schema(enum=FIELDS), Schema(schema_not=Schema(pattern=MISSPELT))]),
    examples=[EXAMPLE],
)


def review_list(limit: int) -> Schema:
    """A list of 1 to `limit` reviews."""
    return Schema(type=OpenAPIType.ARRAY, items=REVIEW, min_items=1, max_items=limit)


_HEADERS = (
    Parameter(
        name="Idempotency-Key",
        param_in="header",
        schema=Schema(type=OpenAPIType.STRING, min_length=1, max_length=MAX_KEY_LENGTH),
        description="The same key with the same review is the same prediction, with the same id.",
    ),
    Parameter(
        name="traceparent",
        param_in="header",
        schema=Schema(type=OpenAPIType.STRING),
        description="W3C trace context; it goes on with the event. One that is not valid is ignored.",
    ),
    Parameter(
        name=SOURCE_HEADER,
        param_in="header",
        schema=Schema(type=OpenAPIType.STRING, enum=SOURCES),
        description="That the review is no user's: its row is left out of what is said of the model.",
    ),
)
PREDICTION_ID = Parameter(
    name="prediction_id",
    param_in="path",
    required=True,
    schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.UUID),
    description="The id that /predict answered with.",
)

_PROBLEM = Reference(ref=f"#/components/schemas/{ProblemDetails.__name__}")
_RETRY_AFTER = OpenAPIHeader(
    schema=Schema(type=OpenAPIType.INTEGER, minimum=1), description="Seconds; where this is a problem."
)
#: What any route may answer, before its handler begins.
_ANYWHERE = {
    "400": "Not exactly one Host header that can be read, or the client left before its request was complete",
    "408": "The request came too slowly",
    "421": "The Host header names another server (setting http.allowed_hosts)",
    "422": "A query parameter that the route does not know, or a value that is not allowed",
    "431": "The head of the request is too large",
    "500": "A defect; the server's log has the reason",
    "503": "The server is stopping: retry after `Retry-After` seconds",
}


def describe(
    *,
    body: Schema | None = None,
    query: type[msgspec.Struct] = NoQuery,
    path: Parameter | None = None,
) -> dict[str, Any]:
    """Arguments of a route, by which it takes these query parameters, and the document says what it takes and
    answers. One with a `body` takes the headers of a prediction too.
    """

    @dataclass
    class Described(Operation):
        def __post_init__(self) -> None:
            parameters: list[Parameter | Reference] = [path] if path else []
            parameters += _HEADERS if body else ()
            for name, schema in schemas(query).items():
                # A JSON schema as it stands; the document's own classes would only spell it out again.
                told, shape = schema.get("description"), cast("Any", schema)
                parameters.append(Parameter(name=name, param_in="query", schema=shape, description=told))
            self.parameters = parameters or None
            if body:
                content = {"application/json": OpenAPIMediaType(schema=body)}
                self.request_body = RequestBody(content=content, required=True)
            self.responses = _with_problems(self.responses or {})

    return {"operation_class": Described, "opt": option(query)}


def _with_problems(responses: Mapping[str, Any]) -> dict[str, Any]:
    """`responses` and those of any route, but for the 400 that the framework thinks it gives."""
    found = {status: answer for status, answer in responses.items() if status != "400"}
    for status, description in _ANYWHERE.items():
        answer = found.setdefault(status, OpenAPIResponse(description=description, content={}))
        answer.content.setdefault(PROBLEM_JSON, OpenAPIMediaType(schema=_PROBLEM))
    found["503"].headers = {"Retry-After": _RETRY_AFTER}
    return dict(sorted(found.items()))


def state_response(answer: type[msgspec.Struct], description: str) -> dict[int, ResponseSpec]:
    """The 503 of a route that tells a state: the same fields as its 200."""
    return {503: ResponseSpec(data_container=answer, description=description, generate_examples=False)}


def problem_response(description: str) -> ResponseSpec:
    return ResponseSpec(
        data_container=ProblemDetails,
        media_type=PROBLEM_JSON,
        description=description,
        generate_examples=False,
    )


UNACKNOWLEDGED = problem_response(
    "Not acknowledged, too many in flight, or the server is stopping: retry after `Retry-After` seconds"
)
PREDICT_RESPONSES = {
    408: problem_response("The body came too slowly"),
    413: problem_response("The body, or the event made of it, is too large"),
    415: problem_response("The body is not JSON, or compressed"),
    422: problem_response("The body is no review: each wrong field and why"),
    503: UNACKNOWLEDGED,
}


class OfflinePage(OpenAPIRenderPlugin):
    """The document as one HTML page, without a script or anything from another host."""

    def __init__(self) -> None:
        super().__init__(path="/", favicon="")
        self._shown: tuple[str, bytes] = ("", b"")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        base = str(request.base_url).rstrip("/")
        if self._shown[0] != base:
            self._shown = base, self._render(base, openapi_schema)
        return self._shown[1]

    def _render(self, base: str, openapi_schema: dict[str, Any]) -> bytes:
        parts = [
            _operation(base, path, method, operation)
            for path, item in openapi_schema.get("paths", {}).items()
            for method, operation in item.items()
            if isinstance(operation, dict)
        ]
        schemas = openapi_schema.get("components", {}).get("schemas", {})
        parts.append("<h2>Schemas</h2>")
        parts += [
            f"<details id='schema-{_text(name)}'><summary>{_text(name)}</summary>{_code(schema)}</details>"
            for name, schema in schemas.items()
        ]
        return _PAGE.format(version=_text(__version__), body="\n".join(parts)).encode()


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>bdlab API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
pre {{ background: #f4f4f5; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere;
  border-radius: 4px; }}
h3 code {{ font-size: 1.1rem; }} summary {{ cursor: pointer; }}
</style></head><body>
<h1>bdlab API <small>{version}</small></h1>
<p>The document itself is at <a href="/openapi.json">/openapi.json</a>.
<a href="/docs/swagger">Swagger UI</a> can send requests from the browser; it is loaded from the Internet.</p>
{body}
</body></html>
"""


def _operation(base: str, path: str, method: str, operation: dict[str, Any]) -> str:
    description = f"{operation.get('summary', '')}. {operation.get('description', '')}"
    lines = [f"<h3><code>{method.upper()} {_text(path)}</code></h3><p>{_text(description)}</p>"]
    for item in operation.get("parameters", []):
        name = f"<code>{_text(item['name'])}</code> ({_text(item['in'])})"
        lines.append(f"<p>{name} {_text(item.get('description', ''))}</p>")
    lines.append(f"<pre>{_text(_curl(base, path, method))}</pre>")
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body:
        lines.append(f"<details><summary>Body</summary>{_code(body)}</details>")
    for status, answer in operation.get("responses", {}).items():
        for kind, media in answer.get("content", {}).items():
            title = f"{_text(status)} {_text(answer.get('description', ''))} <code>{_text(kind)}</code>"
            schema = _code(media.get("schema", {}))
            lines.append(f"<details><summary>{title}</summary>{schema}</details>")
    return "\n".join(lines)


def _curl(base: str, path: str, method: str) -> str:
    if method != "post":
        return f"curl {base}{path}"
    body: Any = [EXAMPLE] if path.endswith("/batch") else EXAMPLE
    return f'curl -X POST "{base}{path}" -H "Content-Type: application/json" -d \'{json.dumps(body)}\''


def _code(value: Any) -> str:
    return f"<pre>{_text(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())}</pre>"


def _text(value: Any) -> str:
    return html.escape(str(value))


def config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="bdlab",
        version=__version__,
        description="Predictions from product reviews, durable before they are answered.",
        path="/docs",
        use_handler_docstrings=True,
        render_plugins=[OfflinePage(), SwaggerRenderPlugin(path="/swagger")],
    )
