"""Fetch what the console vendors, as its manifest `vendor.toml` says: a version and a sha512 for each package of npm.

    python infra/console/vendor.py            the versions of the manifest, unpacked anew
    python infra/console/vendor.py --upgrade  the newest of the same major version; `make vendor` does this
    python infra/console/vendor.py --check    compare what is there with the manifest; no network, nothing written

The registry is the one that npm is configured for, or else registry.npmjs.org. Nothing of a package is run.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

_STATIC = Path(__file__).parents[2] / "console" / "bdlab_console" / "static"
MANIFEST = _STATIC / "vendor.toml"
FOLDER = _STATIC / "vendor"
_HEAD = """\
# What the console brings to the browser: packages of npm, the `integrity` of their tarballs, and the files taken.
# Renewed by `make vendor`, checked by tests/unit/test_console_assets.py. Only `license` is set by hand.
"""


def registry() -> str:
    npm = shutil.which("npm")
    told = (
        npm and subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, check=False).stdout
    )
    return (told or "https://registry.npmjs.org").strip().rstrip("/")


def fetch(path: str) -> bytes:
    with urllib.request.urlopen(f"{registry()}/{path}", timeout=60) as answer:  # noqa: S310
        content: bytes = answer.read()
    return content


def newest(name: str, major: str) -> tuple[str, str]:
    """Return the newest release of `name` with this major version, and its integrity."""
    versions = json.loads(fetch(name.replace("/", "%2f")))["versions"]
    own = [each for each in versions if re.fullmatch(rf"{major}(\.\d+)+", each)]
    version = max(own, key=lambda each: [int(part) for part in each.split(".")])
    return version, versions[version]["dist"]["integrity"]


def unpack(package: dict[str, Any], folder: Path) -> None:
    """Write a package's files into `folder`, and their hashes into `package`."""
    name, version = package["name"], package["version"]
    tarball = fetch(f"{name}/-/{name.rpartition('/')[2]}-{version}.tgz")
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    if integrity != package["integrity"]:
        sys.exit(
            f"{name} {version}: the tarball's integrity is {integrity}, not {package['integrity']}; nothing was written"
        )
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        for file in package["files"]:
            member = archive.extractfile(f"package/{file['from']}")
            content = member.read() if member else b""
            (folder / file["name"]).write_bytes(content)
            file["sha256"] = hashlib.sha256(content).hexdigest()


def manifest_text(packages: list[dict[str, Any]]) -> str:
    text = _HEAD
    for package in packages:
        text += "\n[[package]]\n" + "".join(f'{key} = "{value}"\n' for key, value in package.items() if key != "files")
        text += "files = [\n"
        for file in package["files"]:
            text += "  {" + ", ".join(f'{key} = "{value}"' for key, value in file.items()) + "},\n"
        text += "]\n"
    return text


def differences(packages: list[dict[str, Any]]) -> list[str]:
    """Return the files that only `FOLDER` or only the manifest has, or that differ."""
    wanted = {file["name"]: file["sha256"] for package in packages for file in package["files"]}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FOLDER.iterdir()}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--upgrade", action="store_true", help="the newest of the same major version")
    parser.add_argument("--check", action="store_true", help="compare with the manifest; write nothing")
    arguments = parser.parse_args()
    packages = tomllib.loads(MANIFEST.read_text("utf-8"))["package"]
    if arguments.check:
        wrong = ", ".join(differences(packages))
        sys.exit(f"not as {MANIFEST.name} says: {wrong}; mend with: python infra/console/vendor.py" if wrong else 0)
    for package in packages:
        if arguments.upgrade:
            package["version"], package["integrity"] = newest(package["name"], package["version"].partition(".")[0])
    fresh = FOLDER.with_name("vendor.new")
    fresh.mkdir()
    try:
        for package in packages:
            unpack(package, fresh)
        shutil.rmtree(FOLDER, ignore_errors=True)
        fresh.rename(FOLDER)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    MANIFEST.write_text(manifest_text(packages), "utf-8")


if __name__ == "__main__":
    main()
