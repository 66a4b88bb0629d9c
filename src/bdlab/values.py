"""What settings are made of: URLs, durations, and secrets, which never show themselves; and their names."""

import difflib
import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from urllib.parse import SplitResult, urlsplit

from bdlab.errors import InvalidInput

_DURATION = re.compile(r"(\d+)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
#: A table, or the name of a value, at the beginning of a line of TOML.
_NAMED = re.compile(r"""^\s*(?:\[\s*(?P<table>[\w.-]+)\s*\]|["']?(?P<name>[\w.-]+)["']?\s*=)""")


def near(name: str, known: Iterable[str]) -> str:
    """Return a question with the one of `known` that a mistyped name is nearest to; empty if none is near."""
    found = difflib.get_close_matches(name, list(known), 1, 0.75)
    return f"; did you mean {found[0]}?" if found else ""


def listed(text: str) -> tuple[str, ...]:
    """Return the entries of a text that separates them by commas."""
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def lines_of(toml: str) -> dict[str, int]:
    """Return the line of each table and value of a TOML text, by names such as ``http.port``."""
    found, table = dict[str, int](), ""
    for number, line in enumerate(toml.splitlines(), 1):
        if named := _NAMED.match(line):
            table = named["table"] or table
            found.setdefault(named["table"] or f"{table}.{named['name']}".lstrip("."), number)
    return found


def http_url(text: str) -> SplitResult:
    """Return the parts of an http or https URL. Raises InvalidInput."""
    try:
        parts = urlsplit(text)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return parts
    except ValueError as error:
        raise InvalidInput(f"{text!r} is no http(s) URL: {error}") from error
    raise InvalidInput(f"{text!r} is no http(s) URL")


def moment(text: str) -> datetime:
    """Return the moment of an ISO 8601 date or time, of UTC if it names no zone, in UTC. Raises ValueError."""
    found = datetime.fromisoformat(text)
    try:  # PostgreSQL takes no offset of 16 hours or more
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError("it is not within the years 1 to 9999 in UTC") from error


def duration(text: str) -> timedelta:
    """Return the duration of a number and one of s, m, h, d, w, such as ``30m``. Raises ValueError."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is no number and one of s, m, h, d, w")
    try:
        return timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError as error:
        raise ValueError(f"{text!r} is too long") from error


def past(text: str) -> datetime:
    """Return the moment that `moment` reads, or as long ago as `duration` does. Raises ValueError."""
    with suppress(ValueError):
        return moment(text)
    with suppress(ValueError, OverflowError):
        return datetime.now(UTC) - duration(text)
    raise ValueError(f"{text!r} is no moment: give an ISO 8601 date or time, or an age such as 2h")


class Secret:
    """A value that never shows itself: in a repr, a log line or a traceback it is ``***``."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself; to be called only when a server needs it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class ProxyUrl(Secret):
    """The http(s) URL of a proxy, which may have a password; empty is none."""

    __slots__ = ()

    def __init__(self, value: str) -> None:
        """Raise ValueError, without any part of `value` in it, if it is no URL."""
        super().__init__(value)
        with suppress(InvalidInput):
            if not value or http_url(value):
                return
        raise ValueError("this is no http(s) URL of a proxy, such as http://proxy.example.org:3128")

    @property
    def shown(self) -> str:
        """The URL without user name and password, for messages."""
        parts = urlsplit(self.reveal())
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
