"""Events and records in PostgreSQL's text forms."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, get_type_hints

import msgspec

from bdlab.events import Headers, microseconds, read_headers
from bdlab.ledger import Accepted, LogPartition, runs
from bdlab.plain_json import is_text

_NULL = b"\\N"
_NONE = _NULL.decode()
MOMENTS = ("received_at", "appended_at", "read_at")
"""The columns whose moments are copied as µs since 1970, since a number is read and written faster than a date."""
_json = msgspec.json.Encoder()


class CopyLines:
    """Makes the rows for COPY from events of the struct `event`. Its `columns` are the fields but the last two
    (`timestamp` and `schema_version`), what the record's headers and its reading tell, and the position. The source is
    the headers' unless the event has its own."""

    def __init__(self, event: type[msgspec.Struct]) -> None:
        kinds = get_type_hints(event)
        *names, _, _ = event.__struct_fields__
        self._told = 1 if "source" in names else 0
        told = ("source", "key_name", "trace_id")[self._told :]
        self.columns = (*names, *told, *MOMENTS, "log_id", "partition", "offset")
        self._text = [(attrgetter(name), is_text(kinds[name])) for name in names]

    def __call__(self, accepted: Sequence[Accepted], numbers: Mapping[LogPartition, int]) -> bytes:
        """Return one line for each of `accepted`, sorted; `numbers` has the log_id of each log."""
        lines = []
        for log, begin, end in runs([entry.record.position for entry in accepted]):
            appended_ms: int | None = -1  # which no record has
            read_at, place = None, ""
            for entry in accepted[begin:end]:
                record = entry.record
                if record.appended_ms != appended_ms or record.read_at is not read_at:  # many have the same
                    appended_ms, read_at = record.appended_ms, record.read_at
                    appended = _NONE if appended_ms is None else 1000 * appended_ms
                    read = _NONE if read_at is None else microseconds(read_at)
                    place = f"{appended}\t{read}\t{numbers[log]}\t{log.partition}\t"
                _, source, name, trace, received = entry.told or read_headers(record.headers)
                columns = entry.fields.groups(_NULL)[:-2] if entry.fields else self._columns(entry.event)
                last = f"{place}{record.position.offset}\n".encode()
                told = (source or _NULL, name or _NULL, trace or _NULL, received or _NULL)[self._told :]
                lines.append(b"\t".join((*columns, *told, last)))
        lines.sort()
        return b"".join(lines)

    def _columns(self, event: msgspec.Struct) -> list[bytes]:
        values = [(get(event), text) for get, text in self._text]
        return [
            _NULL if value is None else _escaped(str(value) if text else _json.encode(value).decode()).encode()
            for value, text in values
        ]


def _escaped(text: str) -> str:
    """Return `text` in COPY's text format (PostgreSQL documentation, COPY, "Text Format")."""
    for character, escaped in (("\\", "\\\\"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        text = text.replace(character, escaped)
    return text


def headers_json(headers: Headers) -> str:
    """Return headers as a JSON array of objects: `name` and `value`, or `value_base64` if it is no plain text. Kafka
    allows any bytes; JSON in PostgreSQL can hold neither NUL nor invalid UTF-8."""
    named = [(name.encode("utf-8", "surrogateescape"), value) for name, value in headers]
    return _json.encode([_text("name", name) | _text("value", value) for name, value in named]).decode()


def _text(field: str, raw: bytes | None) -> dict[str, str | None]:
    if raw is None:
        return {field: None}
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\x00"
    if "\x00" in text:
        return {f"{field}_base64": base64.b64encode(raw).decode()}
    return {field: text}


def headers_from_json(stored: Iterable[Mapping[str, Any]]) -> list[tuple[str, bytes | None]]:
    """Return the headers from which `headers_json` made `stored`."""
    return [((_raw("name", each) or b"").decode("utf-8", "surrogateescape"), _raw("value", each)) for each in stored]


def _raw(field: str, header: Mapping[str, Any]) -> bytes | None:
    if f"{field}_base64" in header:
        return base64.b64decode(header[f"{field}_base64"])
    text = header[field]
    return None if text is None else str(text).encode()


def printable(reason: str) -> str:
    """Return `reason` without NUL and lone surrogates, which PostgreSQL cannot store."""
    return reason.replace("\x00", "\\0").encode("utf-8", "backslashreplace").decode()
