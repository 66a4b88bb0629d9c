"""What a psycopg2 error means: the one place that tells SQLSTATEs apart.

| SQLSTATE | raised by the insert of rows | raised elsewhere | |---|---|---| | class 22, 23, 54 | RowRejected |
DatabaseUnavailable | | 42501 | DatabaseDenied | DatabaseDenied | | anything else, or none | DatabaseUnavailable |
DatabaseUnavailable |

Source: PostgreSQL documentation, appendix A (error codes).
"""

import tomllib
from pathlib import Path

import psycopg2

from bdlab.errors import DatabaseDenied, DatabaseError, DatabaseUnavailable, RowRejected

INSUFFICIENT_PRIVILEGE = "42501"
_CONTENT_CLASSES = ("22", "23", "54")

#: Words of a server that did not answer, or accepts nobody now.
_NO_REFUSAL: list[str] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))["no_refusal"]


def translate(error: psycopg2.Error, *, server: str, rows: bool = False) -> DatabaseError:
    """Return the bdlab error for `error`; with `rows` it was raised by the insert of rows."""
    code = error.pgcode or ""  # empty if the error did not come from the server
    text = _first_line(error)
    if code == INSUFFICIENT_PRIVILEGE:
        return DatabaseDenied(
            f"PostgreSQL at {server} denies it: {text} (SQLSTATE {code})",
            hint="Run `bdlab migrate`; then compare the role's grants with docs/accounting.md.",
        )
    if rows and code[:2] in _CONTENT_CLASSES:
        return RowRejected(text, sqlstate=code)
    return DatabaseUnavailable(
        f"PostgreSQL at {server} failed: {text}" + (f" (SQLSTATE {code})" if code else ""),
        hint="It is retried if that can help; `bdlab status` shows the state of the server.",
    )


def is_refused_login(error: psycopg2.Error) -> bool:
    """Return whether a failed connect means that the server refuses this user (class 28).

    A failed connect has no SQLSTATE, and the server's messages may be in any language. So every error counts
    but those of a server that did not answer, or that accepts nobody now.
    """
    text = str(error)
    return not any(words in text for words in _NO_REFUSAL)


def _first_line(error: psycopg2.Error) -> str:
    diagnosis = error.diag.message_primary if error.diag else None
    lines = (diagnosis or str(error)).strip().splitlines()
    return lines[0].replace("\x00", "\\0") if lines else type(error).__name__
