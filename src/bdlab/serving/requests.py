"""The headers and the body of a request, read within bounds."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
from litestar import Request

from bdlab.serving.problems import Problem, invalid_parameter, problem, too_large

MAX_KEY_LENGTH = 255
"""The most characters of an Idempotency-Key."""

BODY_TIMEOUT_S = 30.0
"""The longest that a client may take to send its body."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


SOURCE_HEADER = "Bdlab-Source"
SOURCES = ("drill", "demo")
"""The values of SOURCE_HEADER, for requests that no user made."""


class RequestHeaders(msgspec.Struct, frozen=True):
    """The headers that a prediction depends on; empty if they were not sent.

    `length` is the Content-Length in bytes, -1 for a chunked body. `source` is the CloudEvents source of the
    events; empty is the API's own.
    """

    length: int
    idempotency_key: str
    traceparent: str
    source: str = ""


def read_headers(request: Request[Any, Any, Any]) -> RequestHeaders:
    """Return the headers. Raises Problem if one is not valid, or if the body is not plain JSON by them."""
    content_types: list[str] = []
    key = traceparent = source = ""
    length = -1
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            content_types.append(value.decode("latin-1"))
        elif name == b"content-length":
            length = int(value) if value.isdigit() else -1
        elif name == b"content-encoding":
            _check_content_encoding(value.decode("latin-1").strip().lower())
        elif name == b"idempotency-key":
            if key:
                raise invalid_parameter("Idempotency-Key", "stands more than once")
            key = value.decode("latin-1")
            _check_key(key)
        elif name == b"traceparent":
            traceparent = value.decode("latin-1").strip()
        elif name == b"bdlab-source":
            if source:
                raise invalid_parameter(SOURCE_HEADER, "stands more than once")
            source = f"/bdlab/{_checked_source(value.decode('latin-1'))}"
    _check_content_type(content_types)
    if not _TRACEPARENT.fullmatch(traceparent) or traceparent.startswith("ff"):
        traceparent = ""  # W3C Trace Context: one that is not valid is ignored
    return RequestHeaders(length, key, traceparent, source)


def _checked_source(said: str) -> str:
    if said not in SOURCES:
        raise invalid_parameter(
            SOURCE_HEADER, f"has to be {' or '.join(SOURCES)} if it is sent, and is {said[:40]!r}"
        )
    return said


def _check_key(key: str) -> None:
    if not key or len(key) > MAX_KEY_LENGTH:
        raise invalid_parameter(
            "Idempotency-Key", f"has to have 1 to {MAX_KEY_LENGTH} characters, and has {len(key)}"
        )


def _check_content_type(content_types: list[str]) -> None:
    """Require JSON: a web page may post any other simple type to another origin without a preflight."""
    kinds = [found.partition(";")[0].strip().lower() for found in content_types]
    if kinds == ["application/json"]:
        return
    said = f"The Content-Type is {', '.join(kinds)[:100]!r}." if kinds else "There is no Content-Type."
    raise problem(
        415,
        "no-json",
        "The body has to be JSON",
        f"{said} Send the header `Content-Type: application/json`.",
    )


def _check_content_encoding(encoding: str) -> None:
    if encoding not in ("identity", ""):
        raise problem(
            415,
            "encoded",
            "The body has to be sent uncompressed",
            f"The Content-Encoding is {encoding[:100]!r}. Send the JSON without it.",
        )


async def read_body(request: Request[Any, Any, Any], headers: RequestHeaders, limit: int) -> bytes:
    """Return the body, of at most `limit` bytes; no more is kept in memory. Raises Problem."""
    if headers.length > limit:
        raise _over(limit)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _receive(request, limit)
    except TimeoutError:
        raise problem(
            408,
            "too-slow",
            "The request came too slowly",
            f"The body was not complete after {BODY_TIMEOUT_S:g} s.",
        ) from None


async def _receive(request: Request[Any, Any, Any], limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message: Any = await request.receive()
        if message["type"] == "http.disconnect":
            raise problem(
                400, "incomplete", "The request is incomplete", "The client left before the end of its body."
            )
        chunks.append(message["body"])
        size += len(message["body"])
        if size > limit:
            raise _over(limit)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _over(limit: int) -> Problem:
    return too_large(f"The body is larger than {limit} bytes (setting http.max_body_bytes).")
