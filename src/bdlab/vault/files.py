"""Reading small files that hold a secret, which only their owner may read."""

from __future__ import annotations

import stat
from pathlib import Path

from bdlab.errors import IdentityRefused

_OTHERS = 0o077


def refuse_too_open(path: Path) -> None:
    """Raise IdentityRefused if anybody but its owner can read or write the file."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OTHERS:
        raise IdentityRefused(
            f"the file {path} is open to others (mode {mode:04o}): its secret may be known",
            hint=f"Run: chmod 600 {path}; and replace what is in it if anybody else uses this machine.",
        )


def read_private(path: Path) -> str | None:
    """Return the text, stripped; None if there is no such file.

    Raises IdentityRefused if the file is open to others or cannot be read.
    """
    try:
        refuse_too_open(path)
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise IdentityRefused(f"the file {path} cannot be read: {reason}") from error
