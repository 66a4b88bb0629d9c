"""Help is whole and instant: what the command line does not import; and scoring needs no scientific stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bdlab_cli.app import COMMANDS

HEAVY = {"sklearn", "litestar", "hvac", "confluent_kafka", "psycopg2"}
SCIENTIFIC = {"sklearn", "numpy", "scipy", "joblib"}

_RUN = """
import json, sys
from bdlab_cli.app import main
try:
    main(sys.argv[1:])
finally:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""

_API = """
import asyncio, json, sys
from bdlab import tracing
from bdlab.serving import make_app
from bdlab_cli.wiring import api, bulk_predict, sink
from tests.fix_api import MemoryApi
async def made():
    assert tracing.start("serve", {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"}) is None
    make_app(MemoryApi().parts())
asyncio.run(made())
print(json.dumps([name for name in sys.modules if name.startswith(("litestar", "pydantic", "opentelemetry"))]))
"""


def imported_by(*arguments: str) -> set[str]:
    """The top-level packages that `bdlab` with these arguments has imported when it ends."""
    ended = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stderr.splitlines()[-1]))


def test_the_measure_sees_an_import() -> None:
    assert {"typer", "bdlab_cli"} <= imported_by("--help")


def test_help_imports_none_of_the_servers_clients() -> None:
    assert not imported_by("--help") & (HEAVY | SCIENTIFIC | {"bdlab"})


@pytest.mark.parametrize("command", ["serve", "predict", "status", "consume", "vault-init", "migrate", "verify"])
def test_a_commands_help_imports_none_either(command: str) -> None:
    assert command in COMMANDS
    assert not imported_by(command, "--help") & (HEAVY | SCIENTIFIC)


def test_scoring_here_imports_neither_the_scientific_stack_nor_a_client() -> None:
    found = imported_by("predict", "--no-publish", "--summary", "fine", "Great taste, will buy again.")
    assert not found & (HEAVY | SCIENTIFIC | {"pydantic"})
    assert "bdlab" in found


def test_the_api_imports_no_pydantic_and_what_makes_spans_only_if_it_is_asked_for() -> None:
    """Litestar would import pydantic, where it is installed."""
    ended = subprocess.run([sys.executable, "-c", _API], capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(ended.stdout)
    assert "litestar.app" in found
    assert not [name for name in found if name.startswith(("pydantic", "opentelemetry.trace", "opentelemetry.sdk"))]


def test_rich_is_imported_by_a_command_that_shows_something_by_it_and_by_no_library() -> None:
    assert "rich" not in imported_by("predict", "--no-publish", "--json", "Great taste, will buy again.")
    assert "rich" in imported_by("status", "--check", "model")


def test_checking_the_model_imports_no_client() -> None:
    assert not imported_by("status", "--check", "model") & (HEAVY | SCIENTIFIC)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_whole_on_a_terminal_of_80_columns(command: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "bdlab_cli", command, "--help"],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "Usage:" in ended.stdout
    assert "…" not in ended.stdout
