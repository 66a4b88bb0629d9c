"""Query parameters: each route has a struct with its parameters, and any other parameter is refused.

If a misspelt filter were ignored, the client would take the response for a filtered one."""

from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from litestar import Request
from litestar.enums import HttpMethod

from bdlab.serving.problems import invalid_parameter

QUERY = "query"
"""The key of a route's `opt` with the struct of its parameters, which it gets as `request.state.query`."""


class NoQuery(msgspec.Struct, frozen=True):
    """The parameters of a route that takes none."""


@cache
def schemas(kind: type[msgspec.Struct]) -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each parameter."""
    found: dict[str, dict[str, Any]] = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]
    return found


def read(request: Request[Any, Any, Any]) -> None:
    """Decode the parameters of a request before its route is called. Raises Problem, 422."""
    kind = request.route_handler.opt.get(QUERY, NoQuery)
    text = request.scope["query_string"].decode("latin-1")
    # Litestar answers OPTIONS by itself, without the route's `opt`.
    if (not text and kind is NoQuery) or request.method == HttpMethod.OPTIONS:
        return
    known = kind.__struct_fields__
    values: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name not in known:
            there_are = f"there are: {', '.join(known)}" if known else "there is none"
            route = request.scope["path_template"]
            raise invalid_parameter(name[:40], f"is no query parameter of {route}; {there_are}")
        if name in values:
            raise invalid_parameter(name, "stands more than once")
        values[name] = value
    try:
        request.state.query = msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`")
        wanted = _wanted(schemas(kind)[name]) or reason
        raise invalid_parameter(name, f"has to be {wanted}, and is {values[name][:40]!r}") from None


def _wanted(schema: dict[str, Any]) -> str:
    """Return in words what a value has to be; empty if there are no short ones."""
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if schema.get("type") == "integer":
        return f"an integer from {schema['minimum']} to {schema['maximum']}"
    return ""
