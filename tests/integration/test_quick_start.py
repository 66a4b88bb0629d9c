"""The archive that spares Apache Kafka work at its start: made once, and never in the way."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bdlab.errors import StartInterrupted
from bdlab.stack import ApacheKafka
from bdlab.stack.servers import binaries, java, quick_start
from bdlab.stack.servers.java import Distribution
from tests.fix_servers import installed_or_skip

pytestmark = pytest.mark.kafka


@pytest.fixture
def kafka(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distribution:
    """The jars in a cache of their own, for which nothing was prepared yet."""
    with installed_or_skip():
        here = java.kafka()
        binaries.java()
    cache = tmp_path / "cache" / "bdlab"
    (cache / here.home.name).mkdir(parents=True)
    (cache / here.home.name / "libs").symlink_to(here.home / "libs")
    monkeypatch.delenv("BDLAB_KAFKA_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return java.kafka()


def uses_archive(broker: ApacheKafka, archive: Path) -> bool:
    """Whether its process has the archive in its memory."""
    assert broker.pid
    return str(archive) in Path(f"/proc/{broker.pid}/maps").read_text()


def test_it_is_made_once_and_one_that_does_not_fit_is_not_in_the_way(
    kafka: Distribution, tmp_path: Path
) -> None:
    archive = kafka.archive
    assert archive is not None
    assert quick_start.is_due(kafka)
    stop = threading.Event()
    stop.set()
    with pytest.raises(StartInterrupted):
        quick_start.prepare(kafka, stop)
    assert quick_start.is_due(kafka)
    (archive.parent / ".quick-start-killed").mkdir()

    quick_start.prepare(kafka)
    made = archive.stat()
    quick_start.prepare(kafka)
    assert (archive.stat().st_ino, archive.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert not quick_start.is_due(kafka)
    assert [file.name for file in archive.parent.glob(".quick-start-*")] == []
    with ApacheKafka(tmp_path / "quick", distribution=kafka) as broker:
        assert uses_archive(broker, archive)
    assert b"[aot" not in broker.log_file.read_bytes()

    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with ApacheKafka(tmp_path / "slow", distribution=kafka) as broker:
        assert broker.running
