"""The log: what a traceback shows, and the lines of predictions, which are written together."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from bdlab.events import Position
from bdlab_cli.output.logs import PublishedLines

_RUN = """
import logging, structlog
from bdlab.settings import LogSettings
from bdlab_cli.output import logs

logs.configure(LogSettings(format={form!r}))

def connect(password):
    revealed = password + "-revealed"
    raise RuntimeError("refused")

try:
    connect("".join(["pass", "word", "-4711"]))
except RuntimeError as error:
    structlog.get_logger().error("by bdlab", exc_info=error)
    logging.getLogger("uvicorn.error").error("by a library", exc_info=error)
"""


@pytest.mark.parametrize("debug", ["", "1"])
@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_shows_no_variable(form: str, debug: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RUN.format(form=form)],
        env=os.environ | {"BDLAB_DEBUG": debug},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr.count("RuntimeError: refused") == 2
    assert done.stderr.count("in connect") == 2
    assert "password-4711" not in done.stderr


_PREDICTIONS = """
import structlog
from bdlab.events import Position
from bdlab.settings import LogSettings
from bdlab_cli.output import logs

logs.configure(LogSettings(format={form!r}, level={level!r}))
lines, log = logs.published_lines(), structlog.get_logger()
for number, key in enumerate(("0193-a", "0193-b")):
    lines.published(key, Position("cluster", "topic", number, 10**number), "7a" * 16)
    log.info("published", id=key, partition=number, offset=10**number, trace_id="7a" * 16)
log.warning("other")
lines.published("last", Position("cluster", "topic", 1, 2), "7b" * 16)
"""


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_predictions_line_is_as_any_other_in_its_place_and_written_at_the_end(form: str) -> None:
    def logged(level: str) -> list[str]:
        command = [sys.executable, "-c", _PREDICTIONS.format(form=form, level=level)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return re.sub(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", "TIME", done.stderr).splitlines()

    first, second, third, fourth, other, last = logged("info")
    assert "TIME" in first
    assert (first, third) == (second, fourth)
    assert ("0193-a" in first, "0193-b" in third, "other" in other, "last" in last) == (True,) * 4
    assert logged("warning") == [other]


def test_lines_that_cannot_be_written_are_counted() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        lines = PublishedLines(full, shown=True)
        lines.render([lambda _, __, event: str(event)])
        for offset in range(3):
            lines.published("id", Position("cluster", "topic", 0, offset), "7c" * 16)
        assert lines.flush() == 3
        assert lines.flush() == 0


_BESIDE_A_BAR = """
import logging, structlog
from rich.progress import MofNCompleteColumn
from bdlab.settings import LogSettings
from bdlab_cli.output import logs
from bdlab_cli.output.progress import progress_bar

logs.configure(LogSettings())
structlog.get_logger().warning("before")
with progress_bar(MofNCompleteColumn()) as bar:
    bar.add_task("publishing", total=5)
    bar.refresh()
    structlog.get_logger().warning("by bdlab")
    logging.getLogger("librdkafka").warning("by a library")
structlog.get_logger().warning("after")
"""


def test_a_line_of_the_log_is_written_above_a_progress_bar() -> None:
    master, slave = pty.openpty()
    subprocess.run([sys.executable, "-c", _BESIDE_A_BAR], stderr=slave, timeout=60, check=True)
    os.close(slave)
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert "publishing" in shown
    # What is on the line before the text: nothing is left after the terminal was told to erase the line.
    before = {
        text: re.sub(r".*\x1b\[2K", "", re.split(r"[\r\n]", shown.partition(text)[0])[-1])
        for text in ("before", "by bdlab", "by a library", "after")
    }
    assert all(re.match(r"(\x1b\[[0-9;]*m)*\d{4}-\d\d-\d\dT", line) for line in before.values()), before
