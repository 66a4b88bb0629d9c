"""The authority for the brokers' certificates, where `.env` says that it is to be Vault's own."""

from __future__ import annotations

from bdlab.vault import pki
from bdlab.vault.bootstrap.plan import Plan
from bdlab.vault.client import VaultClient


class BrokerAuthority:
    """Made before any broker starts, as a broker needs its certificate for that."""

    name = "Kafka authority"

    def __init__(self, plan: Plan) -> None:
        servers = plan.seeds.kafka.bootstrap_servers.split(",") if plan.seeds else []
        self._hosts = tuple(server.strip().rpartition(":")[0] for server in servers)

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        return tuple(pki.missing(reader, hosts=self._hosts))

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        del pending
        pki.prepare_authority(writer, hosts=self._hosts)
