"""The JSON of each field, found without decoding, in structs that are written as bdlab writes them. Pure."""

import re
from collections import Counter
from datetime import datetime
from operator import attrgetter
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec

_encoder = msgspec.json.Encoder()
# A class of one character is four times as fast as one of two, and most values have no escape.
_PLAIN = rb'"([^"]*+)"'
_ESCAPED = rb'"([^"\\]*+(?:\\[^u][^"\\]*+)*+)"'
_OTHERS = {list: rb"(\[[^]]*+\])", dict: rb"(\{[^}]*+\})"}
_FORMS = {
    bool: rb"(true|false)",
    int: rb"(-?\d{1,18}+)",
    float: rb"(-?\d{1,15}+(?:\.\d{1,17}+)?+)",
    datetime: rb'"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6}+)?+Z)"',
}


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, as `json.loads` asks for it. Raises ValueError if it repeats a name, since parsers differ
    in which value they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice!r} stands twice in the JSON")
    return found


def is_text(kind: object) -> bool:
    """Whether a field of this type is one text, number, truth or moment or null, no array and no object."""
    kind, _ = _bare(kind)
    return kind in (str, UUID) or kind in _FORMS or get_origin(kind) is Literal


def _bare(kind: object) -> tuple[Any, bool]:
    """Return a type without null, and whether it has that."""
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    (bare,) = (part for part in parts if part is not NoneType)
    return (get_args(bare)[0] if get_origin(bare) is Annotated else bare), len(parts) > 1


class PlainJson:
    """Finds the JSON of each field of the struct type `kind`, if they stand in its order, once each, without spaces,
    and in forms that COPY's text format reads as JSON does. So texts have no \\u escape, numbers no exponent, moments
    are in UTC, and arrays and objects have no backslash. The group of a field that is null is None."""

    def __init__(self, kind: type[msgspec.Struct]) -> None:
        kinds = get_type_hints(kind)
        fields = kind.__struct_fields__
        self._others = [(at, attrgetter(name)) for at, name in enumerate(fields, 1) if not is_text(kinds[name])]
        self._plain, self._escaped = (
            re.compile(
                rb"\{%b\}"
                % b",".join(
                    b'"%b":%b' % (re.escape(key.encode()), _form(kinds[name], text))
                    for name, key in zip(fields, kind.__struct_encode_fields__, strict=True)
                )
            ).fullmatch
            for text in (_PLAIN, _ESCAPED)
        )

    def __call__(self, value: bytes, decoded: msgspec.Struct) -> re.Match[bytes] | None:
        """Return a match of `value`, with a group for each field without its quotes, or None."""
        found = (self._escaped if b"\\" in value else self._plain)(value)
        if found is not None:
            for at, field in self._others:
                if b"\\" in found[at] or _encoder.encode(field(decoded)) != found[at]:
                    return None
        return found


def _form(kind: object, text: bytes) -> bytes:
    """Return the pattern of a field of this type; `text` is that of a text."""
    bare, nullable = _bare(kind)
    form = _FORMS.get(bare) or (text if is_text(bare) else _OTHERS[dict if get_origin(bare) is dict else list])
    return b"(?:null|%b)" % form if nullable else form
