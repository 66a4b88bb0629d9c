"""Structured logs on stderr: JSON where it is no terminal, lines for a person where it is."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING, TextIO, cast

import structlog

if TYPE_CHECKING:
    from bdlab.settings import LogSettings


class Unfailing:
    """A stream whose writer never hears that it cannot be written.

    A full disk under the log must not fail the request, or end the consumer, that had something to say.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def configure(settings: LogSettings, *, quiet: bool = False) -> None:
    """Send bdlab's log, and the warnings of the libraries under it, to stderr in one form."""
    level = logging.DEBUG if os.environ.get("BDLAB_DEBUG") else getattr(logging, settings.level.upper())
    if quiet and level == logging.INFO:
        level = logging.WARNING
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    stream = cast("TextIO", Unfailing(sys.stderr))
    before: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=repr)]
        if as_json
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                # The default shows each frame's variables, and with them whatever secret is in one.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    )
    structlog.configure(
        processors=[*before, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # The libraries' own debug lines may hold request headers, and with them tokens.
    root.setLevel(max(level, logging.WARNING))
