"""The authorities for the servers' certificates, where Vault is to be that."""

from __future__ import annotations

from collections.abc import Sequence

from bdlab.vault import pki
from bdlab.vault.bootstrap.plan import Plan
from bdlab.vault.client import VaultClient

#: Before Kafka 4 a broker's metadata is in ZooKeeper, which shows a certificate of the same authority.
_ZOOKEEPER = "zookeeper"


class CertificateAuthority:
    """Made before any server that needs a certificate of it starts."""

    def __init__(self, authority: pki.Authority, hosts: Sequence[str] = ()) -> None:
        self.name = f"{authority.title} authority"
        self._authority = authority
        self._hosts = hosts

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        return tuple(pki.missing(reader, hosts=self._hosts, authority=self._authority))

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        del pending
        pki.prepare_authority(writer, hosts=self._hosts, authority=self._authority)


def authorities(plan: Plan) -> list[CertificateAuthority]:
    """Those that the plan or its `.env` asks for."""
    wanted = set(plan.authorities)
    if plan.seeds and plan.seeds.kafka_authority:
        wanted.add("kafka")
    if plan.seeds and plan.seeds.postgres_authority:
        wanted.add("servers")
    brokers = plan.seeds.kafka.servers() if plan.seeds else ()
    hosts = {"kafka": (*(host for host, _ in brokers), _ZOOKEEPER)}
    return [
        CertificateAuthority(authority, hosts.get(name, ()))
        for name, authority in pki.AUTHORITIES.items()
        if name in wanted
    ]
