"""A run of `rotate` on a `VaultWorld`, and what it is killed with."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bdlab.vault.client import VaultClient
from bdlab.vault.rotation import Run
from tests.fix_vault import VaultWorld


@contextlib.contextmanager
def rotation(world: VaultWorld, *, grace_s: float = 60.0, force: bool = False) -> Iterator[Run]:
    """A run with the identity `rotate`."""
    with world.session("rotate", kafka=False, daemon=False) as session:
        yield Run(
            session=session,
            vault=world.vault,
            progress=lambda _line: None,
            stop=threading.Event(),
            grace_s=grace_s,
            force=force,
        )


class Killed(BaseException):
    """The run ends here, as by SIGKILL: nothing in the library catches this."""


class Deadly:
    """Lets a run die right after so many changes, in Vault, on disk or by `changed()`."""

    def __init__(self) -> None:
        self.left = 0
        self.thread = threading.get_ident()

    def changed(self) -> None:
        if self.left and threading.get_ident() == self.thread:
            self.left -= 1
            if not self.left:
                raise Killed

    def dies_after(self, changes: int, work: Callable[[], object]) -> bool:
        """Whether it died; False where the work has not that many changes."""
        self.left = changes
        try:
            work()
        except Killed:
            return True
        finally:
            self.left = 0
        return False


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> Deadly:
    """Counts the changes that this very thread makes."""
    death = Deadly()
    send, replace = VaultClient._send, Path.replace

    def send_and_die(client: VaultClient, method: Any, path: str, *arguments: Any, **named: Any) -> Any:
        response = send(client, method, path, *arguments, **named)
        if response.ok and method not in ("get", "list") and not path.endswith(("/login", "/lookup")):
            death.changed()
        return response

    def replace_and_die(path: Path, target: Any) -> Path:
        found = replace(path, target)
        death.changed()
        return found

    monkeypatch.setattr(VaultClient, "_send", send_and_die)
    monkeypatch.setattr(Path, "replace", replace_and_die)
    return death
