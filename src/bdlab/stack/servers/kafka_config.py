"""The configuration of Apache Kafka's servers, as they read it. Pure, but for the certificates' files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from bdlab.credentials import Certificate
from bdlab.files import write_private

CLIENT, INTERNAL, CONTROLLER = "CLIENT", "INTERNAL", "CONTROLLER"

Properties = dict[str, str]


class Certificates(msgspec.Struct, frozen=True, kw_only=True):
    """What a secured server needs before its first start.

    `server` proves to clients and to the other brokers who it is; it has to be valid for 127.0.0.1.
    `ca_pem` signed it and the certificates of all who may connect to the listener for administration.
    `super_users` are the subjects that may do everything, as "CN=...": the administrator's and each broker's.
    """

    server: Certificate
    ca_pem: str
    super_users: tuple[str, ...]


class CertificateFolder(msgspec.Struct, frozen=True, kw_only=True):
    """The same, as the files `server.pem` and `ca.pem`, which somebody else writes before each start and may
    replace while the server runs.
    """

    folder: Path
    super_users: tuple[str, ...]


class Listeners(msgspec.Struct, frozen=True, kw_only=True):
    """Ports on loopback. `internal` is the brokers' and the administrator's, who show a certificate; without
    security it is not there, and they use the clients' one. `controller` is KRaft's.
    """

    client: int
    controller: int | None = None
    internal: int | None = None


class Replicas(msgspec.Struct, frozen=True):
    """Copies of each partition, and how many of them have to be in sync for `acks=all`."""

    factor: int = 1
    in_sync: int = 1


def listener_properties(listeners: Listeners) -> Properties:
    """Which ports there are. The clients' one asks for SCRAM over TLS where the broker is secured."""
    secured = listeners.internal is not None
    ports = {CLIENT: listeners.client, INTERNAL: listeners.internal, CONTROLLER: listeners.controller}
    urls = {name: f"{name}://127.0.0.1:{port}" for name, port in ports.items() if port is not None}
    protocols = {
        CLIENT: "SASL_SSL" if secured else "PLAINTEXT",
        INTERNAL: "SSL",
        CONTROLLER: "SSL" if secured else "PLAINTEXT",
    }
    values = {
        "listeners": ",".join(urls.values()),
        "advertised.listeners": ",".join(url for name, url in urls.items() if name != CONTROLLER),
        "listener.security.protocol.map": ",".join(f"{name}:{protocols[name]}" for name in urls),
        "inter.broker.listener.name": INTERNAL if secured else CLIENT,
    }
    if secured:
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        values |= {
            "listener.name.client.sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.client.scram-sha-512.sasl.jaas.config": scram,
            # Whoever has a password shows no certificate; on every other listener it is the only way in.
            "listener.name.client.ssl.client.auth": "none",
            "ssl.client.auth": "required",
        }
    return values


def security_properties(super_users: Iterable[str], tls_dir: Path, authorizer: str) -> Properties:
    """Certificates, which are in `tls_dir`, and who may do what without one ACL."""
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(tls_dir / "server.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(tls_dir / "ca.pem"),
        "authorizer.class.name": authorizer,
        "super.users": ";".join(f"User:{subject}" for subject in super_users),
        "allow.everyone.if.no.acl.found": "false",
    }


def write_certificates(certificates: Certificates, tls_dir: Path) -> None:
    tls_dir.mkdir(exist_ok=True, mode=0o700)
    server = certificates.server
    write_private(tls_dir / "server.pem", f"{server.key.reveal().strip()}\n{server.pem.strip()}\n")
    write_private(tls_dir / "ca.pem", f"{certificates.ca_pem.strip()}\n")


def broker_properties(replicas: Replicas, data: Path) -> Properties:
    """What every broker is told, whoever keeps its metadata."""
    few = "6"
    return {
        "log.dirs": str(data),
        # A topic is made by `bdlab migrate`, never by a client that asks for it.
        "auto.create.topics.enable": "false",
        "default.replication.factor": str(replicas.factor),
        "min.insync.replicas": str(replicas.in_sync),
        "offsets.topic.replication.factor": str(replicas.factor),
        "offsets.topic.num.partitions": few,
        "transaction.state.log.replication.factor": str(replicas.factor),
        "transaction.state.log.min.isr": str(replicas.in_sync),
        "transaction.state.log.num.partitions": few,
        "unclean.leader.election.enable": "false",
        # The group of one machine is complete at once: no waiting for more members.
        "group.initial.rebalance.delay.ms": "0",
        # Kafka's own least is 6 s; here a consumer that died is to be missed sooner, if it asks for that.
        "group.min.session.timeout.ms": "1000",
        # A machine that runs all of it has few clients and few cores. The cleaner's buffer alone is 128 MiB
        # otherwise, all of it taken at the start; only the consumers' offsets are compacted.
        "log.cleaner.dedupe.buffer.size": str(4 << 20),
        "num.network.threads": "2",
        "num.io.threads": "4",
        "background.threads": "4",
    }


def kraft_properties(
    node_id: int, controllers: Mapping[int, int], *, session_timeout_ms: int, replicas: Replicas
) -> Properties:
    """A broker that is its own controller. `controllers` has each node's controller port.

    `session_timeout_ms`: how long the controller takes a silent broker for alive. After a kill -9 a broker is
    not let in again before that.
    """
    return {
        "process.roles": "broker,controller",
        "node.id": str(node_id),
        "controller.quorum.voters": ",".join(
            f"{node}@127.0.0.1:{port}" for node, port in sorted(controllers.items())
        ),
        "controller.listener.names": CONTROLLER,
        "broker.session.timeout.ms": str(session_timeout_ms),
        "broker.heartbeat.interval.ms": str(min(1000, session_timeout_ms // 6)),
        "share.coordinator.state.topic.replication.factor": str(replicas.factor),
        "share.coordinator.state.topic.min.isr": str(replicas.in_sync),
        "group.coordinator.threads": "1",
        "share.coordinator.threads": "1",
    }


def render(properties: Mapping[str, str]) -> str:
    """Java's properties format, which is ASCII. Source: java.util.Properties.load."""
    return "".join(f"{name}={_escape(value)}\n" for name, value in properties.items())


def _escape(value: str) -> str:
    special = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    escaped = "".join(
        special.get(char, char if char.isascii() else "".join(f"\\u{unit:04x}" for unit in _utf16(char)))
        for char in value
    )
    return f"\\{escaped}" if escaped.startswith(" ") else escaped


def _utf16(char: str) -> list[int]:
    raw = char.encode("utf-16-be")
    return [int.from_bytes(raw[start : start + 2], "big") for start in range(0, len(raw), 2)]
