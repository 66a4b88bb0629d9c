"""What is in the wheel and the sdist: all that is needed, and nothing that lies about beside it."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.compose.stack import ROOT, fresh_clone

SECRET = b"seeded-4f1c-not-to-be-shipped"
#: Where somebody who works in a checkout has secrets.
PLACES = (".env", "infra/.env", "src/bdlab/.env", "vault/.env", "vault-keys.json", "identity/serve/secret_id")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of wheel and sdist by their names, built from a clone with secrets in it."""
    clone = fresh_clone(tmp_path_factory.mktemp("clone"))
    for name in PLACES:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_bytes(SECRET)
    # That a search through the archives finds something at all:
    (clone / "src" / "bdlab" / "planted.txt").write_bytes(b"planted, " + SECRET[:6])
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(out)],
        cwd=clone,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    return {"wheel": _of_wheel(wheel), "sdist": _of_sdist(sdist)}


def _of_wheel(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _of_sdist(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {
            member.name.partition("/")[2]: file.read()
            for member in archive.getmembers()
            if (file := archive.extractfile(member))
        }


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_no_secret_is_in_it(built: dict[str, dict[str, bytes]], kind: str) -> None:
    files = built[kind]
    assert [name for name, content in files.items() if SECRET in content] == []
    assert [name.rpartition("/")[2] for name, content in files.items() if SECRET[:6] in content] == ["planted.txt"]
    assert not {name for name in files if name.endswith((".env", "vault-keys.json", "secret_id"))}


def test_the_wheel_has_what_runs_without_a_checkout(built: dict[str, dict[str, bytes]]) -> None:
    files = set(built["wheel"])
    assert {"bdlab/py.typed", "bdlab/policies/serve.hcl", "bdlab/models/reviews.card.json"} <= files
    assert {"bdlab_cli/app.py", "bdlab/postgres/migrations/0001_tables.sql"} <= files


def test_the_wheel_has_no_code_for_tests(built: dict[str, dict[str, bytes]]) -> None:
    wheel = built["wheel"]
    top = {name.partition("/")[0] for name in wheel if ".dist-info/" not in name}
    assert top == {"bdlab", "bdlab_cli", "bdlab_console"}
    only_tests = (b"import pytest", b"class ZooKeeper", b"class KafkaCluster", b"class MemoryStore")
    own = [name for name in wheel if name.endswith(".py")]
    assert own
    assert [(name, what) for name in own for what in only_tests if what in wheel[name]] == []


def test_the_lock_pins_what_the_project_asks_for_and_names_no_index() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    asked = [
        *project["project"]["dependencies"],
        *(one for extra in project["project"]["optional-dependencies"].values() for one in extra),
        *project["dependency-groups"]["build"],
        *project["build-system"]["requires"],
    ]
    text = (ROOT / "requirements.lock").read_text("utf-8")
    pinned: dict[str, list[Version]] = {}
    for line in re.findall(r"^(\S+==[^\\]+)", text, re.MULTILINE):
        requirement = Requirement(line.strip())
        (pin,) = requirement.specifier
        pinned.setdefault(canonicalize_name(requirement.name), []).append(Version(pin.version))
    assert asked
    for wanted in map(Requirement, asked):
        versions = pinned.get(canonicalize_name(wanted.name), [])
        assert versions, f"requirements.lock does not pin {wanted.name}: run `make lock`"
        assert all(wanted.specifier.contains(one) for one in versions), f"{wanted}: run `make lock`"
    assert "://" not in text
    assert not re.search(r"^\s*(#|-i|--index|--extra|--find)", text, re.MULTILINE)
    entries = re.split(r"\n(?=\S)", text)
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
