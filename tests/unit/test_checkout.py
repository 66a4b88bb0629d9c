"""The git hook that `make dev` installs refuses a commit that `make check` would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository with the hook, in which only the quick checks run."""
    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        shutil.copy2(_ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".gitignore").write_text(".venv\n")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "pre_commit", "install"], cwd=tmp_path, check=True)
    return tmp_path


def commit(checkout: Path, name: str, text: str) -> subprocess.CompletedProcess[str]:
    (checkout / name).write_text(text)
    subprocess.run(["git", "add", "--all"], cwd=checkout, check=True)
    who = {f"GIT_{role}_{what}": "x@y.example" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    # Types and import rules are checked on the whole repository, by `make check` too.
    quick = {"SKIP": "mypy,import-linter", "PRE_COMMIT_HOME": str(checkout / ".git" / "hooks-cache")}
    return subprocess.run(
        ["git", "commit", "-m", "x"],
        cwd=checkout,
        env=os.environ | who | quick,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_sound_commit_is_taken_and_a_misspelt_or_unformatted_one_refused(checkout: Path) -> None:
    taken = commit(checkout, "sound.py", '"""All is well."""\n')
    assert taken.returncode == 0, taken.stdout + taken.stderr

    misspelt = commit(checkout, "page.md", "This is teh end.\n")  # codespell:ignore teh
    assert misspelt.returncode == 1
    assert "teh ==> the" in misspelt.stdout + misspelt.stderr  # codespell:ignore teh

    (checkout / "page.md").unlink()
    unformatted = commit(checkout, "unformatted.py", "x = {  'a':1 }\n")
    assert unformatted.returncode == 1
    assert "files were modified by this hook" in unformatted.stdout + unformatted.stderr
