"""`bdlab demo` as a newcomer runs it: no terminal, no input, exit code 0, nothing left."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bdlab.stack import DataFolder
from bdlab.stack.servers import binaries
from tests.fix_up import DEFAULT_BROKER, ENVIRONMENT

DEMO = [sys.executable, "-m", "bdlab_cli", "demo"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The shell's, with temporary folders under this test's own."""
    return ENVIRONMENT | {"TMPDIR": str(tmp_path), "COLUMNS": "120"}


def demo(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run it to its end, with its output kept."""
    return subprocess.run(
        DEMO,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def test_all_of_it_holds_and_nothing_is_left(tmp_path: Path, environment: dict[str, str]) -> None:
    # Servers of somebody else in the environment must not matter, nor proxies that answer nobody.
    environment |= {"VAULT_ADDR": "http://127.0.0.1:1", "BDLAB_POSTGRES_HOST": "127.0.0.1"}
    environment |= dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:1")
    environment |= {"BDLAB_VAULT_PROXY": "http://127.0.0.1:1", "VAULT_NAMESPACE": "theirs"}
    done = demo(environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("✗") == 0
    assert f"started {DEFAULT_BROKER}" in done.stderr
    for step in (
        "started openbao",
        "vault-init",
        "migrate",
        "6 reviews over HTTP",
        "12 rows",
        "left nothing",
    ):
        assert step in done.stderr
    assert "verified" in done.stdout
    for column in ("review", "stars", "sentiment", "top words", "partition/offset"):
        assert column in done.stdout
    assert len(re.findall(r"\b[0-5]/\d+\b", done.stdout)) >= 12
    assert list(tmp_path.iterdir()) == []
    assert DataFolder(tmp_path).processes() == []


def test_with_only_pypi_in_reach_it_runs_in_memory_and_says_so(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    postgres = binaries.postgres()  # unpacked once for all tests
    (elsewhere / "bdlab").mkdir()
    (elsewhere / "bdlab" / postgres.name).symlink_to(postgres)
    settings = elsewhere / "jgo.conf"
    settings.write_text("[repositories]\ncentral = http://127.0.0.1:1/maven\n")
    environment |= {"XDG_CACHE_HOME": str(elsewhere), "M2_REPO": str(elsewhere), "BDLAB_STACK_BROKER": "auto"}
    done = demo(environment | {"JGO_CONFIG_FILE": str(settings)})
    assert done.returncode == 0, done.stdout + done.stderr
    first = " ".join(done.stderr.splitlines()[:2])
    assert "in memory only: what is not stored yet is lost when it ends" in first
    assert "127.0.0.1:1/maven" in first
    assert "jgo.conf" in first
    assert done.stderr.splitlines()[-1].endswith(
        "in memory only: what is not stored yet is lost when it ends"
    )


def test_a_step_that_fails_is_named_and_nothing_is_left(tmp_path: Path, environment: dict[str, str]) -> None:
    environment |= {"BDLAB_MODEL_PATH": str(tmp_path / "missing.json"), "BDLAB_STACK_BROKER": "tansu"}
    done = demo(environment)
    assert done.returncode == 1
    assert "missing.json" in done.stderr
    assert "✗" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert DataFolder(tmp_path).processes() == []


def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    with subprocess.Popen(
        DEMO, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if b"started postgres" in line:
                break
        running.send_signal(signal.SIGINT)
        running.stderr.read()
        assert running.wait(60) == 1
    assert list(tmp_path.iterdir()) == []
    assert DataFolder(tmp_path).processes() == []
