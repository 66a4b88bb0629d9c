"""Apache Kafka for tests marked `kafka`: certificates from a real Vault, logins, and servers."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import msgspec
import pytest

from bdlab.certificates import BROKER_TTL_S, CertificateFiles
from bdlab.credentials import Certificate, FeedbackTopic, KafkaLogin
from bdlab.errors import BrokerError
from bdlab.events import Position
from bdlab.kafka.admin import Admin
from bdlab.kafka.broker_admin import ensure_users_and_acls
from bdlab.kafka.producer import Producer
from bdlab.services import TABLE
from bdlab.settings import KafkaSettings, Secret, VaultSettings
from bdlab.stack import ApacheKafka, OpenBao
from bdlab.vault import pki
from bdlab.vault.client import VaultClient
from tests.brokers import KIND
from tests.fix_kafka import Acks
from tests.fix_servers import start_or_skip
from tests.samples import event
from tests.static_credentials import StaticCredentials

SERVICES = tuple(service.name for service in TABLE if service.kafka)
_DEADLINE_S = 30.0


class RealKafka(Protocol):
    """A broker or a cluster of them, secured or not."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    @property
    def bootstrap_servers(self) -> str: ...

    @property
    def admin_servers(self) -> str: ...

    @property
    def cluster_id(self) -> str: ...


K = TypeVar("K", bound=RealKafka)


@contextlib.contextmanager
def running(kafka: K) -> Iterator[K]:
    start_or_skip(kafka)
    try:
        yield kafka
    finally:
        kafka.stop()


class Authority(msgspec.Struct, frozen=True):
    """What Vault's PKI engine gave out before any broker started."""

    broker: Certificate
    admin: Certificate
    certificates: CertificateFiles
    """The broker's, as it reads them."""

    def admin_login(self, kafka: RealKafka) -> KafkaLogin:
        server = KafkaSettings(bootstrap_servers=kafka.admin_servers, security_protocol="SSL")
        return KafkaLogin(server=server, ca_pem=self.admin.ca_pem, certificate=self.admin)

    def login(self, kafka: RealKafka, username: str, password: str = "") -> KafkaLogin:
        """A SCRAM login with a password of its own."""
        server = KafkaSettings(
            bootstrap_servers=kafka.bootstrap_servers,
            security_protocol="SASL_SSL",
            delivery_timeout_s=20,
            session_timeout_s=6,
        )
        return KafkaLogin(
            server=server,
            username=username,
            password=Secret(password or secrets.token_urlsafe(24)),
            ca_pem=self.broker.ca_pem,
        )


def root_client(server: OpenBao) -> VaultClient:
    """Initialise `server`, and a client with its root token."""
    client = VaultClient(VaultSettings(address=server.address, timeout_s=60))
    answer = client.request("put", "sys/init", {"recovery_shares": 1, "recovery_threshold": 1})
    deadline = time.monotonic() + _DEADLINE_S
    while not client.health().active:
        assert time.monotonic() < deadline, "OpenBao does not become active"
        time.sleep(0.05)
    return client.with_token(Secret(answer["root_token"]))


def prepare_authority(client: VaultClient, *, hosts: Sequence[str] = ()) -> list[str]:
    """Set up what is missing of Kafka's authority, and what that was."""
    missing = pki.missing(client, hosts=hosts)
    for make in missing.values():
        make(client)
    return list(missing)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Certificates by an authority in a Vault that is stopped again: nobody needs it after this."""
    server = start_or_skip(OpenBao(tmp_path_factory.mktemp("authority")))
    try:
        client = root_client(server)
        prepare_authority(client)
        broker, certificates = (pki.issue(client, pki.BROKER_ROLE), CertificateFiles(tmp_path_factory.mktemp("tls")))
        certificates.write(broker, (), ttl_s=BROKER_TTL_S)
        made = Authority(broker=broker, admin=pki.issue(client, pki.ADMIN_ROLE), certificates=certificates)
        client.close()
    finally:
        server.stop()
    return made


def publish(producer: Producer, count: int, *, timeout_s: float = 60.0) -> list[Position]:
    """Publish so many events, each again until it is acknowledged, as a caller of /predict would."""
    deadline = time.monotonic() + timeout_s
    positions: list[Position] = []
    problem: object = None
    while len(positions) < count and time.monotonic() < deadline:
        acks, handed_over = Acks(), 0
        try:
            for _ in range(count - len(positions)):
                producer.publish(event(), acks)
                handed_over += 1
        except BrokerError as error:
            problem = error
            time.sleep(0.1)
        for result in acks.take(handed_over, timeout_s):
            if isinstance(result, Position):
                positions.append(result)
            else:
                problem = result
    assert len(positions) == count, f"{len(positions)} of {count} events acknowledged; last: {problem!r}"
    return positions


class SecuredKafka(msgspec.Struct, frozen=True):
    """A secured broker after what `bdlab migrate` does: topic, users, ACLs."""

    kafka: RealKafka
    authority: Authority
    admin: KafkaLogin
    users: dict[str, list[KafkaLogin]]

    def login(self, service: str) -> KafkaLogin:
        return self.users[service][0]


@contextlib.contextmanager
def secured(kafka: RealKafka, authority: Authority) -> Iterator[SecuredKafka]:
    """Start it, make the topic and two users for each service."""
    with running(kafka):
        admin = authority.admin_login(kafka)
        with Admin(StaticCredentials(kafka=admin), timeout_s=30) as topics:
            topics.ensure_topic()
        with Admin(FeedbackTopic(StaticCredentials(kafka=admin)), timeout_s=30) as topics:
            topics.ensure_topic()
        users = {
            service: [authority.login(kafka, f"bdlab-{service}-{which}") for which in "ab"] for service in SERVICES
        }
        ensure_users_and_acls(admin, users)
        yield SecuredKafka(kafka, authority, admin, users)


@pytest.fixture(scope="session")
def secured_kafka(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[SecuredKafka]:
    """One secured broker, which a test may stop and start again; its users may get other passwords."""
    server = ApacheKafka(tmp_path_factory.mktemp("secured"), certificates=authority.certificates)
    with secured(server, authority) as ready:
        yield ready


@pytest.fixture(scope="session")
def single_kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """One broker of Apache Kafka, whatever the kind of the run; use topics of your own on it."""
    if KIND == "kafka":
        yield request.getfixturevalue("broker")
        return
    with running(ApacheKafka(tmp_path_factory.mktemp("kafka"))) as started:
        yield started
