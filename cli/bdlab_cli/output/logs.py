"""Structured logs on standard error: lines for a person if it is a terminal, and JSON if not."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO, cast

import structlog
from structlog.contextvars import merge_contextvars
from structlog.processors import TimeStamper
from structlog.stdlib import ProcessorFormatter, add_log_level
from structlog.typing import EventDict, Processor

from bdlab_cli.output.terminal import visible

if TYPE_CHECKING:
    from bdlab.events import Position
    from bdlab.settings import LogSettings


def _show_steering(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Escape text of servers and files, so that it does not steer the terminal; JSON escapes it anyway."""
    texts = {key: value for key, value in event.items() if isinstance(value, str)}
    texts |= {key: value.replace("\n", "\\n") for key, value in texts.items() if key != "exception"}
    return {visible(key): visible(texts[key]) if key in texts else value for key, value in event.items()}


class _Stderr:
    """Standard error as it is now: while a progress bar is shown, what is written goes above it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class PublishedLines:
    """The lines of acknowledged predictions, which are written together: one by one they cost too much. A line is the
    one that structlog makes of the same event. As a processor of all other events it sees to it that none of them is
    written before an earlier prediction. Lines may be added on one thread only."""

    def __init__(self, stream: TextIO, *, shown: bool) -> None:
        self._stream, self._shown, self._form, self._lost = stream, shown, "", 0
        self._lines: deque[str] = deque()
        self._lock = threading.RLock()  # a signal's handler may flush within a flush
        atexit.register(self.flush)

    def render(self, processors: Sequence[Processor]) -> None:
        """Learn from `processors`, which make an event a line, how a line looks."""
        # Marks that are the same in every format, instead of what differs from line to line.
        marks: dict[str, object] = {"id": "xxidxx", "partition": 1_000_000_007, "offset": 1_000_000_009}
        marks |= {"trace_id": "xxtracexx", "timestamp": "xxtimestampxx"}
        line: Any = marks | {"event": "published", "level": "info"}
        line["timestamp"] = line.pop("timestamp")  # the last, as in other lines
        for processor in processors:
            line = processor(None, "info", line)
        self._form = f"{line}\n".replace("%", "%%")
        for name, mark in marks.items():
            self._form = self._form.replace(str(mark), f"%({name})s")

    def __call__(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        if self._lines:
            self._write()
        return event

    def published(self, prediction_id: str, position: Position, trace_id: str) -> None:
        """Keep the line of a prediction for the next `flush`, or for the next other line."""
        if self._shown:
            values: dict[str, object] = {"id": prediction_id, "partition": position.partition, "trace_id": trace_id}
            values["offset"], values["timestamp"] = position.offset, datetime.now(UTC).isoformat()[:-6] + "Z"
            self._lines.append(self._form % values)

    def flush(self) -> int:
        """Write what is kept, and return how many lines could not be written since the last call."""
        if self._lines:
            self._write()
        lost, self._lost = self._lost, 0
        return lost

    def _write(self) -> None:
        with self._lock:
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            data = "".join(lines).encode()
            try:
                while data:  # past the stream's buffer, which would keep what fails
                    data = data[os.write(self._stream.fileno(), data) :]
            except (OSError, ValueError):  # the latter if the stream is closed
                self._lost += max(1, data.count(b"\n"))


def published_lines() -> PublishedLines:
    """Return those of the present configuration."""
    found: Iterable[object] = structlog.get_config()["processors"]
    return next(one for one in found if isinstance(one, PublishedLines))


def configure(settings: LogSettings, *, quiet: bool = False) -> None:
    """Send bdlab's log, and the warnings of its libraries, to standard error in one form."""
    level = logging.DEBUG if os.environ.get("BDLAB_DEBUG") else getattr(logging, settings.level.upper())
    if quiet and level == logging.INFO:
        level = logging.WARNING
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    published = PublishedLines(sys.stderr, shown=level <= logging.INFO)
    before: list[Processor] = [published, merge_contextvars, add_log_level, TimeStamper(fmt="iso", utc=True)]
    last: list[Processor] = [structlog.processors.format_exc_info]
    if as_json:
        last.append(structlog.processors.JSONRenderer(default=repr))
    else:
        # The default shows each frame's variables, which may hold secrets.
        shown = structlog.dev.plain_traceback
        last += [_show_steering, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=shown)]
    published.render(last)
    stream = _Stderr()
    structlog.configure(
        processors=[*before, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", stream)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    last.insert(0, ProcessorFormatter.remove_processors_meta)
    handler.setFormatter(ProcessorFormatter(foreign_pre_chain=before, processors=last))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # The libraries' debug lines may hold request headers, and so tokens.
    root.setLevel(max(level, logging.WARNING))
