"""What the console gives a browser: vendored files as their manifest says, and nothing that its policy forbids."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

_CONSOLE = Path(__file__).parents[2] / "console" / "bdlab_console"
_STATIC = _CONSOLE / "static"
_PACKAGES = tomllib.loads((_STATIC / "vendor.toml").read_text("utf-8"))["package"]
_OWN = [*_CONSOLE.rglob("*.html"), *(path for path in _STATIC.iterdir() if path.suffix in {".css", ".js", ".svg"})]
# What `default-src 'self'; img-src 'self' data:` would refuse, and addresses elsewhere; an SVG's namespace is none.
_FORBIDDEN = {
    "a style attribute": r"\sstyle\s*=\s*[\"'{]",
    "an inline script": r"<script(?![^>]*\ssrc=)",
    "an inline style": r"<style",
    "an inline handler": r"<[^>]*\s(on\w+|hx-on[\w:-]*)\s*=",
    "an address elsewhere": r"(https?:)?//(?!www\.w3\.org/2000/svg)[\w-]+\.\w",
    "code made from text": r"\beval\(|new Function|javascript:|hx-vals=['\"]js:",
}


def test_vendor_holds_what_the_manifest_names_and_nothing_else_in_under_250_kb() -> None:
    named = {file["name"]: file["sha256"] for package in _PACKAGES for file in package["files"]}
    found = {path.name: path.read_bytes() for path in (_STATIC / "vendor").iterdir()}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in found.items()} == named
    assert sum(map(len, found.values())) < 250_000
    script = [sys.executable, str(_CONSOLE.parents[1] / "infra" / "console" / "vendor.py"), "--check"]
    assert subprocess.run(script, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("package", _PACKAGES, ids=lambda package: package["name"])
def test_a_vendored_package_has_its_version_tarball_and_licence(package: dict[str, object]) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", str(package["version"]))
    assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", str(package["integrity"]))
    files = [file["name"] for file in package["files"]]  # type: ignore[attr-defined]
    (licence,) = [name for name in files if name.endswith(".LICENSE")]
    marks = {"0BSD": "with or without fee", "MIT": "The above copyright notice and this permission notice"}
    assert marks[str(package["license"])] in " ".join((_STATIC / "vendor" / licence).read_text("utf-8").split())


def test_own_javascript_has_under_300_lines() -> None:
    own = [path for path in _CONSOLE.rglob("*.js") if path.parent.name != "vendor"]
    assert sum(len(path.read_text("utf-8").splitlines()) for path in own) < 300


@pytest.mark.parametrize("path", _OWN, ids=lambda path: path.name)
def test_a_template_or_asset_has_nothing_that_the_policy_of_content_forbids(path: Path) -> None:
    text = path.read_text("utf-8")
    assert {what: found.group() for what, pattern in _FORBIDDEN.items() if (found := re.search(pattern, text))} == {}


def test_a_template_that_the_policy_would_break_is_found() -> None:
    bad = {
        "a style attribute": '<p style="x">',
        "an inline script": "<script>let a</script>",
        "an inline style": "<style>",
        "an inline handler": '<a href="/" onclick="x">',
        "an address elsewhere": 'src="//cdn.example/x.js"',
        "code made from text": 'eval("1")',
    }
    assert {what for what, pattern in _FORBIDDEN.items() if re.search(pattern, bad[what])} == set(_FORBIDDEN)
