"""The steps that make Vault the authority of the servers' certificates, and issue a broker's first one."""

from functools import partial

from bdlab.certificates import BROKER_TTL_S, GROUP_READS, LOCAL_HOSTS, CertificateFiles
from bdlab.errors import SecretMissing
from bdlab.vault import pki
from bdlab.vault.bootstrap.plan import Change, Plan, Step
from bdlab.vault.client import VaultClient

#: Before Kafka 4 the metadata is in ZooKeeper, which needs a certificate of the same authority.
_ZOOKEEPER = "zookeeper"


def broker_certificate(files: CertificateFiles, ttl_s: int) -> Step:
    """Issue the certificate of a broker on this machine, which can start while the rest is set up."""

    def missing(reader: VaultClient) -> dict[str, Change]:
        try:
            good = files.good_for(LOCAL_HOSTS, authority=pki.authority_pem(reader))
        except SecretMissing:
            good = False
        return {} if good else dict.fromkeys(LOCAL_HOSTS, issue)

    def issue(writer: VaultClient) -> None:
        issued = pki.issue(writer, pki.BROKER_ROLE, hosts=LOCAL_HOSTS, ttl_s=ttl_s)
        files.write(issued, LOCAL_HOSTS, ttl_s=ttl_s)

    return Step(name="broker certificate", missing=missing)


def certification(plan: Plan) -> list[list[Step]]:
    """Return one chain of steps for each authority that the plan or its `.env` asks for."""
    wanted = set(plan.certificate_authorities)
    if plan.seeds and plan.seeds.kafka_authority:
        wanted.add("kafka")
    if plan.seeds and plan.seeds.postgres_authority:
        wanted.add("servers")
    brokers = plan.seeds.kafka.server.servers() if plan.seeds else ()
    hosts = {"kafka": (*(host for host, _ in brokers), _ZOOKEEPER)}
    chains: list[list[Step]] = [
        [
            Step(
                name=f"{authority.title} authority",
                missing=partial(pki.missing, hosts=hosts.get(name, ()), authority=authority),
            )
        ]
        for name, authority in pki.CERTIFICATE_AUTHORITIES.items()
        if name in wanted
    ]
    if plan.broker_folder and "kafka" in wanted:
        files = CertificateFiles(plan.broker_folder, mode=GROUP_READS)
        chains[0].append(broker_certificate(files, plan.broker_ttl_s or BROKER_TTL_S))
    return chains
