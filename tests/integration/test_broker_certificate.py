"""Vault as the authority for the brokers' certificates: made by `vault-init`, used by `migrate` alone."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bdlab import settings
from bdlab.certificates import BROKER_TTL_S, GROUP_READS, CertificateFiles
from bdlab.credentials import Certificate, KafkaLogin
from bdlab.errors import InvalidInput, PolicyDenied
from bdlab.settings import KafkaSettings
from bdlab.vault import pki
from bdlab.vault.bootstrap.plan import read_env
from bdlab.vault.session import VaultSession
from tests.fix_vault import VaultWorld

HOSTS = ["kafka", "localhost"]
SERVER = KafkaSettings(bootstrap_servers="kafka:9092", security_protocol="SASL_SSL")


def session(world: VaultWorld, service: str) -> VaultSession:
    layers = settings.load(
        environ={"VAULT_ADDR": world.vault.address, "BDLAB_VAULT_IDENTITY_DIR": world.vault.identity_dir}
    )
    return VaultSession(layers, service=service, database_role=None, daemon=False)


def test_vault_init_makes_the_authority_and_migrate_uses_it(
    new_world: Callable[..., VaultWorld], tmp_path: Path
) -> None:
    world = new_world()
    early = CertificateFiles(tmp_path / "early")
    early.folder.mkdir()
    seeds = world.seeds(kafka=KafkaLogin(server=SERVER), kafka_authority=True)
    plan = world.plan(seeds=seeds, broker_folder=early.folder)
    first = {step.name: step.outcome for step in world.init(plan)}
    assert first["Kafka authority"] == first["broker certificate"] == "done"
    assert [*first].index("broker certificate") < [*first].index("policies")
    again = {step.name: step.outcome for step in world.init(plan)}
    assert set(again.values()) == {"unchanged"}

    files = CertificateFiles(tmp_path, mode=GROUP_READS)
    with session(world, "migrate") as migrate:
        authority = migrate.kafka().ca_pem
        assert "BEGIN CERTIFICATE" in authority
        assert not files.good_for(HOSTS, authority=authority)
        assert early.good_for(["localhost"], authority=authority)
        issued = migrate.ask(lambda client: pki.issue(client, pki.BROKER_ROLE, hosts=HOSTS))
        admin = migrate.ask(lambda client: pki.issue(client, pki.ADMIN_ROLE))
    files.write(issued, HOSTS, ttl_s=BROKER_TTL_S)

    assert admin.ca_pem.strip() == issued.ca_pem.strip() == authority.strip()
    assert files.good_for(HOSTS, authority=authority)
    assert not files.good_for([*HOSTS, "another"], authority=authority)
    assert not files.good_for(HOSTS, authority="that of another Vault")
    for name in ("server.pem", "ca.pem"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640
    # Key and certificate belong together, and the authority is one.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    context.load_verify_locations(tmp_path / "ca.pem")

    with session(world, "serve") as serve, pytest.raises(PolicyDenied):
        serve.ask(lambda client: pki.issue(client, pki.ADMIN_ROLE))


def test_a_certificate_in_its_last_third_is_replaced(tmp_path: Path) -> None:
    issued = Certificate(pem="certificate", key=settings.Secret("key"), ca_pem="authority")
    files = CertificateFiles(tmp_path, mode=GROUP_READS)
    files.write(issued, HOSTS, ttl_s=3600)
    assert files.good_for(HOSTS, authority="authority")
    record = msgspec.json.decode((tmp_path / "issued.json").read_bytes())
    record["ends_at"] -= 2500
    record["issued_at"] -= 2500
    (tmp_path / "issued.json").write_bytes(msgspec.json.encode(record))
    assert not files.good_for(HOSTS, authority="authority")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    issued = Certificate(pem="certificate", key=settings.Secret("key"), ca_pem="authority")
    with pytest.raises(InvalidInput, match="absent"):
        CertificateFiles(tmp_path / "absent").write(issued, HOSTS, ttl_s=1)


def test_env_says_that_vault_is_the_authority(tmp_path: Path) -> None:
    lines = (
        "POSTGRES_USER=postgres",
        "POSTGRES_PASSWORD=x",
        "BDLAB_POSTGRES_HOST=postgres",
        "BDLAB_KAFKA_BOOTSTRAP_SERVERS=kafka:9092",
        "BDLAB_KAFKA_CA_FILE=vault",
    )
    (tmp_path / ".env").write_text("\n".join(lines), "utf-8")
    seeds = read_env(tmp_path / ".env")
    assert seeds.kafka_authority
    assert not seeds.kafka.ca_pem
