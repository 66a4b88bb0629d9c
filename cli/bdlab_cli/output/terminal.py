"""The standard streams: a failed write fails no work, and foreign text cannot steer a terminal."""

from __future__ import annotations

import codecs
import errno
import io
import os
import re
import select
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from bdlab_cli.output.console import Console

#: Control characters except tab and line feed, and characters that turn the direction of text or end a line.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
#: What is written instead if the encoding lacks one of these; any other character is written as its number.
_PLAIN = {"★": "*", "☆": ".", "…": "...", "✓": "+", "✗": "x", "–": "-", "’": "'"}
_ERRORS = "bdlab"


class _Output(io.RawIOBase):
    """A file descriptor that reports no error to those who write to it. If `lasting`, nothing more is written after the
    first failure, so that the output has no gap; else, as for a log, it goes on once the disk has room."""

    mode = "wb"

    def __init__(self, descriptor: int, name: str, *, lasting: bool) -> None:
        self.name, self._descriptor, self._lasting = name, descriptor, lasting
        self.failure: OSError | None = None
        self.told = False

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self.isatty():
            return self._write(data)
        with _line.lock:
            line("")  # until it is renewed
            _line.free = bytes(data[-1:]) == b"\n"
            return self._write(data)

    def _write(self, data: Any) -> int:
        while not (self.failure and self._lasting):
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError as error:
                self.failure = error
                break
        return len(data)


class _Line:
    """The last line of the terminal, which renews itself; what is written meanwhile goes above it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.free = True  # no line that somebody else has not ended stands there
        self._shown = False
        free = self.lock.release
        os.register_at_fork(before=self.lock.acquire, after_in_parent=free, after_in_child=free)

    def draw(self, text: str) -> None:
        """Show `text` in the place of what was shown there; "" takes it away until the next `draw`."""
        with self.lock, suppress(OSError):  # the terminal may be gone
            if self.free and (text or self._shown):
                self._shown = bool(text)
                width = (os.get_terminal_size(2).columns or 80) - 1
                os.write(2, f"\r\x1b[K{visible(text)[:width]}".encode("ascii", "replace"))


_line = _Line()
line = _line.draw
_results = _Output(1, "<stdout>", lasting=True)
_messages = _Output(2, "<stderr>", lasting=False)


def prepare() -> None:
    """Replace Python's standard streams by ones that can write any text; those of a test stay. A descriptor that the
    caller closed is opened on /dev/null, in the wrong mode so that using it still fails. Otherwise the next socket
    would become the standard output."""
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)
    codecs.register_error(_ERRORS, _in_plain)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(_results, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(_messages, sys.stderr)


def _stream(output: _Output, before: TextIO | None) -> TextIO:
    encoding, by_line = before.encoding if before else "utf-8", output is _messages or output.isatty()
    return io.TextIOWrapper(io.BufferedWriter(output), encoding, _ERRORS, line_buffering=by_line)


def _in_plain(error: UnicodeError) -> tuple[str, int]:
    """Return what an encoding lacks in characters that every encoding has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    shown = (_PLAIN.get(char) or char.encode("ascii", "backslashreplace").decode() for char in lacking)
    return "".join(shown), error.end


def visible(text: str) -> str:
    r"""Return the text with characters that would steer a terminal as ``\u001b``; JSON keeps its meaning."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def echo(text: object = "", *, err: bool = False) -> None:
    """Write a line to standard output, or to standard error."""
    stream = sys.stderr if err else sys.stdout
    stream.write(f"{visible(str(text))}\n")
    stream.flush()


def stdout(*, err: bool = False) -> Console:
    """Return Rich's console for results, or with `err` for everything else: progress, advice, waits."""
    from bdlab_cli.output.console import Console

    return Console(sys.stderr if err else sys.stdout)


stderr = partial(stdout, err=True)


def echo_json(value: object) -> None:
    """Write a line of JSON to standard output, in UTF-8 whatever the terminal's encoding is."""
    import msgspec

    echo_encoded(msgspec.json.encode(value))


def echo_result(value: object, text: object, *, as_json: bool) -> None:
    """Write a result as JSON, or else as `text`."""
    echo_json(value) if as_json else echo(text)


def echo_change(what: str, change: str, *, as_json: bool) -> None:
    """Write what was done to a thing; "" if it stands as it was."""
    echo_result({"what": what, "change": change}, f"{what}: {change or 'unchanged'}", as_json=as_json)


def echo_encoded(content: bytes) -> None:
    """Write a line of UTF-8 to standard output."""
    sys.stdout.flush()
    sys.stdout.buffer.write(visible(content.decode()).encode() + b"\n")
    sys.stdout.buffer.flush()


def write(text: str) -> None:
    """Write a part of a file to standard output, in UTF-8; for a terminal what would steer it is escaped."""
    sys.stdout.buffer.write((visible(text) if sys.stdout.isatty() else text).encode("utf-8", "backslashreplace"))


def failed() -> bool:
    """Return whether standard output takes nothing more."""
    return _results.failure is not None


def take_failure() -> str:
    """Return why standard output could not be written, or nothing. `finish` does not tell it again."""
    sys.stdout.flush()
    _results.told = True
    return _why(_results.failure) if _results.failure else ""


def _why(failure: OSError) -> str:
    if failure.errno == errno.EPIPE:
        return "its reader is gone"
    return "it is closed" if failure.errno == errno.EBADF else (failure.strerror or str(failure)).lower()


def finish(code: int) -> int:
    """Tell of results that were lost, and return the exit code: `code`, or 1 if it was 0 and some are lost. A reader
    that has seen enough (``| head``) is not a failure."""
    sys.stdout.flush()
    line("")
    _line.free = False  # the shell's prompt comes next
    failure = _results.failure
    if failure is None or _results.told or failure.errno == errno.EPIPE:
        return code
    echo(f"error: standard output cannot be written: {_why(failure)}", err=True)
    echo(f"The command itself ended with exit code {code}; what it printed is lost.", err=True)
    return code or 1
