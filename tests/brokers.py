"""The broker that the suite runs on, unless `BDLAB_TEST_BROKER` names one: Apache Kafka, or Tansu without it.

kafka      Apache Kafka 4, one broker
cluster    Apache Kafka 4, three brokers: three copies, two of them in sync for an acknowledgement
zookeeper  Apache Kafka 3.9 with ZooKeeper
tansu      in memory, each start a new incarnation

On `cluster` and `zookeeper`, `make test-matrix` repeats what touches a broker.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any, ClassVar, NamedTuple, Protocol

import pytest
from confluent_kafka.admin import AdminClient

from bdlab.errors import BinaryMissing
from bdlab.stack import ApacheKafka, Tansu
from bdlab.stack.servers import binaries, java
from bdlab.stack.servers.server import Server
from tests.servers.kafka_cluster import KafkaCluster
from tests.servers.zookeeper import ZooKeeperKafka


class LocalBroker(Protocol):
    """A broker, or a cluster of them, that a test starts, stops and freezes as a whole."""

    keeps_log: ClassVar[bool]

    @property
    def bootstrap_servers(self) -> str: ...

    @property
    def cluster_id(self) -> str: ...

    @property
    def client_environment(self) -> Mapping[str, str]: ...

    @property
    def running(self) -> bool: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class WholeCluster(KafkaCluster):
    """Three brokers that have found each other: as a person waits for after a restart, before going on."""

    def start(self, timeout_s: float = 120.0, stop: threading.Event | None = None) -> None:
        """Start it, and wait until each broker lists all three, with every copy in sync."""
        super().start(timeout_s, stop)
        deadline = time.monotonic() + timeout_s
        for address in self.bootstrap_servers.split(","):
            while missing := self._missing(listing(address)):
                assert time.monotonic() < deadline, f"{address} after {timeout_s:g} s: {missing}"
                time.sleep(0.1)

    def _missing(self, seen: Any) -> str:
        """What a broker's listing lacks, in words; empty where it lacks nothing."""
        nodes = set(self.brokers)
        if away := nodes - set(seen.brokers):
            return f"brokers {away} are not listed"
        return "; ".join(
            f"{name} {place.id} has leader {place.leader}, in sync {place.isrs}"
            for name, topic in seen.topics.items()
            for place in topic.partitions.values()
            if place.leader not in nodes or set(place.isrs) != set(place.replicas)
        )


_KINDS: Mapping[str, Callable[[Path], LocalBroker]] = {
    "tansu": Tansu,
    "kafka": ApacheKafka,
    "cluster": WholeCluster,
    "zookeeper": ZooKeeperKafka,
}


class Choice(NamedTuple):
    """The kind of broker, and why it is this one."""

    kind: str
    why: str


def choose(environment: Mapping[str, str]) -> Choice:
    """The kind that the variables ask for, else Apache Kafka if this machine has it, else Tansu.

    Looks at files alone. Raises UsageError: no such kind, or in CI a Kafka that is missing.
    """
    if named := environment.get("BDLAB_TEST_BROKER"):
        if named not in _KINDS:
            raise pytest.UsageError(f"BDLAB_TEST_BROKER={named} is none of {', '.join(_KINDS)}")
        return Choice(named, "BDLAB_TEST_BROKER says so")
    try:
        binaries.java()
        return Choice("kafka", str(java.kafka().home))
    except BinaryMissing as missing:
        why = f"{missing.message} ({missing.hint})"
    if environment.get("CI"):
        raise pytest.UsageError(f"{why} Or set BDLAB_TEST_BROKER=tansu.")
    return Choice("tansu", why)


CHOICE = choose(os.environ)
KIND = CHOICE.kind

#: How many brokers a client is told of.
BROKERS = 3 if KIND == "cluster" else 1


_TOUCHING = {"broker", "breakable_broker", "_shared_pipeline"}


def belongs(item: pytest.Item) -> bool:
    """Whether a run on this kind of broker has this test.

    On the last kinds of Kafka only those that touch the session's or their own broker are repeated: the
    others would show the same again. Tests marked `kafka` bring servers of their own, whatever the kind.
    """
    marks = {mark.name for mark in item.iter_markers()}
    if KIND == "kafka":
        return "elsewhere" not in marks
    if KIND == "tansu":
        return not marks & {"keeps_log", "kafka", "elsewhere"}
    touches = _TOUCHING & set(getattr(item, "fixturenames", ())) or "broker" in marks
    return bool(touches) and not marks & {"kafka", "once"}


def new_broker(folder: Path) -> LocalBroker:
    """One of the kind that this run is about, not started."""
    return _KINDS[KIND](folder)


def kill(server: Server) -> None:
    """End it as a power cut would."""
    if server.running and server.pid:
        os.kill(server.pid, SIGKILL)
        server.wait(5)


class TansuAtOnePort(Tansu):
    """Its log is another one after each start, at the same address."""

    def _choose_port(self) -> int:
        return self.ports.choose(self.name)


def listing(address: str) -> Any:
    """confluent_kafka's ClusterMetadata as the broker at this plaintext address has it.

    By a new client: one that knows the others would ask any of them.
    """
    return AdminClient({"bootstrap.servers": address}).list_topics(timeout=10)


def process_ids(broker: LocalBroker) -> list[int]:
    """Of each process that serves clients and runs."""
    if isinstance(broker, KafkaCluster):
        return [pid for pid in broker.pids.values() if pid]
    assert isinstance(broker, Server | ZooKeeperKafka)
    return [broker.pid] if broker.pid else []


@contextmanager
def frozen(broker: LocalBroker) -> Iterator[None]:
    """SIGSTOP for all of it: connections stay open, and nothing answers."""
    pids = process_ids(broker)
    assert pids
    for pid in pids:
        os.kill(pid, SIGSTOP)
    try:
        # The signal reaches one thread after the other; until it has, a few requests are still answered.
        deadline = time.monotonic() + 10
        while not all(map(_all_stopped, pids)):
            assert time.monotonic() < deadline, "the broker does not stop"
            time.sleep(0.002)
        yield
    finally:
        for pid in pids:
            os.kill(pid, SIGCONT)


def _all_stopped(pid: int) -> bool:
    """Whether each thread of the process is stopped (proc(5): the state follows the name in brackets)."""
    tasks = Path(f"/proc/{pid}/task").glob("*/stat")
    return {task.read_text().rpartition(")")[2].split()[0] for task in tasks} == {"T"}
