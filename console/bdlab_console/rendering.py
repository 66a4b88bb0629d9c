"""What every page is made with."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from math import ceil
from typing import Any

import msgspec
from litestar import Request
from litestar.response import Template
from markupsafe import Markup, escape

from bdlab.contract import Contract
from bdlab.events import Term
from bdlab.model.compiled import weighed
from bdlab.serving.access import CALLER

PAGES = (
    ("/try", "Try"),
    ("/live", "Live"),
    ("/pipeline", "Pipeline"),
    ("/proof", "Proof"),
    ("/dead-letters", "Dead letters"),
    ("/models", "Models"),
    ("/quality", "Quality"),
    ("/rotation", "Rotation"),
    ("/audit", "Audit"),
)
"""What the navigation shows."""
_MOST_BYTES = 64 << 10
_PLAIN = {"id", "prediction_id", "model", "source", "created_at", "timestamp"}


def common(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """Return what every page shows: who is signed in, which page it is, and which servers are away."""
    who = request.scope.get(CALLER)
    signed_in = {"caller": who.name if who else "", "signed_in": bool(who)}  # type: ignore[attr-defined]
    here = request.url.path + f"?{request.url.query}" * bool(request.url.query)
    return {
        "here": here,
        "path": request.url.path,
        "hide": hides(request),
        "servers": request.state.get("servers"),
        **signed_in,
    }


def hides(request: Request[Any, Any, Any]) -> bool:
    """Return whether the texts of inputs are masked on this page: the setting says so, and nobody asked for them."""
    return bool(request.app.state.mask_texts and request.query_params.get("texts") != "shown")


def page(request: Request[Any, Any, Any], name: str, *, status_code: int = 200, **context: Any) -> Template:
    """Return a page made from the template `name` and `context`."""
    return Template(name, context=common(request) | context, status_code=status_code)


def text(value: object, hide: bool = False) -> Markup:
    """Return a value of a field as `inert` does; of a text that is masked how long it is."""
    if hide and isinstance(value, str):
        return Markup("••• ({} characters)").format(len(value))
    if isinstance(value, datetime):
        return inert(value.astimezone(UTC).isoformat().replace("+00:00", "Z"))
    return inert("–" if value is None else str(value).lower() if isinstance(value, bool) else value)


def figure(value: object, hide: bool = False) -> str | Markup:
    """Return a cell of a table of figures; `hide` masks its texts."""
    if isinstance(value, dict):
        named = ((name, figure(each, hide)) for name, each in value.items() if each is not None)
        return Markup("<br>").join(Markup("{}: {}").format(*pair) for pair in named)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else text(value, hide)


def inert(text: object) -> Markup:
    """Return a text of somebody as HTML that does nothing: escaped, isolated from the direction of what is around it,
    and with a symbol for each character that has no glyph, such as ESC or one that turns the direction."""
    return Markup("<bdi>{}</bdi>").format(_visible(str(text)))


def words(text: str, explanation: Sequence[Term]) -> Markup:
    """Return a text as `inert` does, with a class for the words that terms of the explanation cover: p1 to p5 if they
    add to the prediction, n1 to n5 if they take from it, by their share of the strongest."""
    pieces = weighed(text, explanation)
    most = max((abs(each.weight) for each in explanation), default=0.0)
    marked = Markup('<mark class="{}{}" title="{:+.2f}">{}</mark>').format
    shown = (
        marked("p" if weight > 0 else "n", ceil(5 * abs(weight) / most), weight, _visible(piece))
        if weight else escape(_visible(piece)) for piece, weight in pieces
    )  # fmt: skip
    return Markup("<bdi>{}</bdi>").format(Markup().join(shown))


def pretty(value: bytes, hide: bool, contract: Contract) -> Markup:
    """Return a record's value as text, JSON with indents. If texts are masked, its strings are, but for those of fields
    that are no texts; and all of what is no JSON object."""
    try:
        found = msgspec.json.decode(value, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        masked = Markup("••• ({} bytes)").format(len(value))
        return masked if hide else inert(value[:_MOST_BYTES].decode(errors="replace"))
    if hide:
        plain = _PLAIN | {field.column for field in contract if not field.is_text}
        found |= {name: str(text(each, name not in plain)) for name, each in found.items() if isinstance(each, str)}
        found |= {"explanation": "•••"} if "explanation" in found else {}
    return inert(json.dumps(found, indent=2, ensure_ascii=False)[:_MOST_BYTES])


def hexed(value: bytes, begin: int = 0) -> str:
    """Return bytes as 16 a line: the place of the first, counted from `begin`, all in hex, and the characters of those
    that have one."""
    rows = [(at, value[at : at + 16]) for at in range(0, min(len(value), _MOST_BYTES // 4), 16)]
    plain = bytes(code if 0x20 <= code < 0x7F else 0x2E for code in range(256))
    return "\n".join(f"{begin + at:08x}  {row.hex(' '):<47}  {row.translate(plain).decode()}" for at, row in rows)


def _visible(text: str) -> str:
    shown = []
    for mark in text:
        code = ord(mark)
        if code < 0x20 and mark not in "\n\t":
            shown.append(chr(0x2400 + code))
        elif code == 0x7F:
            shown.append("\u2421")
        elif unicodedata.category(mark) in {"Cc", "Cf", "Cs", "Co"} and mark not in "\n\t\u200d\u00ad":
            shown.append(f"\u27e8U+{code:04X}\u27e9")
        else:
            shown.append(mark)
    return "".join(shown)
