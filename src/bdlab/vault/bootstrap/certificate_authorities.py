"""The steps that make Vault the authority of the servers' certificates, and issue a broker's first one."""

from collections.abc import Sequence

from bdlab.certificates import BROKER_TTL_S, GROUP_READS, LOCAL_HOSTS, CertificateFiles
from bdlab.errors import SecretMissing
from bdlab.vault import pki
from bdlab.vault.bootstrap.plan import Plan, Step
from bdlab.vault.client import VaultClient

#: Before Kafka 4 the metadata is in ZooKeeper, which needs a certificate of the same authority.
_ZOOKEEPER = "zookeeper"


class PkiEngine:
    """Sets up one PKI engine, before a server starts that needs a certificate from it."""

    def __init__(self, authority: pki.CertificateAuthority, hosts: Sequence[str] = ()) -> None:
        self.name = f"{authority.title} authority"
        self._authority = authority
        self._hosts = hosts

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        return tuple(pki.missing(reader, hosts=self._hosts, authority=self._authority))

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        del pending
        pki.prepare_authority(writer, hosts=self._hosts, authority=self._authority)


class BrokerCertificate:
    """Issues the certificate of a broker on this machine, which can start while the rest is set up."""

    name = "broker certificate"

    def __init__(self, files: CertificateFiles, ttl_s: int) -> None:
        self._files = files
        self._ttl_s = ttl_s

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        try:
            good = self._files.good_for(LOCAL_HOSTS, authority=pki.authority_pem(reader))
        except SecretMissing:
            good = False
        return () if good else LOCAL_HOSTS

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        issued = pki.issue(writer, pki.BROKER_ROLE, hosts=pending, ttl_s=self._ttl_s)
        self._files.write(issued, pending, ttl_s=self._ttl_s)


def certification(plan: Plan) -> list[list[Step]]:
    """Return one chain of steps for each authority that the plan or its `.env` asks for."""
    wanted = set(plan.certificate_authorities)
    if plan.seeds and plan.seeds.kafka_authority:
        wanted.add("kafka")
    if plan.seeds and plan.seeds.postgres_authority:
        wanted.add("servers")
    brokers = plan.seeds.kafka.servers() if plan.seeds else ()
    hosts = {"kafka": (*(host for host, _ in brokers), _ZOOKEEPER)}
    chains: list[list[Step]] = [
        [PkiEngine(authority, hosts.get(name, ()))]
        for name, authority in pki.CERTIFICATE_AUTHORITIES.items()
        if name in wanted
    ]
    if plan.broker_folder and "kafka" in wanted:
        files = CertificateFiles(plan.broker_folder, mode=GROUP_READS)
        chains[0].append(BrokerCertificate(files, plan.broker_ttl_s or BROKER_TTL_S))
    return chains
