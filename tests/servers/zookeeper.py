"""Apache Kafka as it was before KRaft: a broker whose metadata ZooKeeper keeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from bdlab.errors import ServerNotStarted
from bdlab.files import write_private
from bdlab.stack.servers import java
from bdlab.stack.servers.java import Distribution
from bdlab.stack.servers.kafka import KafkaBroker
from bdlab.stack.servers.kafka_config import (
    Certificates,
    Listeners,
    Properties,
    render,
    write_certificates,
)
from bdlab.stack.servers.ports import answers
from bdlab.stack.servers.server import Server

_HEAP_MB = 128
_TICK_MS = 500
#: A broker that was killed is not let in again before its session has ended.
_SESSION_TIMEOUT_MS = 3000
_CONNECTION_TIMEOUT_MS = 30_000


class ZooKeeper(Server):
    """One ZooKeeper. With `certificates` it talks TLS only, and only to who shows one of the authority's."""

    name = "zookeeper"

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        certificates: Certificates | None = None,
        distribution: Distribution | None = None,
    ) -> None:
        super().__init__(data_dir, port=port)
        self._certificates = certificates
        self._distribution = distribution

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _prepare(self, port: int) -> Sequence[str]:
        data = self.folder / "data"
        data.mkdir(exist_ok=True, mode=0o700)
        properties = {
            "dataDir": str(data),
            "tickTime": str(_TICK_MS),
            "admin.enableServer": "false",
            "maxClientCnxns": "0",
            # Its snapshots and logs would grow for ever otherwise.
            "autopurge.snapRetainCount": "3",
            "autopurge.purgeInterval": "24",
        }
        if self._certificates:
            tls_dir = self.folder / "tls"
            write_certificates(self._certificates, tls_dir)
            properties |= {
                "secureClientPort": str(port),
                "secureClientPortAddress": "127.0.0.1",
                "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
                "ssl.keyStore.location": str(tls_dir / "server.pem"),
                "ssl.keyStore.type": "PEM",
                "ssl.trustStore.location": str(tls_dir / "ca.pem"),
                "ssl.trustStore.type": "PEM",
                "ssl.clientAuth": "need",
                "authProvider.x509": "org.apache.zookeeper.server.auth.X509AuthenticationProvider",
            }
        else:
            properties |= {"clientPort": str(port), "clientPortAddress": "127.0.0.1"}
        config = self.folder / "zoo.cfg"
        write_private(config, render(properties))
        return (self._distribution or java.kafka_with_zookeeper()).command(
            "org.apache.zookeeper.server.ZooKeeperServerMain",
            str(config),
            heap_mb=_HEAP_MB,
        )

    def _answers(self) -> bool:
        return answers(self.port) and self.running


class ZooKeeperBroker(KafkaBroker):
    """Apache Kafka 3.9 at a ZooKeeper that runs already."""

    name = "kafka"
    authorizer = "kafka.security.authorizer.AclAuthorizer"
    ready_line = b"started (KafkaServer)"

    def __init__(
        self,
        data_dir: Path,
        *,
        zookeeper: ZooKeeper,
        port: int | None = None,
        certificates: Certificates | None = None,
        distribution: Distribution | None = None,
    ) -> None:
        super().__init__(data_dir, port=port, certificates=certificates, distribution=distribution)
        self._zookeeper = zookeeper

    @property
    def shut_out(self) -> bool:
        """Whether the last start ended because ZooKeeper still held the session of a killed broker."""
        return not self.running and b"NodeExists" in self._said()

    def _find_distribution(self) -> Distribution:
        return java.kafka_with_zookeeper()

    def _choose_listeners(self, port: int) -> Listeners:
        return Listeners(
            client=port, internal=self.ports.choose("kafka-internal") if self._certificates else None
        )

    def _metadata_properties(self, listeners: Listeners) -> Properties:
        del listeners
        properties = {
            "broker.id": "1",
            "zookeeper.connect": self._zookeeper.address,
            "zookeeper.session.timeout.ms": str(_SESSION_TIMEOUT_MS),
            # Otherwise the same, which a handshake between two JVMs that have just started may take.
            "zookeeper.connection.timeout.ms": str(_CONNECTION_TIMEOUT_MS),
            # There is no other broker to hand its partitions to: it would only try for five seconds.
            "controlled.shutdown.enable": "false",
        }
        if self._certificates:
            tls_dir = self.folder / "tls"
            properties |= {
                "zookeeper.ssl.client.enable": "true",
                "zookeeper.clientCnxnSocket": "org.apache.zookeeper.ClientCnxnSocketNetty",
                "zookeeper.ssl.keystore.location": str(tls_dir / "server.pem"),
                "zookeeper.ssl.keystore.type": "PEM",
                "zookeeper.ssl.truststore.location": str(tls_dir / "ca.pem"),
                "zookeeper.ssl.truststore.type": "PEM",
                # What the broker writes there, password hashes among it, only its certificate reads.
                "zookeeper.set.acl": "true",
            }
        return properties

    def _lay_out(self, distribution: Distribution, properties: Properties) -> None:
        """The broker makes its folder by itself, with a cluster id that it keeps in ZooKeeper."""


class ZooKeeperKafka:
    """Apache Kafka 3.9 and its ZooKeeper under one folder, started and stopped together."""

    name: ClassVar[str] = "kafka-zookeeper"
    keeps_log: ClassVar[bool] = True

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        certificates: Certificates | None = None,
        distribution: Distribution | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.zookeeper = ZooKeeper(self.data_dir, certificates=certificates, distribution=distribution)
        self.broker = ZooKeeperBroker(
            self.data_dir,
            zookeeper=self.zookeeper,
            port=port,
            certificates=certificates,
            distribution=distribution,
        )

    @property
    def bootstrap_servers(self) -> str:
        return self.broker.bootstrap_servers

    @property
    def admin_servers(self) -> str:
        return self.broker.admin_servers

    @property
    def security_protocol(self) -> str:
        return self.broker.security_protocol

    @property
    def client_environment(self) -> Mapping[str, str]:
        return self.broker.client_environment

    @property
    def cluster_id(self) -> str:
        return self.broker.cluster_id

    @property
    def running(self) -> bool:
        """Whether both run."""
        return self.broker.running and self.zookeeper.running

    @property
    def pid(self) -> int | None:
        """The broker's."""
        return self.broker.pid

    @property
    def log_file(self) -> Path:
        """The broker's."""
        return self.broker.log_file

    def start(self, timeout_s: float = 60.0, stop: threading.Event | None = None) -> None:
        """Start ZooKeeper, then the broker, within `timeout_s` seconds in all. Raises as `Server.start`.

        After a kill -9 ZooKeeper lets the broker in again only once it has given up on the session of the
        one before; until then each try ends at once, and is made again.
        """
        deadline = time.monotonic() + timeout_s
        try:
            self.zookeeper.start(timeout_s, stop)
            while True:
                try:
                    self.broker.start(deadline - time.monotonic(), stop)
                except ServerNotStarted:
                    if self.broker.shut_out and time.monotonic() < deadline:
                        continue
                    raise
                return
        except BaseException:
            self.stop()
            raise

    def stop(self, timeout_s: float = 15.0) -> None:
        """Stop the broker, which takes its leave of ZooKeeper, then ZooKeeper."""
        self.broker.stop(timeout_s)
        self.zookeeper.stop(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()
