"""Looking for secrets where none may be: collects their values, and everything that a run shows."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

#: What a token of Vault looks like, whoever got it.
TOKEN = re.compile(rb"\b(?:[sbr]|hv[sbr])\.[A-Za-z0-9_-]{20,}")
_FIELDS = ("client_token", "password", "idle_password", "secret_id", "token", "root_token", "role_id")
_SHORTEST = 8


class Leak(NamedTuple):
    """`name` says which secret was found, and `where`; the value itself is not repeated."""

    name: str
    where: str


class Secrets:
    """Values by name. A value that is found under several names has the first."""

    def __init__(self) -> None:
        self._names: dict[bytes, str] = {}

    def add(self, name: str, value: str | bytes) -> None:
        raw = value if isinstance(value, bytes) else value.encode()
        if len(raw) >= _SHORTEST:
            self._names.setdefault(raw, name)

    def add_binary(self, name: str, value: bytes) -> None:
        """A key, and the forms in which one is written down."""
        self.add(name, value)
        self.add(f"{name} in hexadecimal", value.hex())
        self.add(f"{name} in base64", base64.b64encode(value).rstrip(b"="))

    def add_fields(self, name: str, value: Any) -> None:
        """All fields of a JSON value that hold a secret."""
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if key in _FIELDS and isinstance(inner, str):
                    self.add(f"{name}: {key}", inner)
                else:
                    self.add_fields(name, inner)
        elif isinstance(value, list):
            for inner in value:
                self.add_fields(name, inner)

    def named(self, start: str) -> set[str]:
        return {name for name in self._names.values() if name.startswith(start)}

    def values(self) -> list[bytes]:
        return list(self._names)

    def leaks(self, where: str, content: bytes) -> Iterator[Leak]:
        for value, name in self._names.items():
            if value in content:
                yield Leak(name, where)


class Watch:
    """Collects, while something runs: the secrets that pass through the files of a local stack, and the
    command line and the environment of every process that works in its folder or was started from here.
    """

    def __init__(self, folder: Path, secrets: Secrets, *, mark: str) -> None:
        """`mark` is a word in the environment of each process that is meant."""
        self._folder = folder
        self._secrets = secrets
        self._mark = mark.encode()
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(self._read_files, 0.005)),
            threading.Thread(target=self._repeat, args=(self._read_processes, 0.03)),
        ]
        self.shown: dict[bytes, str] = {}

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, look: Any, pause_s: float) -> None:
        while not self._done.wait(pause_s):
            look()

    def _read_files(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            keys = json.loads((self._folder / "vault-keys.json").read_bytes())
            self._secrets.add("root token", keys["root_token"])
            for key in (*keys["unseal_keys"], *keys["recovery_keys"]):
                self._secrets.add_binary("recovery key", base64.b64decode(key))
        with contextlib.suppress(OSError):
            self._secrets.add_binary("seal key", (self._folder / "openbao" / "seal.key").read_bytes())
        with contextlib.suppress(OSError):
            password = (self._folder / "postgres" / "admin_password").read_bytes()
            self._secrets.add("administrator's password of Postgres", password)
        for what in ("wrapped_secret_id", "claimed_secret_id", "secret_id", "role_id"):
            for file in self._folder.glob(f"identity/*/{what}"):
                with contextlib.suppress(OSError):
                    self._secrets.add(f"{what} of {file.parent.name}", file.read_bytes().strip())

    def _read_processes(self) -> None:
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (place / "environ").read_bytes()
                if self._mark not in environment and not str((place / "cwd").readlink()).startswith(str(self._folder)):
                    continue
                command = (place / "cmdline").read_bytes()
                program = command.replace(b"\0", b" ").decode(errors="replace")[:80]
                self.shown.setdefault(environment, f"environment of {program}")
                self.shown.setdefault(command, f"command line of {program}")
