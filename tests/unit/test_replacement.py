"""A file that is written anew: whole or not at all, and the same file to everybody who knows it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bdlab.files import Replacement, replace_file


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("before", [0o600, 0o640, 0o666, 0o755])
def test_an_existing_file_keeps_its_mode(tmp_path: Path, before: int) -> None:
    path = tmp_path / "x.csv"
    path.touch()
    path.chmod(before)
    replace_file(path, b"new")
    assert (path.read_bytes(), mode(path), names(tmp_path)) == (b"new", before, ["x.csv"])


def test_a_new_file_has_the_mode_of_the_umask_or_the_one_that_was_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "a", b"")
        replace_file(tmp_path / "b", b"", mode=0o644)
    finally:
        os.umask(before)
    assert (mode(tmp_path / "a"), mode(tmp_path / "b")) == (0o640, 0o644)


def test_what_was_not_committed_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"old")
    with Replacement(path) as new:
        new.file.write(b"half")
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["x.csv"])
    with Replacement(path, hidden=False) as new:
        new.file.write(b"half")
        new.keep = True
    assert path.read_bytes() == b"old"
    assert new.partial is not None
    assert new.partial.read_bytes() == b"half"
    assert new.partial.name.startswith("x.partial-")
    assert new.partial.suffix == ".csv"


@pytest.mark.parametrize("exists", [True, False])
def test_a_links_target_is_replaced_and_the_link_stays(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "x.csv", tmp_path / "link.csv"
    if exists:
        target.write_bytes(b"old")
    link.symlink_to("there/x.csv")
    replace_file(link, b"new")
    assert link.is_symlink()
    assert (target.read_bytes(), names(target.parent)) == (b"new", ["x.csv"])


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "x.csv"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    replace_file(pipe, b"new")
    reader.join(10)
    assert (read, stat.S_ISFIFO(pipe.stat().st_mode), names(tmp_path)) == ([b"new"], True, ["x.csv"])


def test_its_own_output_is_appended_to_and_not_cut(tmp_path: Path) -> None:
    """As where ``x.csv`` leads to /dev/stdout, and that to a file."""
    log = tmp_path / "log"
    program = (
        "import os; from pathlib import Path; from bdlab.files import replace_file; os.write(1, b'before '); "
        f"replace_file(Path({str(log)!r}), b'results '); replace_file(Path('/dev/stdout'), b'more '); "
        "os.write(1, b'after')"
    )
    with log.open("wb") as output:
        subprocess.run([sys.executable, "-c", program], stdout=output, check=True, timeout=60)
    assert log.read_bytes() == b"before results more after"


def test_a_folder_and_a_circle_of_links_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path, b"new")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises((OSError, RuntimeError)):
        replace_file(tmp_path / "a", b"new")
