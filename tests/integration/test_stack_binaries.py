"""Where the servers' programs come from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bdlab.errors import BinaryMissing
from bdlab.stack.servers import binaries

_UNPACK = "from bdlab.stack.servers import binaries; print(binaries.postgres())"


def test_concurrent_first_uses_unpack_postgres_once(tmp_path: Path) -> None:
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    runs = [
        subprocess.Popen([sys.executable, "-c", _UNPACK], env=environment, stdout=subprocess.PIPE) for _ in range(3)
    ]
    folders = {run.communicate(timeout=120)[0].decode().strip() for run in runs}
    assert all(run.returncode == 0 for run in runs)
    (folder,) = folders
    assert (Path(folder) / "bin" / "postgres").is_file()
    name = Path(folder).name
    assert sorted(path.name for path in (tmp_path / "bdlab").iterdir()) == [f".{name}.lock", name]


def test_a_cache_that_is_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BinaryMissing, match="could not be unpacked into") as refused:
        binaries.postgres()
    assert "XDG_CACHE_HOME" in refused.value.hint


def test_a_cache_that_executes_nothing_is_named(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o noexec tmpfs "$0" && XDG_CACHE_HOME="$0" exec "$@"'
    own = [] if os.geteuid() == 0 else ["--map-root-user"]
    alone = ["unshare", "--mount", *own, "sh", "-c", mount, str(tmp_path)]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    program = "from bdlab.errors import BinaryMissing\ntry:\n    " + _UNPACK.replace("; ", "\n    ")
    program += "\nexcept BinaryMissing as error: print(error.message, error.hint)"
    done = subprocess.run(
        [*alone, sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert f"the file system of {tmp_path} is mounted noexec" in done.stdout
    assert "XDG_CACHE_HOME" in done.stdout


def test_what_is_not_installed_is_named_with_the_way_to_get_it() -> None:
    with pytest.raises(BinaryMissing, match="is not installed: no package no-such-server") as missing:
        binaries._in_package("no_such_server", "bin/server", "the server", "no-such-server")
    assert "bdlab[local]" in missing.value.hint


def test_a_program_that_lost_its_mode_is_named_with_the_way_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "lost_mode"
    package.mkdir()
    (package / "__init__.py").touch()
    program = package / "server"
    program.write_text("#!/bin/sh\necho runs\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BinaryMissing, match=f"{program} is not executable") as lost:
        binaries._in_package("lost_mode", "server", "the server", "lost-mode")
    assert f"chmod +x {program}" in lost.value.hint
    program.chmod(0o755)
    assert binaries._in_package("lost_mode", "server", "the server", "lost-mode") == program
