"""Routes that are answered without the framework, which takes longer to call one than most requests need.

They are the framework's routes too, from which they are collected: what is special about a request (a query,
another spelling of its path, CORS) takes the way through the framework, to the same function.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.types import Receive

Endpoint = Callable[[Any, Receive], Awaitable[bytes]]
"""Takes the scope and `receive` of a request; returns the JSON of its 200. Raises Problem or BdlabError."""

_OPTION = "direct"


def option(endpoint: Endpoint | None) -> dict[str, Any]:
    """Return the `opt` of a route that `endpoint` answers."""
    return {_OPTION: endpoint} if endpoint else {}


class DirectRoutes:
    """The direct routes among `handlers`. With `cors`, web pages of other origins get the framework's."""

    def __init__(self, handlers: Sequence[HTTPRouteHandler], *, cors: bool) -> None:
        self._cors = cors
        self._endpoints: Mapping[tuple[str, str], Endpoint] = {
            (method, path): handler.opt[_OPTION]
            for handler in handlers
            if _OPTION in handler.opt
            for method in handler.http_methods
            for path in handler.paths
            if method != HttpMethod.OPTIONS
        }

    def find(self, scope: Any) -> Endpoint | None:
        """Return what answers a request; None if the framework does."""
        endpoint = self._endpoints.get((scope["method"], scope["path"]))
        if endpoint is None or scope["query_string"]:
            return None
        if self._cors and any(name == b"origin" for name, _ in scope["headers"]):
            return None
        return endpoint
