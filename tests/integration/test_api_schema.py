"""The API against its own OpenAPI document, by a tester that reads nothing else (schemathesis)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tls
from tests.fix_api import MemoryApi, serving
from tests.fix_pipeline import Pipeline
from tests.plants import PlantScorer
from tests.rounds import rounds
from tests.waiting import until

SEED = 20261126
ROOT = Path(__file__).parents[2]


def run_tester(url: str, folder: Path, *, examples: int, paths: str = "") -> None:
    """Have schemathesis make all of its checks, with so many examples for each operation of `paths`."""
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json",
        "--checks=all", f"--seed={SEED}", f"--max-examples={examples}", "--generation-database=none",
        "--request-timeout=60", "--suppress-health-check=all", "--no-color", f"--include-path-regex={paths}",
    ]  # fmt: skip
    if tls.FOLDER:
        command.append(f"--tls-verify={tls.FOLDER.ca_file}")
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "NO_PROXY": "*", "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    operations = re.search(r"Operations: +(\d+) selected / (\d+) total", done.stdout)
    assert operations
    assert (operations[1] == operations[2]) is not bool(paths)
    ran = re.search(r"(\d+) generated, (\d+) passed\n", done.stdout)
    assert ran, done.stdout
    assert ran[1] == ran[2]
    assert int(ran[1]) > examples


@pytest.mark.once
@pytest.mark.parametrize(
    "examples",
    [20, pytest.param(rounds(50, 1000), marks=[pytest.mark.long, pytest.mark.plaintext("the same with TLS")])],
)
def test_a_tester_that_reads_the_document_finds_nothing(pipeline: Pipeline, tmp_path: Path, examples: int) -> None:
    with pipeline.serve() as (_, client), pipeline.daemon("consume"):
        until(lambda: client.get("/health").json()["status"] == "healthy")
        run_tester(str(client.base_url).rstrip("/"), tmp_path, examples=examples)


@pytest.mark.once
@pytest.mark.plaintext("the same with TLS")
def test_a_tester_that_reads_the_document_of_another_contract_finds_nothing(tmp_path: Path) -> None:
    api, examples = MemoryApi(scorer=PlantScorer()), rounds(15, 1000)
    with api.producer, serving(api.parts) as client:
        url = str(client.base_url).rstrip("/")
        run_tester(url, tmp_path, examples=examples, paths="^/predict(/batch)?$")
    assert len(api.records()) > examples
