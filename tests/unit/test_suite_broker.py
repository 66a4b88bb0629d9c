"""Which broker the suite itself runs on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.brokers import choose

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Apache Kafka, whose cache is still to be filled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BDLAB_KAFKA_HOME", raising=False)
    return tmp_path


def test_apache_kafka_if_it_is_there(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar = bare / "kafka" / "libs" / "kafka_2.13-4.4.0.jar"
    jar.parent.mkdir(parents=True)
    jar.touch()
    monkeypatch.setenv("BDLAB_KAFKA_HOME", str(bare / "kafka"))
    for variables in ({}, {"CI": "true"}):
        assert choose(variables) == ("kafka", str(bare / "kafka"))


def test_tansu_only_without_it_and_never_in_ci_unasked(bare: Path) -> None:
    kind, why = choose({})
    assert kind == "tansu"
    assert "Apache Kafka 4 is not installed" in why
    assert "bdlab fetch-kafka" in why
    with pytest.raises(pytest.UsageError, match=r"bdlab fetch-kafka.*BDLAB_TEST_BROKER=tansu"):
        choose({"CI": "true"})
    assert choose({"CI": "true", "BDLAB_TEST_BROKER": "tansu"}).kind == "tansu"


@pytest.mark.parametrize("kind", ["kafka", "cluster", "zookeeper", "tansu"])
def test_who_names_one_gets_it(bare: Path, kind: str) -> None:
    assert choose({"BDLAB_TEST_BROKER": kind}).kind == kind


def test_a_name_of_none_is_wrong_usage() -> None:
    with pytest.raises(pytest.UsageError, match=r"BDLAB_TEST_BROKER=Kafka is none of .*kafka, cluster"):
        choose({"BDLAB_TEST_BROKER": "Kafka"})


def test_with_only_pypi_in_reach_the_suite_runs_on_tansu(bare: Path) -> None:
    """Tests that bring a Kafka of their own are skipped; those about a log that stays are left out."""
    chosen = {
        "tests/integration/test_kafka_producer.py": "asyncio or restart_under_load",
        "tests/integration/test_kafka_limits.py": "above_the_topics_limit",
    }
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "CI" and not name.startswith(("PYTEST", "BDLAB_TEST"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", *chosen, "-k", " or ".join(chosen.values())],
        cwd=ROOT,
        env=kept,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search("^broker: tansu: Apache Kafka 4 is not installed", done.stdout, re.MULTILINE)
    assert re.search(r"^=+ 1 passed, 1 skipped, \d+ deselected in ", done.stdout, re.MULTILINE), done.stdout
    assert re.search("SKIPPED .*Run `bdlab fetch-kafka`", done.stdout)
