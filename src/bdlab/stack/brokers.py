"""The brokers that a local stack can have."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from bdlab.credentials import SUPER_USERS
from bdlab.stack.kafka import ApacheKafka
from bdlab.stack.kafka_config import CertificateFolder
from bdlab.stack.server import Broker
from bdlab.stack.supervisor import Child
from bdlab.stack.tansu import Tansu

BrokerKind = Literal["tansu", "kafka"]


class BrokerServer(Child, Broker, Protocol):
    """A broker that can be started and stopped."""

    @property
    def needs_certificate(self) -> bool:
        """Whether it cannot start before Vault has made it a certificate."""
        ...

    @property
    def admin_servers(self) -> str:
        """Where it takes its administrator; empty for one that knows none."""
        ...

    def lay_out(self) -> None:
        """Do ahead of its start what takes time and needs no other server."""
        ...


def make_broker(kind: BrokerKind, data_dir: Path, certificates: Path) -> BrokerServer:
    """The broker of that kind, not started. What it needs and lacks shows at its start.

    Apache Kafka is secured, with what is in the folder `certificates` by then.
    """
    if kind == "kafka":
        secured = CertificateFolder(folder=certificates, super_users=SUPER_USERS)
        return ApacheKafka(data_dir, certificates=secured)
    return Tansu(data_dir)
