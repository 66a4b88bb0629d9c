"""Events and records in PostgreSQL's text forms."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from bdlab.events import Headers, source_of
from bdlab.ledger import Accepted, LogPartition, log_partition

_NULL = "\\N"
_json = msgspec.json.Encoder()


def copy_lines(accepted: Iterable[Accepted], numbers: Mapping[LogPartition, int]) -> str:
    """Return the rows for COPY into `incoming`, one line each, in the order of its columns.

    `numbers` has the log_id of each log.
    """
    return "".join([_line(entry, numbers[log_partition(entry.record.position)]) for entry in accepted])


def _line(entry: Accepted, log_id: int) -> str:
    event = entry.event
    position = entry.record.position
    return (
        f"{event.id}\t{_escaped(event.summary)}\t{_escaped(event.text)}\t"
        f"{event.helpfulness_numerator}\t{event.helpfulness_denominator}\t{event.prediction!r}\t"
        f"{event.sentiment}\t{event.confidence!r}\t{_escaped(explanation_json(entry))}\t"
        f"{_escaped(event.model)}\t{event.created_at.isoformat()}\t"
        f"{source_of(entry.record.headers) or _NULL}\t{log_id}\t{position.partition}\t"
        f"{position.offset}\n"
    )


def _escaped(text: str) -> str:
    """Return `text` in COPY's text format (PostgreSQL documentation, COPY, "Text Format").

    Most texts have none of these characters, and looking for one is many times cheaper than replacing.
    """
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    if "\n" in text:
        text = text.replace("\n", "\\n")
    if "\t" in text:
        text = text.replace("\t", "\\t")
    if "\r" in text:
        text = text.replace("\r", "\\r")
    return text


def explanation_json(entry: Accepted) -> str:
    """Return the terms as a JSON array of {"term", "weight"}."""
    return _json.encode(entry.event.explanation).decode()


def headers_json(headers: Headers) -> str:
    """Return headers as a JSON array of objects: `name` and `value`, or `value_base64` if it is no plain
    text.

    Kafka allows any bytes; JSON in PostgreSQL can hold neither NUL nor invalid UTF-8.
    """
    return _json.encode([_header(name, value) for name, value in headers]).decode()


def _header(name: str, value: bytes | None) -> dict[str, str | None]:
    raw_name = name.encode("utf-8", "surrogateescape")
    found = {**_text("name", raw_name)}
    found |= {"value": None} if value is None else _text("value", value)
    return found


def _text(field: str, raw: bytes) -> dict[str, str | None]:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\x00"
    if "\x00" in text:
        return {f"{field}_base64": base64.b64encode(raw).decode()}
    return {field: text}


def headers_from_json(stored: Iterable[Mapping[str, Any]]) -> list[tuple[str, bytes | None]]:
    """Return the headers from which `headers_json` made `stored`."""
    headers: list[tuple[str, bytes | None]] = []
    for header in stored:
        name = _raw("name", header)
        headers.append(((name or b"").decode("utf-8", "surrogateescape"), _raw("value", header)))
    return headers


def _raw(field: str, header: Mapping[str, Any]) -> bytes | None:
    if f"{field}_base64" in header:
        return base64.b64decode(header[f"{field}_base64"])
    text = header[field]
    return None if text is None else str(text).encode()


def printable(reason: str) -> str:
    """Return `reason` without NUL and lone surrogates, which PostgreSQL cannot store."""
    return reason.replace("\x00", "\\0").encode("utf-8", "backslashreplace").decode()
