"""What the keeper of a session says of tasks that fail."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from structlog.testing import capture_logs

from bdlab.errors import BdlabError, PolicyDenied, VaultUnavailable
from bdlab.vault.logins import now
from bdlab.vault.renewal import RenewalThread, Task

BEGINS = "credentials cannot be renewed from Vault; the present ones stay in use"
ENDS = "credentials are renewed from Vault again"
AWAY = VaultUnavailable("answers too many requests")


class Script:
    """A task that ends as the script says, an entry a run: an error, or the seconds until it is due again."""

    def __init__(self, entries: Sequence[BdlabError | OSError | float]) -> None:
        self._entries = list(entries)
        self.over = threading.Event()

    def __call__(self) -> float:
        if not self._entries:
            self.over.set()
            return now() + 3600
        entry = self._entries.pop(0)
        if isinstance(entry, BdlabError | OSError):
            raise entry
        return now() + entry


@contextmanager
def kept(script: Script) -> Iterator[tuple[RenewalThread, list[Any]]]:
    with capture_logs() as logs:
        keeper = RenewalThread("test", [Task("token", script, due_at=now())])
        keeper.start()
        try:
            yield keeper, logs
        finally:
            keeper.stop(5)


def told(logs: list[Any]) -> list[tuple[str, str]]:
    return [(line["event"], line.get("problem", "")) for line in logs]


def test_what_passes_with_the_next_try_is_not_spoken_of() -> None:
    script = Script([AWAY, 0.0] * 5)
    with kept(script) as (_, logs):
        assert script.over.wait(20)
    assert told(logs) == []


def test_an_outage_is_two_lines() -> None:
    script = Script([AWAY] * 5)
    with kept(script) as (keeper, logs):
        assert script.over.wait(30)
        assert keeper.outage is None
    assert told(logs) == [(BEGINS, AWAY.message), (ENDS, "")]


def test_a_refusal_is_told_at_once() -> None:
    script = Script([PolicyDenied("forbidden")])
    with kept(script) as (keeper, logs):
        while not logs:
            threading.Event().wait(0.01)
        assert isinstance(keeper.outage, PolicyDenied)
    assert told(logs) == [(BEGINS, "forbidden")]


def test_an_outage_that_turns_into_a_refusal_says_so() -> None:
    script = Script([*[AWAY] * 5, PolicyDenied("forbidden")])
    with kept(script) as (_, logs):
        while len(logs) < 2:
            threading.Event().wait(0.01)
    assert told(logs) == [(BEGINS, AWAY.message), (BEGINS, "forbidden")]


def test_a_full_disk_ends_no_keeping() -> None:
    script = Script([OSError(errno.ENOSPC, "No space left on device", "/identity/serve/accessor")])
    with capture_logs() as logs:
        keeper = RenewalThread("test", [Task("secret id", script, due_at=now(), refused_pause_s=0.0)])
        keeper.start()
        try:
            assert script.over.wait(20)
        finally:
            keeper.stop(5)
    (begins, problem), ends = told(logs)
    assert begins == BEGINS
    assert "No space left on device: '/identity/serve/accessor'" in problem
    assert ends == (ENDS, "")
