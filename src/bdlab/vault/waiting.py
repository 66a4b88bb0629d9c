"""Waiting for a Vault that is not there yet, with one line of log whenever the reason changes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import structlog

from bdlab.errors import VaultError, VaultUnavailable
from bdlab.vault.leases import Backoff, now

_Answer = TypeVar("_Answer")

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0

_log = structlog.get_logger()


def _away(error: VaultError) -> bool:
    return isinstance(error, VaultUnavailable)


def wait_for(
    attempt: Callable[[], _Answer],
    *,
    timeout_s: float,
    retry: Callable[[VaultError], bool] = _away,
    **context: str,
) -> _Answer:
    """What `attempt` gives as soon as it gives something.

    An error that `retry` accepts is waited out for up to `timeout_s` seconds, with back-off and jitter; the last one
    is then raised with the time that was waited. Any other is raised at once. `context` goes into the log.
    """
    deadline = now() + timeout_s
    backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
    pause = threading.Event()
    last = ""
    while True:
        try:
            answer = attempt()
        except VaultError as error:
            if not retry(error):
                raise
            if now() >= deadline:
                waited = f" (waited {timeout_s:g} s)" if timeout_s else ""
                raise type(error)(f"{error.message}{waited}", hint=error.hint) from error
            if error.message != last:
                last = error.message
                _log.warning("waiting for Vault", problem=error.message, timeout_s=timeout_s, **context)
        else:
            if last:
                _log.info("Vault is there", **context)
            return answer
        pause.wait(min(backoff.next_s(), max(0.0, deadline - now())))
