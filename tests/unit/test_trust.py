"""A settings file that nobody named counts only where nobody else can have written it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bdlab import settings
from bdlab.errors import BdlabError

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a person works in, with a settings file."""
    work = tmp_path / "work"
    work.mkdir(mode=0o755)
    (work / "bdlab.toml").write_text("[http]\nport = 8001\n")
    (work / "bdlab.toml").chmod(0o644)
    monkeypatch.chdir(work)
    return work


def port(**environ: str) -> int:
    return settings.load(environ=environ).settings().http.port


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bdlab_cli", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def link_to(elsewhere: Path, link: Path) -> None:
    """Put the settings file at `elsewhere`, and a link to it in its place."""
    elsewhere.parent.mkdir(exist_ok=True)
    link.replace(elsewhere)
    link.symlink_to(elsewhere)


def through_a_foreign_folder(folder: Path) -> None:
    link_to(folder.parent / "open" / "bdlab.toml", folder / "bdlab.toml")
    (folder.parent / "open").chmod(0o777)


def test_ones_own_file_counts_and_so_does_a_link_to_it(folder: Path) -> None:
    assert port() == 8001
    link_to(folder.parent / "settings" / "real.toml", folder / "bdlab.toml")
    assert port() == 8001


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda folder: (folder / "bdlab.toml").chmod(0o666), id="file for all"),
        pytest.param(lambda folder: (folder / "bdlab.toml").chmod(0o664), id="file for the group"),
        pytest.param(lambda folder: folder.chmod(0o777), id="folder for all"),
        pytest.param(lambda folder: folder.chmod(0o1777), id="sticky folder"),
        pytest.param(lambda folder: folder.chmod(0o775), id="folder for the group"),
        pytest.param(through_a_foreign_folder, id="link into a folder for all"),
        pytest.param(lambda folder: os.chown(folder / "bdlab.toml", NOBODY, NOBODY), id="foreign file", marks=as_root),
        pytest.param(lambda folder: os.chown(folder, NOBODY, NOBODY), id="foreign folder", marks=as_root),
    ],
)
def test_what_somebody_else_may_have_written_does_not(folder: Path, spoil: Callable[[Path], object]) -> None:
    spoil(folder)
    with pytest.raises(BdlabError, match=r"bdlab\.toml was found .* is not used") as refused:
        port()
    assert refused.value.exit_code == 1
    assert "--config bdlab.toml" in refused.value.hint
    # Whoever names it has decided.
    assert port(BDLAB_CONFIG="bdlab.toml") == 8001
    assert settings.load(config=Path("bdlab.toml"), environ={}).settings().http.port == 8001


def test_each_link_of_a_chain_counts(folder: Path) -> None:
    (folder / "bdlab.toml").rename(folder.parent / "aside")
    (folder.parent / "open").mkdir()
    (folder.parent / "safe").mkdir()
    (folder.parent / "aside").rename(folder.parent / "safe" / "bdlab.toml")
    (folder.parent / "open" / "link").symlink_to(folder.parent / "safe" / "bdlab.toml")
    (folder / "bdlab.toml").symlink_to(folder.parent / "open" / "link")
    assert port() == 8001
    (folder.parent / "open").chmod(0o777)
    with pytest.raises(BdlabError, match=r"others may write .*open \(mode 0777\)"):
        port()


def test_nobody_runs_code_by_a_file_in_a_folder_that_all_may_write(folder: Path) -> None:
    ran = folder.parent / "ran"
    content = f"cos\nsystem\n(S'touch {ran}'\ntR.".encode()
    (folder / "evil.joblib").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    (folder / "bdlab.toml").write_text(f'[model]\npath = "evil.joblib#sha256={digest}"\n')
    folder.chmod(0o777)

    def predict(*options: str) -> subprocess.CompletedProcess[str]:
        return run(folder, *options, "predict", "--no-publish", "hello")

    done = predict()
    assert done.returncode == 1
    assert "others may write" in done.stderr
    assert not ran.exists()
    predict("--config", "bdlab.toml")
    assert ran.exists()  # so that it would have been


def test_the_same_holds_for_an_env_file(folder: Path) -> None:
    (folder / "bdlab.toml").unlink()
    (folder / ".env").write_text("POSTGRES_USER=somebody\n")
    (folder / ".env").chmod(0o602)
    done = run(folder, "vault-init")
    assert done.returncode == 1
    assert ".env was found in this folder and is not used" in done.stderr
    assert "--env-file .env" in done.stderr
