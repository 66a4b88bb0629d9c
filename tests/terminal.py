"""A command at a terminal of its own, as a person has it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

BDLAB = (sys.executable, "-m", "bdlab_cli")
_ENDS_WITHIN_S = 60.0
#: Becomes a program whose terminal this is: the kernel tells it when the terminal closes.
_IN_CONTROL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """A command that a person runs: `screen` is all that has been shown."""

    def __init__(self, arguments: list[str], env: dict[str, str], command: Sequence[str] = BDLAB) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_CONTROL, *command, *arguments],
            env=env,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        os.set_blocking(self._master, False)
        self.screen = ""

    @property
    def lines(self) -> list[str]:
        """What stands there, without colours and what was shown for a while in a line that renews itself."""
        return [re.sub(r"\x1b\[[0-9;]*m", "", line.rpartition("\r\x1b[K")[2]) for line in self.screen.split("\n")]

    def shows(self, text: str, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while text not in self.screen and time.monotonic() < deadline:
            self._read()
            time.sleep(0.02)
        return text in self.screen

    def types(self, line: str) -> None:
        os.write(self._master, f"{line}\n".encode())

    def ended(self) -> int:
        """Its exit code; `screen` is whole then."""
        deadline = time.monotonic() + _ENDS_WITHIN_S
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read()
            time.sleep(0.02)
        code = self.process.wait(1)
        self._read()
        return code

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def hang_up(self) -> None:
        """Close the terminal, as its window does: SIGHUP, and from then on nothing can be written to it."""
        os.close(self._master)
        self._master = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self._master >= 0:
            os.close(self._master)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # nothing there yet, or its end
            while data := os.read(self._master, 1 << 16):
                self.screen += data.decode(errors="replace").replace("\r\n", "\n")
