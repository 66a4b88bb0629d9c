"""Structured logs on standard error: lines for a person if it is a terminal, and JSON if not."""

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
    """Escape text of servers and files, so that it does not steer the terminal; JSON escapes it anyway."""
    return {
        visible(key): visible(value if key == "exception" else value.replace("\n", "\\n"))
        if isinstance(value, str)
        else value
        for key, value in event.items()
    }


def configure(settings: LogSettings, *, quiet: bool = False) -> None:
    """Send bdlab's log, and the warnings of its libraries, to standard error in one form."""
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
                # The default shows each frame's variables, which may hold secrets.
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
    # The libraries' debug lines may hold request headers, and so tokens.
    root.setLevel(max(level, logging.WARNING))
