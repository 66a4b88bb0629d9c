"""Waiting for a Vault that is not there yet, with one line of log whenever the reason changes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import structlog

from bdlab.errors import VaultError, VaultUnavailable
from bdlab.retry import Backoff
from bdlab.vault.leases import now

_Answer = TypeVar("_Answer")

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
#: A Vault that has just been opened is a standby for some milliseconds: nobody needs to hear of that.
_QUIET_S = 0.3

_log = structlog.get_logger()


def _away(error: VaultError) -> bool:
    return isinstance(error, VaultUnavailable)


def wait_for(
    attempt: Callable[[], _Answer],
    *,
    timeout_s: float,
    retry: Callable[[VaultError], bool] = _away,
    stop: threading.Event | None = None,
    waiting: Callable[[], None] | None = None,
    **context: str,
) -> _Answer:
    """What `attempt` gives as soon as it gives something.

    An error that `retry` accepts is waited out for up to `timeout_s` seconds, with back-off and jitter; the
    last one is then raised with the time that was waited. Any other is raised at once. `stop`, once set, ends
    the wait; `waiting` is called when it is known to be one; `context` goes into the log.
    """
    began = now()
    deadline = began + timeout_s
    backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
    pause = stop or threading.Event()
    last = ""
    while True:
        try:
            answer = attempt()
        except VaultError as error:
            if not retry(error):
                raise
            if now() >= deadline or pause.is_set():
                raise type(error)(
                    f"{error.message} (waited {now() - began:.0f} s)", hint=error.hint
                ) from error
            if error.message != last and now() - began >= _QUIET_S:
                if waiting and not last:
                    waiting()
                last = error.message
                _log.warning("waiting for Vault", problem=error.message, timeout_s=timeout_s, **context)
        else:
            if last:
                _log.info("Vault is there", **context)
            return answer
        pause.wait(min(backoff.next_s(), max(0.0, deadline - now())))
