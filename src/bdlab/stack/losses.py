"""What is lost when a broker that keeps its log in memory ends: noted, counted, and told once."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bdlab.files import replace_file


class _Closed(msgspec.Struct):
    cluster_id: str
    lost: int


class _Report(msgspec.Struct):
    closed: list[_Closed] = []


def lost_events(verify_output: str, cluster_id: str) -> int | None:
    """How many events of that incarnation are known to be lost, by what `bdlab verify --json` printed.

    None where no consumer ever saw that incarnation, or the report cannot be read.
    """
    try:
        report = msgspec.json.decode(verify_output, type=_Report)
    except msgspec.MsgspecError:
        return None
    found = [closed.lost for closed in report.closed if closed.cluster_id == cluster_id]
    return sum(found) if found else None


class OpenLog:
    """The cluster id of the incarnation whose events may not all be stored yet; `file` outlives a kill."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def swap(self, cluster_id: str) -> str:
        """Note a new incarnation; the one before, empty where that one was stored to its end."""
        try:
            former = self._file.read_text("ascii").strip()
        except FileNotFoundError:
            former = ""
        replace_file(self._file, cluster_id.encode("ascii"))
        return former if former != cluster_id else ""

    def close(self) -> None:
        """All of it is stored."""
        self._file.unlink(missing_ok=True)
