"""The authority for the brokers' certificates, where `.env` says that it is to be Vault's own."""

from __future__ import annotations

from bdlab.vault import pki
from bdlab.vault.bootstrap.plan import Plan
from bdlab.vault.client import VaultClient

#: Before Kafka 4 a broker's metadata is in ZooKeeper, which shows a certificate of the same authority.
_ZOOKEEPER = "zookeeper"


class BrokerAuthority:
    """Made before any broker starts, as a broker needs its certificate for that."""

    name = "Kafka authority"

    def __init__(self, plan: Plan) -> None:
        servers = plan.seeds.kafka.bootstrap_servers.split(",") if plan.seeds else []
        self._hosts = (*(server.strip().rpartition(":")[0] for server in servers), _ZOOKEEPER)

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        return tuple(pki.missing(reader, hosts=self._hosts))

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        del pending
        pki.prepare_authority(writer, hosts=self._hosts)
