"""`bdlab demo` as a newcomer runs it: no terminal, no input, exit code 0, nothing left."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import joblib
import pytest
from sklearn.linear_model import LinearRegression

from bdlab.model.scorer import Card, File, encode_card, sha256_of
from bdlab.stack import DataFolder
from bdlab.stack.servers import binaries
from tests.fix_up import DEFAULT_BROKER, ENVIRONMENT

DEMO = [sys.executable, "-m", "bdlab_cli", "demo"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The shell's, with temporary folders under this test's own."""
    return ENVIRONMENT | {"TMPDIR": str(tmp_path), "COLUMNS": "120"}


def demo(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end, with its output kept."""
    return subprocess.run(
        [*DEMO, *options],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=500,
        check=False,
    )


def test_all_of_it_holds_and_nothing_is_left(tmp_path: Path, environment: dict[str, str]) -> None:
    # Servers of somebody else in the environment must not matter, nor proxies that answer nobody.
    environment |= {"VAULT_ADDR": "http://127.0.0.1:1", "BDLAB_POSTGRES_HOST": "127.0.0.1"}
    environment |= dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:1")
    environment |= {"BDLAB_VAULT_PROXY": "http://127.0.0.1:1", "VAULT_NAMESPACE": "theirs"}
    done = demo(environment)
    assert done.returncode == 0, done.stdout + done.stderr
    for step in (
        "bdlab train --from-store",
        "bdlab rescore",
        "bdlab compare",
        "promote --if-better",
        "without a restart",
    ):
        assert step in done.stderr
    before, after = re.findall(r"live error of (\S+): MSE (\S+) stars², (\d+) right answers", done.stderr)
    assert (before[0], before[2], after[0], after[2]) == ("reviews@1.1.0", "400", "reviews@1.1.0+demo", "100")
    assert float(before[1]) > 4
    assert float(after[1]) < 1
    assert done.stderr.count("✗") == 0
    assert f"started {DEFAULT_BROKER}" in done.stderr
    for step in ("started openbao", "vault-init", "migrate", "6 reviews over HTTP", "12 rows", "left nothing"):
        assert step in done.stderr
    assert "verified" in done.stdout
    for column in ("review", "stars", "sentiment", "top words", "partition/offset"):
        assert column in done.stdout
    assert len(re.findall(r"\b[0-5]/\d+\b", done.stdout)) >= 12
    assert list(tmp_path.iterdir()) == []
    assert DataFolder(tmp_path).processes() == []


def houses(folder: Path) -> Path:
    """The card of a model that is none of reviews."""
    model = LinearRegression().fit([[50.0, 2, 0], [80.0, 3, 1], [120.0, 4, 1]], [150.0, 260.0, 400.0])
    joblib.dump(model, folder / "houses.joblib")
    fields = {
        "Living area": {"type": "number", "minimum": 10, "maximum": 200},
        "rooms": {"type": "integer", "minimum": 1, "default": 2},
        "garden": {"type": "boolean"},
    }
    inputs = {"title": "House", "properties": fields, "required": ["Living area", "garden"]}
    contract = {
        "input": {"type": "object"} | inputs,
        "output": {"type": "object", "properties": {"prediction": {"type": "number"}}},
    }
    content = (folder / "houses.joblib").read_bytes()
    file = File(role="pipeline", sha256=sha256_of(content), bytes=len(content))
    card = folder / "houses.card.json"
    card.write_bytes(encode_card(Card(name="houses", version="1", files={"houses.joblib": file}, contract=contract)))
    return card


def test_with_only_pypi_in_reach_it_runs_any_model_in_memory_and_says_so(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    postgres = binaries.postgres()  # unpacked once for all tests
    (elsewhere / "bdlab").mkdir()
    (elsewhere / "bdlab" / postgres.name).symlink_to(postgres)
    settings = elsewhere / "jgo.conf"
    settings.write_text("[repositories]\ncentral = http://127.0.0.1:1/maven\n")
    environment |= {"XDG_CACHE_HOME": str(elsewhere), "M2_REPO": str(elsewhere), "BDLAB_STACK_BROKER": "auto"}
    done = demo(environment | {"JGO_CONFIG_FILE": str(settings)}, "--keep", "--model", str(houses(elsewhere)))
    assert done.returncode == 0, done.stdout + done.stderr
    for step in ("6 houses over HTTP", "6 houses with", "12 rows"):
        assert step in done.stderr
    for column in ("living_area", "rooms", "garden", "prediction", "partition/offset"):
        assert column in done.stdout
    assert "verified: 12 stored" in done.stdout
    assert "no second version is trained" in done.stderr
    assert "Watch it in the console until it ends: http://127.0.0.1:" in done.stderr
    first = " ".join(done.stderr.splitlines()[:2])
    assert "in memory only: what is not stored yet is lost when it ends" in first
    assert "127.0.0.1:1/maven" in first
    assert "jgo.conf" in first
    assert done.stderr.splitlines()[-1].endswith("in memory only: what is not stored yet is lost when it ends")


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
