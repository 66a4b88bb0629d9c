"""What keeps the sink waiting, in a few lines of log however often it tries."""

from __future__ import annotations

import time

import structlog

from bdlab.errors import BdlabError

log = structlog.get_logger()


class Outage:
    """Logs once when something begins to fail, once for each other kind of error, and once at the end."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._told: set[type[BdlabError]] = set()
        self._since = 0.0

    def met(self, error: BdlabError) -> None:
        if type(error) in self._told:
            return
        if not self._told:
            self._since = time.monotonic()
        self._told.add(type(error))
        log.warning(self._what, problem=error.message)

    def over(self) -> None:
        """It works; says so where it did not before."""
        if self._told:
            self._told.clear()
            log.info("going on", after=self._what, seconds=round(time.monotonic() - self._since, 1))
