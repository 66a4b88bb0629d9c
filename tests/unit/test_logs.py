"""What a traceback in the log shows: where it happened, and no variable."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
