"""Query parameters: each route has a struct with its parameters, and any other parameter is refused.

If a misspelt filter were ignored, the client would take the response for a filtered one."""

from typing import Any
from urllib.parse import parse_qsl

import msgspec
from litestar import Request
from litestar.enums import HttpMethod

from bdlab.selection import InvalidParameter, decode
from bdlab.serving.problems import invalid_parameter

QUERY = "query"
"""The key of a route's `opt` with the struct of its parameters, which it gets as `request.state.query`."""


class NoQuery(msgspec.Struct, frozen=True):
    """The parameters of a route that takes none."""


def read(request: Request[Any, Any, Any]) -> None:
    """Decode the parameters of a request before its route is called. Raises Problem, 422."""
    kind = request.route_handler.opt.get(QUERY, NoQuery)
    text = request.scope["query_string"].decode("latin-1")
    # Litestar answers OPTIONS by itself, without the route's `opt`.
    if (not text and kind is NoQuery) or request.method == HttpMethod.OPTIONS:
        return
    known = kind.__struct_encode_fields__
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
        request.state.query = decode(values, kind)
    except InvalidParameter as error:
        raise invalid_parameter(error.name, error.why) from None
