"""The configuration of Apache Kafka's servers, as they read it."""

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from bdlab.certificates import CertificateFiles

CLIENT, INTERNAL, CONTROLLER = "CLIENT", "INTERNAL", "CONTROLLER"

Properties = dict[str, str]


class Listeners(msgspec.Struct, frozen=True, kw_only=True):
    """Ports on 127.0.0.1. `internal` is for brokers and administrators, who show a certificate; an unsecured
    broker has none, and they use `client`. `controller` is KRaft's.
    """

    client: int
    controller: int | None = None
    internal: int | None = None


def listener_properties(listeners: Listeners) -> Properties:
    """Return the listeners. The clients' one requires SCRAM over TLS if the broker is secured."""
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
            # Clients with a password show no certificate; every other listener requires one.
            "listener.name.client.ssl.client.auth": "none",
            "ssl.client.auth": "required",
        }
    return values


def security_properties(
    certificates: CertificateFiles, super_users: Iterable[str], authorizer: str
) -> Properties:
    """Return which certificates the broker shows and trusts, and who needs no ACL.

    `super_users` are the subjects of certificates, as "CN=...".
    """
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates.server_file),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.ca_file),
        "authorizer.class.name": authorizer,
        "super.users": ";".join(f"User:{subject}" for subject in super_users),
        "allow.everyone.if.no.acl.found": "false",
    }


def broker_properties(data: Path) -> Properties:
    """Return what every broker is told, with its log in `data`."""
    few, one = "6", "1"
    return {
        "log.dirs": str(data),
        # `bdlab migrate` makes the topic, never a client that asks for it.
        "auto.create.topics.enable": "false",
        "default.replication.factor": one,
        "min.insync.replicas": one,
        "offsets.topic.replication.factor": one,
        "offsets.topic.num.partitions": few,
        "transaction.state.log.replication.factor": one,
        "transaction.state.log.min.isr": one,
        "transaction.state.log.num.partitions": few,
        "unclean.leader.election.enable": "false",
        # No waiting for more members: the group of one machine is complete at once.
        "group.initial.rebalance.delay.ms": "0",
        # Kafka's default minimum is 6 s; a consumer may ask here to be missed sooner after it died.
        "group.min.session.timeout.ms": "1000",
        # One machine that runs everything has few clients and few cores. By default the log cleaner takes
        # 128 MiB at the start; only the consumers' offsets are compacted.
        "log.cleaner.dedupe.buffer.size": str(4 << 20),
        "num.network.threads": "2",
        "num.io.threads": "4",
        "background.threads": "4",
    }


def kraft_properties(node_id: int, controllers: Mapping[int, int], *, session_timeout_ms: int) -> Properties:
    """Return what makes a broker its own controller. `controllers` has each node's controller port.

    `session_timeout_ms` is how long the controller believes that a silent broker lives. A broker that was
    killed cannot register again before that.
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
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.coordinator.threads": "1",
        "share.coordinator.threads": "1",
    }


def render(properties: Mapping[str, str]) -> str:
    """Return `properties` in Java's properties format, which is ASCII. Source: java.util.Properties.load."""
    return "".join(f"{name}={_escape(value)}\n" for name, value in properties.items())


def _escape(value: str) -> str:
    special = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    units = (chr(unit) for (unit,) in struct.iter_unpack(">H", value.encode("utf-16-be")))
    escaped = "".join(special.get(char, char if char.isascii() else f"\\u{ord(char):04x}") for char in units)
    return f"\\{escaped}" if escaped.startswith(" ") else escaped
