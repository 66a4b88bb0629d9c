"""The query, the headers and the body of a request, read within bounds."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from litestar import Request
from litestar.enums import HttpMethod
from litestar.types import Receive

from bdlab.events import TRACEPARENT, Origin
from bdlab.selection import InvalidParameter, decode
from bdlab.serving.access import CALLER
from bdlab.serving.in_progress import Deadlines
from bdlab.serving.problems import Problem, invalid_parameter

MAX_KEY_LENGTH = 255  # the most characters of an Idempotency-Key
BODY_TIMEOUT_S = 30.0  # the longest that a client may take to send its body
_RARE = frozenset((b"content-encoding", b"idempotency-key", b"traceparent", b"bdlab-source"))
SOURCE_HEADER = "Bdlab-Source"
SOURCES = ("drill", "demo")  # its values, for requests that no user made
QUERY = "query"  # the key of a route's `opt` with the struct of its parameters: its `request.state.query`


class NoQuery(msgspec.Struct, frozen=True):
    """The parameters of a route that takes none."""


def read_query(request: Request[Any, Any, Any]) -> None:
    """Decode the parameters of a request before its route is called. Raises Problem, 422, also for another parameter:
    if a misspelt filter were ignored, the client would take the response for a filtered one."""
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


class RequestHeaders(Origin, frozen=True, kw_only=True):
    """The headers that a prediction depends on; empty if they were not sent. `length` is the Content-Length in bytes,
    -1 for a chunked body. An empty `source` is the API's own."""

    length: int
    idempotency_key: str


def read_headers(scope: Any) -> RequestHeaders:
    """Return the headers. Raises Problem if one is not valid, or if the body is not plain JSON by them."""
    received_at = datetime.now(UTC)
    content_types: list[bytes] = []
    key = traceparent = source = ""
    length = -1
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_types.append(value)
        elif name == b"content-length":
            length = int(value) if value.isdigit() else -1
        elif name not in _RARE:
            continue
        elif name == b"content-encoding":
            _check_content_encoding(value.decode("latin-1").strip().lower())
        elif name == b"idempotency-key":
            if key:
                raise invalid_parameter("Idempotency-Key", "stands more than once")
            key = value.decode("latin-1")
            if not 1 <= len(key) <= MAX_KEY_LENGTH:
                why = f"has to have 1 to {MAX_KEY_LENGTH} characters, and has {len(key)}"
                raise invalid_parameter("Idempotency-Key", why)
        elif name == b"traceparent":
            # One that is not valid is ignored (W3C Trace Context).
            traceparent = said.decode() if TRACEPARENT.fullmatch(said := value.strip()) else ""
        else:
            if source:
                raise invalid_parameter(SOURCE_HEADER, "stands more than once")
            source = _source(value.decode("latin-1"))
    if content_types != [b"application/json"]:
        _check_content_type([value.decode("latin-1") for value in content_types])
    return RequestHeaders(
        length=length,
        idempotency_key=key,
        traceparent=traceparent,
        source=source,
        received_at=received_at,
        key_name=getattr(scope.get(CALLER), "name", None),
    )


def _source(said: str) -> str:
    if said not in SOURCES:
        why = f"has to be {' or '.join(SOURCES)} if it is sent, and is {said[:40]!r}"
        raise invalid_parameter(SOURCE_HEADER, why)
    return f"/bdlab/{said}"


def _check_content_type(content_types: list[str]) -> None:
    """Require JSON: a web page may post any other simple type to another origin without a preflight."""
    kinds = [found.partition(";")[0].strip().lower() for found in content_types]
    if kinds == ["application/json"]:
        return
    said = f"The Content-Type is {', '.join(kinds)[:100]!r}." if kinds else "There is no Content-Type."
    raise Problem("no-json", f"{said} Send the header `Content-Type: application/json`.")


def _check_content_encoding(encoding: str) -> None:
    if encoding not in ("identity", ""):
        raise Problem("encoded", f"The Content-Encoding is {encoding[:100]!r}. Send the JSON without it.")


class BodyReader:
    """Reads bodies of at most `limit` bytes; no more is kept in memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.deadlines = Deadlines(BODY_TIMEOUT_S)

    async def read(self, receive: Receive, headers: RequestHeaders) -> bytes:
        """Return the body. Raises Problem."""
        if headers.length > self._limit:
            raise self._over()
        chunks: list[bytes] = []
        size = 0
        more = True
        try:
            with self.deadlines:
                while more:
                    message: Any = await receive()
                    if message["type"] == "http.disconnect":
                        raise Problem("incomplete", "The client left before the end of its body.")
                    chunks.append(message["body"])
                    size += len(message["body"])
                    if size > self._limit:
                        raise self._over()
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Problem("too-slow", f"The body was not complete after {self.deadlines.limit_s:g} s.") from None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _over(self) -> Problem:
        return Problem("too-large", f"The body is larger than {self._limit} bytes (setting http.max_body_bytes).")
