"""Apache Kafka as it was before KRaft: a broker whose metadata ZooKeeper keeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from bdlab.certificates import CertificateFiles
from bdlab.errors import BinaryMissing, ServerNotStarted
from bdlab.files import write_private
from bdlab.stack.servers import java
from bdlab.stack.servers.java import Assembly, Distribution
from bdlab.stack.servers.kafka import ApacheKafka, Listeners, Properties, broker_properties, listener_properties, render
from bdlab.stack.servers.server import Server, is_listening

_HEAP_MB = 128
_TICK_MS = 500
#: A broker that was killed is not let in again before its session has ended.
_SESSION_TIMEOUT_MS = 3000
_CONNECTION_TIMEOUT_MS = 30_000


KAFKA_HOME = "BDLAB_KAFKA_ZOOKEEPER_HOME"
LOGGING = Path(__file__).with_name("log4j.properties")


class ZooKeeperDistribution(Distribution, frozen=True):
    """Kafka 3, which has another log4j and is started without an ahead-of-time cache."""

    @property
    def _logging(self) -> str:
        return f"-Dlog4j.configuration={LOGGING.as_uri()}"

    @property
    def aot_cache(self) -> Path:
        return self.home / "none.aot"


def pinned() -> Assembly:
    """Apache Kafka 3.9 with ZooKeeper; `python -m tests.servers.zookeeper` fetches it into the cache."""
    return java.pinned(Path(__file__).with_name("kafka-with-zookeeper.lock"))


def kafka_with_zookeeper() -> Distribution:
    """Kafka 3 with ZooKeeper on this machine: `BDLAB_KAFKA_ZOOKEEPER_HOME`, else in the cache.

    Raises BinaryMissing.
    """
    found = java.find(KAFKA_HOME, pinned(), "Apache Kafka 3 with ZooKeeper", "make kafka")
    if not list(found.home.glob("libs/zookeeper-3*.jar")):
        raise BinaryMissing(
            f"{found.home} has no ZooKeeper beside Kafka",
            hint=f"Run `make kafka`, or name a distribution with {KAFKA_HOME}.",
        )
    return ZooKeeperDistribution(found.home, found.version)


class ZooKeeper(Server):
    """One ZooKeeper. With `certificates` it talks TLS only, and only to who shows one of the authority's."""

    name = "zookeeper"

    def __init__(
        self, data_dir: Path, *, certificates: CertificateFiles | None = None, distribution: Distribution | None = None
    ) -> None:
        super().__init__(data_dir)
        self._certificates = certificates
        self._distribution = distribution

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _configure(self, port: int) -> Sequence[str]:
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
            properties |= {
                "secureClientPort": str(port),
                "secureClientPortAddress": "127.0.0.1",
                "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
                "ssl.keyStore.location": str(self._certificates.server_file),
                "ssl.keyStore.type": "PEM",
                "ssl.trustStore.location": str(self._certificates.ca_file),
                "ssl.trustStore.type": "PEM",
                "ssl.clientAuth": "need",
                "authProvider.x509": "org.apache.zookeeper.server.auth.X509AuthenticationProvider",
            }
        else:
            properties |= {"clientPort": str(port), "clientPortAddress": "127.0.0.1"}
        config = self.folder / "zoo.cfg"
        write_private(config, render(properties))
        return (self._distribution or kafka_with_zookeeper()).command(
            "org.apache.zookeeper.server.ZooKeeperServerMain", str(config), heap_mb=_HEAP_MB
        )

    def _is_ready(self) -> bool:
        return is_listening(self.port) and self.running


class ZooKeeperBroker(ApacheKafka):
    """Apache Kafka 3.9 at a ZooKeeper that runs already."""

    name = "kafka"
    authorizer = "kafka.security.authorizer.AclAuthorizer"
    ready_line = b"started (KafkaServer)"
    _find_distribution = staticmethod(kafka_with_zookeeper)

    def __init__(
        self,
        data_dir: Path,
        *,
        zookeeper: ZooKeeper,
        certificates: CertificateFiles | None = None,
        distribution: Distribution | None = None,
    ) -> None:
        super().__init__(data_dir, certificates=certificates, distribution=distribution)
        self._zookeeper = zookeeper

    @property
    def shut_out(self) -> bool:
        """Whether the last start ended because ZooKeeper still held the session of a killed broker."""
        return not self.running and b"NodeExists" in self._log_since_start()

    def _choose_listeners(self, port: int) -> Listeners:
        return Listeners(client=port, internal=self.ports.choose("kafka-internal") if self.certificates else None)

    def _properties(self, listeners: Listeners) -> Properties:
        properties = broker_properties(self._data) | listener_properties(listeners)
        properties |= {
            "broker.id": "1",
            "zookeeper.connect": self._zookeeper.address,
            "zookeeper.session.timeout.ms": str(_SESSION_TIMEOUT_MS),
            # Otherwise the same, which a handshake between two JVMs that have just started may take.
            "zookeeper.connection.timeout.ms": str(_CONNECTION_TIMEOUT_MS),
            # There is no other broker to hand its partitions to: it would only try for five seconds.
            "controlled.shutdown.enable": "false",
        }
        if self.certificates:
            properties |= {
                "zookeeper.ssl.client.enable": "true",
                "zookeeper.clientCnxnSocket": "org.apache.zookeeper.ClientCnxnSocketNetty",
                "zookeeper.ssl.keystore.location": str(self.certificates.server_file),
                "zookeeper.ssl.keystore.type": "PEM",
                "zookeeper.ssl.truststore.location": str(self.certificates.ca_file),
                "zookeeper.ssl.truststore.type": "PEM",
                # What the broker writes there, password hashes among it, only its certificate reads.
                "zookeeper.set.acl": "true",
            }
        return properties

    def _format_storage(self, distribution: Distribution, properties: Properties) -> None:
        """The broker makes its folder by itself, with a cluster id that it keeps in ZooKeeper."""


class ZooKeeperKafka:
    """Apache Kafka 3.9 and its ZooKeeper under one folder, started and stopped together."""

    name: ClassVar[str] = "kafka-zookeeper"
    keeps_log: ClassVar[bool] = True

    def __init__(
        self, data_dir: Path, *, certificates: CertificateFiles | None = None, distribution: Distribution | None = None
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.zookeeper = ZooKeeper(self.data_dir, certificates=certificates, distribution=distribution)
        self.broker = ZooKeeperBroker(
            self.data_dir, zookeeper=self.zookeeper, certificates=certificates, distribution=distribution
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


if __name__ == "__main__":
    java.fetch(pinned(), lambda *_: None)
