"""A secured Apache Kafka: who gets in, and what each service may and may not do."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from uuid import uuid4

import msgspec
import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from bdlab.credentials import ADMIN_NAME, Certificate, FeedbackTopic, KafkaLogin
from bdlab.errors import BrokerError, BrokerRefused, BrokerUnavailable
from bdlab.events import Position
from bdlab.kafka.admin import Admin
from bdlab.kafka.broker_admin import Change, accepts, ensure_users_and_acls
from bdlab.kafka.connection import client_config
from bdlab.kafka.consumer import Consumer
from bdlab.kafka.producer import Producer
from bdlab.settings import KafkaSettings, Secret
from bdlab.stack import ApacheKafka, OpenBao
from bdlab.vault import pki
from tests.broker_operations import OPERATIONS, Target
from tests.brokers import kill
from tests.fix_apache import SERVICES, Authority, SecuredKafka, prepare_authority, root_client, running, secured
from tests.fix_kafka import Acks, Bookmarks, place, read_until
from tests.fix_servers import start_or_skip
from tests.samples import event
from tests.servers.kafka_cluster import KafkaCluster
from tests.static_credentials import StaticCredentials

ALLOWED = {
    "serve": {"describe topic", "write topic"},
    "predict": {"describe topic", "write topic"},
    "feedback": set[str](),
    "dlq": {"describe topic", "write topic"},
    "consume": {"describe topic", "read topic", "join group", "commit offsets", "describe group"},
    "verify": {"describe topic", "read topic", "describe group"},
    "status": {"describe topic", "read topic", "describe group", "describe cluster"},
    "console": {"describe topic", "read topic", "describe group", "describe cluster"},
}
#: The same with the topic of the feedback, and its group.
OF_FEEDBACK = ALLOWED | {"feedback": {"describe topic", "write topic"}, "predict": set[str]()}
API_VERSIONS_REQUEST = bytes.fromhex("0012 0000 00000001 0004 74657374".replace(" ", ""))


@pytest.fixture(scope="module")
def kafka(secured_kafka: SecuredKafka) -> SecuredKafka:
    # The group is there, so that to describe or delete it can only be refused for want of an ACL.
    consume = StaticCredentials(kafka=secured_kafka.login("consume"))
    for credentials in (consume, FeedbackTopic(consume)):
        assert OPERATIONS["commit offsets"](target(credentials.kafka()))
    return secured_kafka


def target(login: KafkaLogin) -> Target:
    return Target(login, login.server.topic, login.server.group)


def address(servers: str) -> tuple[str, int]:
    host, _, port = servers.partition(":")
    return host, int(port)


def changed(login: KafkaLogin, **settings: str) -> KafkaLogin:
    return msgspec.structs.replace(login, server=msgspec.structs.replace(login.server, **settings))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("kind", ["predictions", "feedback"])
def test_a_service_may_do_what_it_needs_and_nothing_else(
    kafka: SecuredKafka, service: str, operation: str, kind: str
) -> None:
    credentials = StaticCredentials(kafka=kafka.login(service))
    login = (FeedbackTopic(credentials) if kind == "feedback" else credentials).kafka()
    allowed = OPERATIONS[operation](target(login))
    assert allowed is (operation in (OF_FEEDBACK if kind == "feedback" else ALLOWED)[service])


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("operation", ["describe topic", "write topic", "read topic"])
def test_a_service_reaches_no_other_topic(kafka: SecuredKafka, service: str, operation: str) -> None:
    other = changed(kafka.admin, topic="other")
    with Admin(StaticCredentials(kafka=other), timeout_s=20) as admin:
        admin.ensure_topic()
    login = kafka.login(service)
    assert OPERATIONS[operation](Target(other, "other", "any"))
    assert not OPERATIONS[operation](Target(login, "other", login.server.group))


@pytest.mark.parametrize("operation", ["join group", "commit offsets", "describe group"])
def test_consume_reaches_no_other_group(kafka: SecuredKafka, operation: str) -> None:
    login = kafka.login("consume")
    assert not OPERATIONS[operation](Target(login, login.server.topic, "another-group"))


def test_each_operation_succeeds_for_the_administrator(kafka: SecuredKafka) -> None:
    """The operations can succeed at all: what refuses them to the services is the want of an ACL."""
    name = f"scratch-{uuid4().hex}"
    login = changed(kafka.admin, topic=name, group=f"{name}-group")
    with Admin(StaticCredentials(kafka=login), timeout_s=20) as admin:
        admin.ensure_topic()
    outcomes = {operation: attempt(target(login)) for operation, attempt in OPERATIONS.items()}
    assert outcomes == dict.fromkeys(OPERATIONS, True)


def test_the_services_own_clients_work_under_their_acls(kafka: SecuredKafka) -> None:
    bookmarks = Bookmarks()
    for service in ("serve", "predict", "dlq"):
        credentials = StaticCredentials(kafka=kafka.login(service))
        acks = Acks()
        with Producer(credentials, client_id=service, source=f"/{service}") as producer:
            for _ in range(50):
                producer.publish(event(), acks)
            published = acks.positions(50)
        with Consumer(StaticCredentials(kafka=kafka.login("consume")), positions=bookmarks) as consumer:
            records = read_until(consumer.poll, lambda _: consumer.at_end)
            assert set(published) <= {place(record) for record in records}
            bookmarks.keep(records)
            ends: dict[int, Position] = {}
            for record in records:
                at = place(record)
                ends[at.partition] = msgspec.structs.replace(at, offset=at.offset + 1)
            consumer.acknowledge(list(ends.values()))
    with Admin(StaticCredentials(kafka=kafka.login("verify"))) as admin:
        assert sum(log_range.end - log_range.start for log_range in admin.log_ranges()) >= 150
    with Admin(StaticCredentials(kafka=kafka.login("status"))) as admin:
        state = admin.state()
    assert (state.connected, state.problem, state.brokers, state.partitions) == (True, "", 1, 6)
    assert state.consumer_lag is not None


def test_serve_sees_the_topic_and_not_the_lag_of_a_group_that_is_not_its_own(kafka: SecuredKafka) -> None:
    """The broker's refusal is told at once, not after the time that the question may take."""
    with Admin(StaticCredentials(kafka=kafka.login("serve")), timeout_s=60) as admin:
        began = time.monotonic()
        state = admin.state()
        assert time.monotonic() - began < 20
    assert (state.connected, state.partitions, state.consumer_lag) == (True, 6, None)
    assert state.problem == ("the group's lag cannot be told: this user may not see group 'bdlab-db-consumer'")


def test_bringing_users_and_acls_about_again_changes_nothing(kafka: SecuredKafka) -> None:
    assert ensure_users_and_acls(kafka.admin, kafka.users) == []


def test_a_new_password_in_the_plan_is_set_and_the_old_one_refused(kafka: SecuredKafka) -> None:
    old = kafka.users["dlq"][1]
    new = msgspec.structs.replace(old, password=Secret("a-new-password-of-some-length"))
    assert accepts(old)
    assert not accepts(new)
    assert ensure_users_and_acls(kafka.admin, {"dlq": [kafka.users["dlq"][0], new]}) == [
        Change("set the password of", f"user {old.username}")
    ]
    assert accepts(new)
    assert not accepts(old)
    ensure_users_and_acls(kafka.admin, kafka.users)
    assert accepts(old)


def test_an_acl_too_many_is_taken_away_one_too_few_put_back_and_a_denial_left(kafka: SecuredKafka) -> None:
    def acl(operation: AclOperation, permission: AclPermissionType, name: str) -> AclBinding:
        return AclBinding(ResourceType.TOPIC, name, ResourcePatternType.LITERAL, user, "*", operation, permission)

    login = kafka.users["status"][1]
    user = f"User:{login.username}"
    client = AdminClient(client_config(kafka.admin, client_id="test"))
    excess = acl(AclOperation.ALL, AclPermissionType.ALLOW, "*")
    denial = acl(AclOperation.READ, AclPermissionType.DENY, "secret")
    for future in client.create_acls([excess, denial], request_timeout=10).values():
        future.result(10)
    assert OPERATIONS["write topic"](target(login))
    assert ensure_users_and_acls(kafka.admin, kafka.users) == [Change("took away", f"{login.username}: ALL on topic *")]
    assert not OPERATIONS["write topic"](target(login))
    needed = acl(AclOperation.DESCRIBE, AclPermissionType.ALLOW, login.server.topic)
    assert denial in removed(client, denial)
    assert needed in removed(client, needed)
    assert ensure_users_and_acls(kafka.admin, kafka.users) == [
        Change("allowed", f"{login.username}: DESCRIBE on topic {login.server.topic}")
    ]


def removed(client: AdminClient, acl: AclBinding) -> list[AclBinding]:
    found = AclBindingFilter(*acl._to_tuple())
    return list(client.delete_acls([found], request_timeout=10)[found].result(10))


def test_a_user_may_not_administer(kafka: SecuredKafka) -> None:
    with pytest.raises(BrokerRefused, match="does not let it change users and ACLs"):
        ensure_users_and_acls(kafka.login("serve"), kafka.users)


def test_a_wrong_password_an_unknown_user_and_another_mechanism_are_refused(kafka: SecuredKafka) -> None:
    serve = kafka.login("serve")
    for wrong in (
        msgspec.structs.replace(serve, password=Secret("wrong")),
        msgspec.structs.replace(serve, username="bdlab-unknown"),
        # Named as the administrator's certificate, but let in by password: there is no such user.
        msgspec.structs.replace(serve, username=ADMIN_NAME),
        msgspec.structs.replace(serve, username=f"CN={ADMIN_NAME}"),
        changed(serve, sasl_mechanism="PLAIN"),
        changed(serve, sasl_mechanism="SCRAM-SHA-256"),
    ):
        assert not accepts(wrong), wrong.username


def test_users_are_made_for_scram_alone(kafka: SecuredKafka) -> None:
    plain = msgspec.structs.replace(changed(kafka.login("dlq"), sasl_mechanism="PLAIN"), username="bdlab-plain")
    with pytest.raises(BrokerRefused, match="the mechanism is PLAIN") as told:
        ensure_users_and_acls(kafka.admin, {"dlq": [plain]})
    assert "BDLAB_KAFKA_USERNAME" in told.value.hint


@pytest.mark.parametrize("which", ["bootstrap_servers", "admin_servers"])
def test_plaintext_is_refused_on_the_wire(kafka: SecuredKafka, which: str) -> None:
    with socket.create_connection(address(getattr(kafka.kafka, which)), timeout=10) as connection:
        connection.sendall(len(API_VERSIONS_REQUEST).to_bytes(4, "big") + API_VERSIONS_REQUEST)
        answer = b""
        try:
            while chunk := connection.recv(4096):
                answer += chunk
        except ConnectionResetError:
            pass
    # At most a TLS alert (content type 21) comes back before the connection is closed; never Kafka's answer,
    # which begins with its length and the request's number.
    assert answer[:1] in {b"", b"\x15"}, answer


def test_the_same_bytes_are_answered_where_plaintext_is_spoken(tmp_path: Path) -> None:
    with (
        running(ApacheKafka(tmp_path)) as server,
        socket.create_connection(address(server.bootstrap_servers), timeout=10) as connection,
    ):
        connection.sendall(len(API_VERSIONS_REQUEST).to_bytes(4, "big") + API_VERSIONS_REQUEST)
        answer = connection.recv(8)
    assert answer[4:] == API_VERSIONS_REQUEST[4:8]


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT", "SSL"])
def test_a_client_without_both_tls_and_a_password_gets_nowhere(kafka: SecuredKafka, protocol: str) -> None:
    login = changed(kafka.login("serve"), security_protocol=protocol)
    client = AdminClient(client_config(login, client_id="test"))
    with pytest.raises(KafkaException):
        client.list_topics(timeout=3)
    acks = Acks()
    with Producer(
        StaticCredentials(kafka=changed(login, delivery_timeout_s=2)),  # type: ignore[arg-type]
        client_id="test",
        source="/tests",
    ) as producer:
        try:
            producer.publish(event(), acks)
        except BrokerError:
            return
        assert isinstance(acks.take(1)[0], BrokerError)


@pytest.mark.long
def test_administration_asks_for_a_certificate_of_the_authority(
    kafka: SecuredKafka, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert "alert" in handshake_refused(kafka, None, tmp_path)
    other = start_or_skip(OpenBao(tmp_path_factory.mktemp("other-authority")))
    try:
        client = root_client(other)
        prepare_authority(client)
        # The right name, by another authority.
        forged = pki.issue(client, pki.ADMIN_ROLE)
        client.close()
    finally:
        other.stop()
    assert "alert" in handshake_refused(kafka, forged, tmp_path)
    with pytest.raises((BrokerRefused, BrokerUnavailable)):
        ensure_users_and_acls(msgspec.structs.replace(kafka.admin, certificate=forged), {})
    assert ensure_users_and_acls(kafka.admin, {}) == []


def handshake_refused(kafka: SecuredKafka, certificate: Certificate | None, folder: Path) -> str:
    """The error in which a TLS connection to the administrators' listener ends."""
    context = ssl.create_default_context(cadata=kafka.authority.broker.ca_pem)
    if certificate:
        file = folder / "client.pem"
        file.write_text(f"{certificate.key.reveal()}\n{certificate.pem}")
        context.load_cert_chain(file)
    host, port = address(kafka.kafka.admin_servers)
    with (
        socket.create_connection((host, port), timeout=10) as plain,
        pytest.raises(ssl.SSLError) as caught,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        # In TLS 1.3 the server's verdict arrives with the first read.
        tls.recv(1)
    return str(caught.value).lower()


def test_a_client_checks_the_brokers_certificate(kafka: SecuredKafka) -> None:
    admin = msgspec.structs.replace(kafka.admin, ca_pem="")
    with pytest.raises(BrokerRefused, match="certificate"):
        ensure_users_and_acls(admin, {})


def test_no_secret_is_on_the_command_line_and_files_are_private(kafka: SecuredKafka) -> None:
    server = kafka.kafka
    assert isinstance(server, ApacheKafka)
    secrets = [login.password.reveal() for logins in kafka.users.values() for login in logins]
    key_lines = kafka.authority.broker.key.reveal().split("\n")[1:3]
    command = Path(f"/proc/{server.pid}/cmdline").read_text()
    environment = Path(f"/proc/{server.pid}/environ").read_text()
    for secret in (*secrets, *key_lines):
        assert secret not in command + environment
    assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
    assert server.certificates
    private = (server.folder / "server.properties", server.certificates.server_file, server.certificates.ca_file)
    for file in private:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    # The broker keeps what passwords are checked with, never the passwords; nor does its log hold any.
    read = 0
    for folder, _, names in os.walk(server.data_dir):
        for name in names:
            try:
                content = (Path(folder) / name).read_bytes()
            except FileNotFoundError:
                continue  # the broker deletes topics of other tests meanwhile
            read += 1
            assert not [secret for secret in secrets if secret.encode() in content], name
    assert read > 20


def test_users_and_acls_outlive_a_restart(kafka: SecuredKafka) -> None:
    kafka.kafka.stop()
    kafka.kafka.start()
    assert ensure_users_and_acls(kafka.admin, kafka.users) == []
    assert OPERATIONS["write topic"](target(kafka.login("serve")))
    assert not OPERATIONS["read topic"](target(kafka.login("serve")))


@pytest.mark.kafka
def test_users_are_known_at_each_broker_of_a_cluster_before_anybody_uses_them(
    tmp_path: Path, authority: Authority
) -> None:
    """A frozen broker learns nothing; the others, who know it all, do not count as the cluster.

    Four at once, as librdkafka asks any broker: one that asks the frozen one has to wait in any case.
    """
    cluster = KafkaCluster(tmp_path, certificates=authority.certificates)
    with secured(cluster, authority) as ready, ThreadPoolExecutor(4) as background:
        frozen = next(each for each in cluster.brokers.values() if not leads_the_quorum(each))
        running = [each for each in cluster.brokers.values() if each is not frozen]
        admin = changed(ready.admin, bootstrap_servers=",".join(each.admin_servers for each in running))
        addresses = ",".join(each.bootstrap_servers for each in running)
        newcomers = [
            changed(authority.login(cluster, f"bdlab-serve-{letter}"), bootstrap_servers=addresses) for letter in "cdef"
        ]
        assert frozen.pid is not None
        os.kill(frozen.pid, SIGSTOP)
        try:
            made = [background.submit(ensure_users_and_acls, admin, {"serve": [user]}) for user in newcomers]
            assert not wait(made, timeout=2).done
        finally:
            os.kill(frozen.pid, SIGCONT)
        for user, changes in zip(newcomers, made, strict=True):
            assert Change("created", f"user {user.username}") in changes.result(timeout=60)
            for broker in cluster.brokers.values():
                alone = changed(user, bootstrap_servers=broker.bootstrap_servers)
                assert OPERATIONS["describe topic"](target(alone)), broker.node_id


def leads_the_quorum(broker: ApacheKafka) -> bool:
    return "indexOfHw" in broker.log_file.read_text()  # the leader alone works out the high watermark


@pytest.mark.kafka
def test_a_secured_cluster_keeps_its_rules_when_a_broker_is_lost(tmp_path: Path, authority: Authority) -> None:
    cluster = KafkaCluster(tmp_path, certificates=authority.certificates)
    with secured(cluster, authority) as ready:
        kill(cluster.brokers[1])
        acks = Acks()
        credentials = StaticCredentials(
            kafka=msgspec.structs.replace(
                ready.login("serve"), server=msgspec.structs.replace(ready.login("serve").server, delivery_timeout_s=20)
            )
        )
        with Producer(credentials, client_id="serve", source="/serve") as producer:
            for _ in range(50):
                producer.publish(event(), acks)
            acks.positions(50, timeout_s=60)
        assert not OPERATIONS["read topic"](target(ready.login("serve")))
        assert not OPERATIONS["write topic"](target(ready.login("consume")))
        assert ensure_users_and_acls(ready.admin, ready.users) == []


def test_the_settings_of_an_administrator_need_no_password(kafka: SecuredKafka) -> None:
    assert kafka.admin.server == KafkaSettings(bootstrap_servers=kafka.kafka.admin_servers, security_protocol="SSL")
    assert kafka.admin.username == ""
