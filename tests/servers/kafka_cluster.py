"""Three Apache Kafka brokers as local servers: three copies of all, two in sync for an acknowledgement."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Self

import msgspec

from bdlab.certificates import CertificateFiles
from bdlab.stack.servers.java import Distribution
from bdlab.stack.servers.kafka import ApacheKafka, Listeners, Properties, kraft_properties, new_cluster_id
from bdlab.stack.servers.server import PortRegistry

_NODES = (1, 2, 3)
#: Three copies of each partition, two of them in sync for `acks=all`.
_REPLICATION = dict.fromkeys(
    (
        "default.replication.factor",
        "offsets.topic.replication.factor",
        "transaction.state.log.replication.factor",
        "share.coordinator.state.topic.replication.factor",
    ),
    "3",
) | dict.fromkeys(
    ("min.insync.replicas", "transaction.state.log.min.isr", "share.coordinator.state.topic.min.isr"), "2"
)
#: Three JVMs on two busy cores: a broker that had to wait for its turn is not dead yet.
_SESSION_TIMEOUT_MS = 6000


class Layout(msgspec.Struct, frozen=True):
    """What the brokers of a cluster have to know of each other."""

    cluster_id: str
    listeners: dict[int, Listeners]


class ClusterBroker(ApacheKafka):
    """One of the cluster's brokers, a process of its own with a data folder of its own."""

    def __init__(
        self,
        data_dir: Path,
        *,
        node_id: int,
        layout: Callable[[], Layout],
        certificates: CertificateFiles | None,
        distribution: Distribution | None,
    ) -> None:
        super().__init__(data_dir, certificates=certificates, distribution=distribution)
        self.node_id = node_id
        self._layout = layout

    def _choose_port(self) -> int:
        return self._layout().listeners[self.node_id].client

    def _choose_listeners(self, port: int) -> Listeners:
        del port
        return self._layout().listeners[self.node_id]

    def _properties(self, listeners: Listeners) -> Properties:
        quorum = {node: ports.controller or 0 for node, ports in self._layout().listeners.items()}
        kraft = kraft_properties(self.node_id, quorum, session_timeout_ms=_SESSION_TIMEOUT_MS)
        return super()._properties(listeners) | kraft | _REPLICATION

    def _format_storage(self, distribution: Distribution, properties: Properties) -> None:
        self.first_cluster_id = self._layout().cluster_id
        super()._format_storage(distribution, properties)


class KafkaCluster:
    """Three brokers under one folder, each broker and controller. Any one may fail; with two gone nothing is
    acknowledged, and nothing acknowledged is lost.
    """

    name: ClassVar[str] = "kafka-cluster"
    keeps_log: ClassVar[bool] = True

    def __init__(
        self, data_dir: Path, *, certificates: CertificateFiles | None = None, distribution: Distribution | None = None
    ) -> None:
        """`certificates`, which all brokers share, make it a secured cluster."""
        self.data_dir = data_dir.absolute()
        self._ports = PortRegistry(self.data_dir / "ports.json")
        self._secured = certificates is not None
        self._chosen: Layout | None = None
        self.brokers = {
            node: ClusterBroker(
                self.data_dir / f"broker-{node}",
                node_id=node,
                layout=self._layout,
                certificates=certificates,
                distribution=distribution,
            )
            for node in _NODES
        }

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(broker.bootstrap_servers for broker in self.brokers.values())

    @property
    def admin_servers(self) -> str:
        return ",".join(broker.admin_servers for broker in self.brokers.values())

    @property
    def security_protocol(self) -> str:
        return "SASL_SSL" if self._secured else "PLAINTEXT"

    @property
    def client_environment(self) -> Mapping[str, str]:
        return {
            "BDLAB_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "BDLAB_KAFKA_SECURITY_PROTOCOL": self.security_protocol,
        }

    @property
    def cluster_id(self) -> str:
        """The log's, the same over restarts; empty before the first start."""
        return next((broker.cluster_id for broker in self.brokers.values() if broker.cluster_id), "")

    @property
    def running(self) -> bool:
        """Whether every broker runs."""
        return all(broker.running for broker in self.brokers.values())

    @property
    def pids(self) -> Mapping[int, int | None]:
        """Each broker's process id, by node id."""
        return {node: broker.pid for node, broker in self.brokers.items()}

    @property
    def log_file(self) -> Path:
        """The first broker's; each has its own."""
        return self.brokers[_NODES[0]].log_file

    def start(self, timeout_s: float = 120.0, stop: threading.Event | None = None) -> None:
        """Start those that do not run, together, as none is ready before two are there.

        Raises ServerNotStarted, and StartInterrupted if `stop` was set; all are stopped then.
        """
        self._layout()
        try:
            self._each(self.brokers.values(), lambda broker: broker.start(timeout_s, stop))
        except BaseException:
            self.stop()
            raise

    def stop(self, timeout_s: float = 15.0) -> None:
        """Stop all together, `timeout_s` for each."""
        self._each(self.brokers.values(), lambda broker: broker.stop(timeout_s))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    @staticmethod
    def _each(brokers: Iterable[ClusterBroker], act: Callable[[ClusterBroker], None]) -> None:
        with ThreadPoolExecutor(max_workers=len(_NODES), thread_name_prefix="kafka-cluster") as pool:
            for done in [pool.submit(act, broker) for broker in brokers]:
                done.result()

    def _layout(self) -> Layout:
        if self._chosen is None:
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._chosen = self._choose_layout()
        return self._chosen

    def _choose_layout(self) -> Layout:
        """Ports for all, kept with the folder, before any broker runs: each has to know the others'."""
        return Layout(
            cluster_id=self.cluster_id or new_cluster_id(),
            listeners={
                node: Listeners(
                    client=self._ports.choose(f"kafka-{node}"),
                    controller=self._ports.choose(f"kafka-{node}-controller"),
                    internal=self._ports.choose(f"kafka-{node}-internal") if self._secured else None,
                )
                for node in _NODES
            },
        )
