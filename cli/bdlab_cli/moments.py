"""Moments and ages as options take them: ``2026-01-31T12:00Z``, ``30d``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST = timedelta(days=36_525)
_AGE = re.compile(r"(\d{1,7})\s*([smhdw])")


def age(text: str) -> timedelta:
    """A number and one of s, m, h, d, w; at most 100 years. Raises typer.BadParameter."""
    found = _AGE.fullmatch(text.strip())
    if not found:
        raise typer.BadParameter(f"{text!r} is no age: give a number and one of s, m, h, d, w, such as 30d")
    length = timedelta(**{_UNITS[found[2]]: int(found[1])})
    if length > _LONGEST:
        raise typer.BadParameter(f"{text!r} is more than 100 years")
    return length


def moment(text: str) -> datetime:
    """An ISO 8601 moment (UTC where it names no zone), or how long ago. Raises typer.BadParameter."""
    if _AGE.fullmatch(text.strip()):
        return datetime.now(UTC) - age(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no moment: give an ISO 8601 date or time, or an age such as 2h"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
