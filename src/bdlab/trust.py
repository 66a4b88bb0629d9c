"""Refuses a file that was found, not named by an option, and that somebody else may have written."""

import os
import stat
from pathlib import Path

from bdlab.errors import BdlabError


def require_own(path: Path, *, option: str) -> None:
    """Raise BdlabError if anybody but the caller and root may write `path`, its folder or a link's target. `option` is
    the command-line option that names such a file nevertheless."""
    place = path.absolute()
    for _ in range(40):
        if reason := _foreign(place.parent, place.parent.stat()) or _foreign(place, place.lstat()):
            why = f"{reason}, so that what is in it may be somebody else's"
            todo = "Otherwise work in a folder of your own, or take the right away (chown, chmod go-w)."
            hint = f"If you trust it, name it: {option} {path}. {todo}"
            raise BdlabError(f"{path} was found in this folder and is not used: {why}", hint=hint)
        if not place.is_symlink():
            return
        place = place.parent / place.readlink()
    raise BdlabError(f"{path} leads through too many links")


def _foreign(place: Path, found: os.stat_result) -> str:
    """Return who else may write it; empty if nobody. The mode of a link means nothing."""
    if found.st_uid not in (0, os.geteuid()):
        return f"{place} belongs to user {found.st_uid}"
    if not stat.S_ISLNK(found.st_mode) and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write {place} (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""
