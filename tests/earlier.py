"""The last release with schema 1, whose `dlq` had no database role of its own."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

#: Of its files: unlike a commit's id it says nothing of authors and dates.
TREE = "6cc1e57d0ef1bdb8ef110f7f339b718293f15049"
ROOT = Path(__file__).parents[1]


def unpack(folder: Path) -> Path:
    """`folder` with its files; skips, or fails in CI, if the history does not have it."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", TREE], capture_output=True, timeout=60, check=False)
    if archive.returncode != 0:
        reason = f"this checkout has no history: {archive.stderr.decode().strip()}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as archived:
        archived.extractall(folder, filter="data")
    return folder
