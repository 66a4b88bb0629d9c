"""Structured logs on stderr: JSON where it is no terminal, lines for a person where it is."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

import structlog

from bdlab_cli.output.terminal import visible

if TYPE_CHECKING:
    from bdlab.settings import LogSettings


def _show_steering(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """So that what a server or a file named in a line does not steer the terminal; JSON escapes by itself."""
    return {
        visible(key): visible(value if key == "exception" else value.replace("\n", "\\n"))
        if isinstance(value, str)
        else value
        for key, value in event.items()
    }


def configure(settings: LogSettings, *, quiet: bool = False) -> None:
    """Send bdlab's log, and the warnings of the libraries under it, to stderr in one form."""
    level = logging.DEBUG if os.environ.get("BDLAB_DEBUG") else getattr(logging, settings.level.upper())
    if quiet and level == logging.INFO:
        level = logging.WARNING
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    before: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=repr)]
        if as_json
        else [
            structlog.processors.format_exc_info,
            _show_steering,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                # The default shows each frame's variables, and with them whatever secret is in one.
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    )
    structlog.configure(
        processors=[*before, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
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
