"""Which broker a local stack gets: Apache Kafka if it can be had, and what its folder began with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bdlab.errors import BinaryMissing, StackError
from bdlab.stack import DataFolder
from bdlab.stack.brokers import choose_broker
from bdlab.stack.servers import java


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataFolder:
    """A new one, on a machine whose cache is empty and whose mirror is dead."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    monkeypatch.setenv("JGO_CONFIG_FILE", str(tmp_path / "jgo.conf"))
    monkeypatch.delenv("BDLAB_KAFKA_HOME", raising=False)
    (tmp_path / "jgo.conf").write_text("[repositories]\ncentral = http://127.0.0.1:1/maven\n")
    folder = DataFolder(tmp_path / "stack")
    folder.path.mkdir()
    return folder


def install() -> None:
    """One of another version, as an earlier bdlab has left it."""
    libs = java.pinned_kafka().home.with_name("kafka-4.0.7") / "libs"
    libs.mkdir(parents=True)
    (libs / "kafka_2.13-4.0.7.jar").touch()


def unheard(_done: int, _total: int) -> None:
    """Progress that nobody looks at."""


def used(folder: DataFolder, kind: str, at: float) -> None:
    """As a release that did not write the kind down has left the folder."""
    (folder.path / kind).mkdir()
    folder.logs.mkdir(exist_ok=True)
    log = folder.logs / f"{kind}.log"
    log.touch()
    os.utime(log, (at, at))


def test_a_new_folder_gets_kafka_if_it_is_there(folder: DataFolder) -> None:
    install()
    assert choose_broker(folder, "auto", unheard) == ("kafka", None)
    assert folder.broker is None  # that is written down when the stack begins
    assert choose_broker(folder, "tansu", unheard) == ("tansu", None)


def test_a_new_folder_gets_the_broker_in_memory_if_kafka_cannot_be_had(folder: DataFolder) -> None:
    kind, missing = choose_broker(folder, "auto", unheard)
    assert kind == "tansu"
    assert missing is not None
    assert "http://127.0.0.1:1/maven" in missing.message
    assert "jgo.conf" in missing.hint


def test_kafka_that_was_asked_for_is_not_replaced(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BinaryMissing, match=r"127\.0\.0\.1:1"):
        choose_broker(folder, "kafka", unheard)
    monkeypatch.setenv("BDLAB_KAFKA_HOME", str(folder.path))
    with pytest.raises(BinaryMissing, match="BDLAB_KAFKA_HOME"):
        choose_broker(folder, "auto", unheard)


def test_a_folder_keeps_to_kafka(folder: DataFolder) -> None:
    folder.keep_broker("kafka")
    with pytest.raises(BinaryMissing, match=r"has its log on Apache Kafka: .* could not be fetched") as gone:
        choose_broker(folder, "auto", unheard)
    assert "fetch-kafka" in gone.value.hint
    install()
    assert choose_broker(folder, "auto", unheard) == ("kafka", None)
    with pytest.raises(StackError, match="would leave behind") as refused:
        choose_broker(folder, "tansu", unheard)
    assert "--data-dir" in refused.value.hint


def test_a_folder_keeps_to_the_broker_in_memory_until_it_is_asked_for_kafka(folder: DataFolder) -> None:
    install()
    folder.keep_broker("tansu")
    assert choose_broker(folder, "auto", unheard) == ("tansu", None)
    assert choose_broker(folder, "kafka", unheard) == ("kafka", None)


@pytest.mark.parametrize(
    ("kafka_at", "tansu_at", "kept"),
    [(None, None, None), (1, None, "kafka"), (None, 1, "tansu"), (1, 2, "tansu"), (2, 1, "kafka")],
)
def test_a_folder_of_an_earlier_release_goes_on_with_what_it_ran_last(
    folder: DataFolder, kafka_at: float | None, tansu_at: float | None, kept: str | None
) -> None:
    for kind, moment in (("kafka", kafka_at), ("tansu", tansu_at)):
        if moment is not None:
            used(folder, kind, moment)
    assert folder.broker == kept
