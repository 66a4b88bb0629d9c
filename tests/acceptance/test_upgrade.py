"""An upgrade in the order of the runbook, under load, from the release whose schema was the first."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import sysconfig
import threading
import venv
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.earlier import unpack
from tests.fix_pipeline import BDLAB, Pipeline, running_pipeline
from tests.waiting import until

pytestmark = pytest.mark.long

POST = {"text": "This product is terrible!", "summary": "Product review"}


@pytest.fixture(scope="module")
def old_command(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """That release, installed into an environment of its own, with the dependencies of this one."""
    folder = tmp_path_factory.mktemp("old")
    unpack(folder / "tree")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    alone = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, *alone, str(folder / "tree")], check=True)
    return (str(python), "-m", "bdlab_cli")


class Load:
    """Posts one review after the other; `statuses` has what came back."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._post)
        self.statuses: list[int] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _post(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30, trust_env=False, verify=False) as client:  # noqa: S501
            while not self._over.wait(0.05):
                self.statuses.append(client.post("/predict", json=POST).status_code)

    def some_more(self) -> None:
        """Wait for 20 more answers."""
        count = len(self.statuses) + 20
        until(lambda: len(self.statuses) >= count)


def count(pipeline: Pipeline, table: str) -> int:
    with contextlib.closing(pipeline.database()) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")  # noqa: S608 - a name from below
        return int((cursor.fetchone() or (0,))[0])


@pytest.fixture
def pipeline(tmp_path: Path, old_command: tuple[str, ...]) -> Iterator[Pipeline]:
    class Old(Pipeline):
        command = old_command

        def environment(self, **more: str) -> dict[str, str]:
            return super().environment(BDLAB_KEYS_FILE=str(self.keys_file), **more)

    with running_pipeline(tmp_path, kind=Old) as started:
        yield started


def test_migrate_then_consume_then_serve(pipeline: Pipeline, old_command: tuple[str, ...]) -> None:
    with (
        pipeline.serve() as (_, client),
        pipeline.daemon("consume") as old_consumer,
        Load(str(client.base_url)) as load,
    ):
        load.some_more()
        until(lambda: count(pipeline, "predictions") >= 20)
        pipeline.command = BDLAB
        for step in ("vault-init", "migrate"):
            done = pipeline.run(step)
            assert done.returncode == 0, done.stdout + done.stderr
        # Over the connection that it has the old consumer holds its batch; a new one it does not use.
        old_consumer.wait_for("column s.cluster_id does not exist")
        stored = count(pipeline, "predictions")
        load.some_more()
        assert old_consumer.stop() == 0
        pipeline.command = old_command
        refused = pipeline.run("consume", "--startup-timeout", "1")
        assert refused.returncode == 1
        assert "is at version 2, newer than this bdlab knows (1)" in refused.stderr
        pipeline.command = BDLAB
        assert count(pipeline, "predictions") == stored
        with pipeline.daemon("consume") as consumer:
            load.some_more()
            until(lambda: count(pipeline, "predictions") >= len(load.statuses))
            with pipeline.serve() as (_, newer):
                assert newer.post("/predict", json=POST).status_code == 200
            load.some_more()
            assert consumer.stop() == 0
    assert set(load.statuses) == {200}
    drained = pipeline.run("consume", "--until-idle")
    assert drained.returncode == 0, drained.stderr
    verified = pipeline.run("verify")
    assert verified.returncode == 0, verified.stdout
    assert count(pipeline, "predictions") == len(load.statuses) + 1
    assert count(pipeline, "dead_letters") == count(pipeline, "duplicates") == 0
