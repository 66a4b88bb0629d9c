"""Java's ahead-of-time cache for Apache Kafka: made once, and no harm if it does not fit."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bdlab.errors import StartInterrupted
from bdlab.stack import ApacheKafka
from bdlab.stack.servers import binaries, java
from bdlab.stack.servers.java import Distribution
from bdlab.stack.servers.kafka import make_aot_cache
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


def maps(broker: ApacheKafka, cache_file: Path) -> bool:
    """Whether its process has the cache_file in its memory."""
    assert broker.pid
    return str(cache_file) in Path(f"/proc/{broker.pid}/maps").read_text()


def test_it_is_made_once_and_one_that_does_not_fit_is_not_in_the_way(kafka: Distribution, tmp_path: Path) -> None:
    cache_file = kafka.aot_cache
    assert not cache_file.exists()
    stop = threading.Event()
    stop.set()
    with pytest.raises(StartInterrupted):
        make_aot_cache(kafka, stop)
    assert not cache_file.exists()
    (cache_file.parent / ".aot-cache-killed").mkdir()

    make_aot_cache(kafka)
    made = cache_file.stat()
    make_aot_cache(kafka)
    assert (cache_file.stat().st_ino, cache_file.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert cache_file.exists()
    assert [file.name for file in cache_file.parent.glob(".aot-cache-*")] == []
    with ApacheKafka(tmp_path / "quick", distribution=kafka) as broker:
        assert maps(broker, cache_file)
    assert b"[aot" not in broker.log_file.read_bytes()

    content = cache_file.read_bytes()
    cache_file.write_bytes(content[: len(content) // 2])
    with ApacheKafka(tmp_path / "slow", distribution=kafka) as broker:
        assert broker.running
