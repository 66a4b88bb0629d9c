"""Rotating Kafka users on a secured Apache Kafka, while producers and consumers run with Vault's sessions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from bdlab.credentials import KafkaLogin
from bdlab.errors import VaultError
from bdlab.events import Position
from bdlab.kafka.broker_admin import accepts
from bdlab.kafka.consumer import Consumer
from bdlab.kafka.producer import Producer
from bdlab.services import KAFKA_SERVICES
from bdlab.settings import Secret
from bdlab.stack import ApacheKafka
from bdlab.vault.rotation import Rotation
from bdlab.vault.rotation.kafka import rotate_kafka_users
from bdlab_cli.wiring.broker_admin import Users
from bdlab_console.pages.rotation import KafkaUsers, users_of
from tests.fix_apache import Authority, SecuredKafka, secured
from tests.fix_kafka import Acks, Bookmarks
from tests.fix_rotation import Deadly, rotation
from tests.fix_vault import VaultWorld
from tests.samples import event
from tests.waiting import until

# One process has the servers that they share.
pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("rotation_kafka")]


class World(msgspec.Struct):
    """A broker, a Vault that knows it, and the administrator's hands."""

    vault: VaultWorld
    kafka: SecuredKafka
    users: Users

    def login(self, service: str, prefix: str = "") -> KafkaLogin:
        """One of the two users, as Vault has them now."""
        with self.vault.logged_in("migrate") as client:
            values, _ = client.read_kv(f"kafka/{service}")
        return msgspec.structs.replace(
            self.kafka.login("serve"),
            username=values[f"{prefix}username"],
            password=Secret(values[f"{prefix}password"]),
        )

    def secret(self, service: str) -> tuple[dict[str, str], int]:
        with self.vault.logged_in("migrate") as client:
            return client.read_kv(f"kafka/{service}")

    def seen(self, service: str) -> KafkaUsers:
        """What the console knows of its users."""
        with self.vault.logged_in("console") as client:
            return users_of(client, service)

    def rotate(
        self, *services: str, grace_s: float = 60.0, force: bool = False, users: Users | None = None
    ) -> list[Rotation]:
        with rotation(self.vault, grace_s=grace_s, force=force) as run:
            clients = self.kafka.login("serve")
            return list(rotate_kafka_users(run, users or self.users, clients, services or KAFKA_SERVICES))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, authority: Authority, vault_world: VaultWorld) -> Iterator[World]:
    server = ApacheKafka(tmp_path_factory.mktemp("rotation"), certificates=authority.certificates)
    with secured(server, authority) as kafka, vault_world.session("migrate", daemon=False) as migrate:
        before, version = migrate.read_secret("kafka/credentials")
        values = {
            **before,
            "bootstrap_servers": server.bootstrap_servers,
            "security_protocol": "SASL_SSL",
            "ca_pem": authority.broker.ca_pem,
        }
        version = migrate.write_secret("kafka/credentials", values, cas=version)
        users = Users(kafka.admin)
        found = World(vault_world, kafka, users)
        for service in KAFKA_SERVICES:
            for prefix in ("", "idle_"):
                users.put(service, found.login(service, prefix))
        yield found
        migrate.write_secret("kafka/credentials", before, cas=version)


class Load:
    """Publishes on and on; `wrong` gets what is no acknowledgement."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._acks = Acks()
        self._stop = threading.Event()
        self.sent = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            self._producer.publish(event(), self._acks)
            self.sent += 1

    def stop(self) -> list[object]:
        """Everything that came back and was no position."""
        self._stop.set()
        self._thread.join(10)
        return [found for found in self._acks.take(self.sent, 30) if not isinstance(found, Position)]


class Reading:
    """Polls a consumer on a thread of its own."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._stop = threading.Event()
        self.records = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.records += len(self._consumer.poll(100, 0.1))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)


@pytest.fixture
def running(world: World) -> Iterator[tuple[Load, Reading]]:
    """A producer as `serve` has it and a consumer as `consume` has it, under load."""
    with (
        world.vault.session("serve", BDLAB_KAFKA_SESSION_TIMEOUT_S="6") as serve,
        world.vault.session("consume", BDLAB_KAFKA_SESSION_TIMEOUT_S="6") as consume,
        Producer(serve, client_id="test-serve", source="/tests") as producer,
        Consumer(consume, positions=Bookmarks(), client_id="test-consume") as consumer,
    ):
        load, reading = Load(producer), Reading(consumer)
        until(lambda: load.sent > 50 and reading.records > 20, 60)
        yield load, reading
        reading.stop()
        assert load.stop() == []


def test_every_user_is_rotated_under_load_and_no_event_fails(world: World, running: tuple[Load, Reading]) -> None:
    former = {service: world.login(service) for service in KAFKA_SERVICES}
    idle = {service: world.login(service, "idle_") for service in KAFKA_SERVICES}
    load, reading = running
    sent, records = load.sent, reading.records
    found = world.rotate()
    assert {one.service: one.outcome for one in found} == dict.fromkeys(KAFKA_SERVICES, "rotated")
    for service in KAFKA_SERVICES:
        assert not accepts(former[service])
        assert not accepts(idle[service])
        now = world.login(service)
        assert now.username == idle[service].username
        assert accepts(now)
        assert accepts(world.login(service, "idle_"))
        assert set(world.secret(service)[0]) == {"username", "password", "idle_username", "idle_password"}
    until(lambda: load.sent > sent + 50 and reading.records > records + 50, 30)
    assert {one.before.split()[0] for one in found} == {login.username for login in former.values()}


def test_a_client_that_does_not_report_keeps_its_user_and_a_later_run_finishes(world: World) -> None:
    former = world.login("serve")
    with world.vault.session("serve") as serve:
        serve._renewal.stop(5)
        (found,) = world.rotate("serve", grace_s=0.5)
        assert found.outcome == "incomplete"
        assert "serve client" in found.detail
        assert f"{former.username} still works" in found.detail
        assert accepts(former)
        assert accepts(world.login("serve"))
        serve._start_renewal()
        (found,) = world.rotate("serve")
        assert found.outcome == "finished"
        assert not accepts(former)
        assert serve.kafka().username == world.login("serve").username


def test_force_ends_it_although_a_client_has_not_reported(world: World) -> None:
    former = world.login("serve")
    with world.vault.session("serve") as serve:
        serve._renewal.stop(5)
        (found,) = world.rotate("serve", grace_s=0.2, force=True)
        assert found.outcome == "rotated"
        assert "without the report" in found.detail
    assert not accepts(former)


def test_a_client_that_holds_an_older_connection_is_waited_for(world: World) -> None:
    """The session has read the newer user, and the client in it has not taken it up."""
    with world.vault.session("serve") as serve:
        login = serve.kafka()
        serve.using("test", login)
        (found,) = world.rotate("serve", grace_s=1.0)
        assert found.outcome == "incomplete"
        assert serve.kafka() is not login
        assert accepts(login)
        users = world.seen("serve")
        assert (users.username, users.former) == (serve.kafka().username, login.username)
        assert [users.use(client) for client in users.clients] == ["former"]
        serve.using("test", serve.kafka())
        (found,) = world.rotate("serve")
        assert found.outcome == "finished"
        assert not accepts(login)
        users = world.seen("serve")
        assert (users.username, users.former) == (serve.kafka().username, "")
        assert [users.use(client) for client in users.clients] == ["current"]


class DeadlyUsers(Users):
    """Dies also right after the broker has changed something."""

    def __init__(self, admin: KafkaLogin, death: Deadly) -> None:
        super().__init__(admin)
        self._death = death

    def put(self, service: str, login: KafkaLogin) -> None:
        super().put(service, login)
        self._death.changed()


def test_killed_after_any_change_it_is_run_again_and_no_event_fails(
    world: World, running: tuple[Load, Reading], deadly: Deadly
) -> None:
    users = DeadlyUsers(world.kafka.admin, deadly)
    for changes in range(1, 30):
        active = world.login("serve")
        if not deadly.dies_after(changes, lambda: world.rotate("serve", users=users)):
            break
        (found,) = world.rotate("serve")
        assert found.outcome in ("rotated", "finished")
        assert not accepts(active), changes
        assert accepts(world.login("serve"))
        assert accepts(world.login("serve", "idle_"))
    assert changes > 6


def test_two_at_once_cannot_overwrite_each_other(world: World) -> None:
    def interrupted(service: str, login: KafkaLogin) -> None:
        with world.vault.logged_in("migrate") as client:
            values, version = client.read_kv("kafka/serve")
            client.write_kv("kafka/serve", values, cas=version)
        Users.put(world.users, service, login)

    class Another(Users):
        put: Callable[[str, KafkaLogin], None] = staticmethod(interrupted)  # type: ignore[assignment]

    with pytest.raises(VaultError, match="check-and-set") as refused:
        world.rotate("serve", users=Another(world.kafka.admin))
    assert "again" in refused.value.hint
    (found,) = world.rotate("serve")
    assert found.outcome == "rotated"


def test_a_short_command_that_runs_long_takes_the_newer_user(world: World) -> None:
    with (
        world.vault.session("predict", daemon=False) as predict,
        Producer(predict, client_id="test", source="/tests") as producer,
    ):
        acks = Acks()
        producer.publish(event(), acks)
        acks.positions(1)
        former = predict.kafka()
        began = time.monotonic()
        (found,) = world.rotate("predict", grace_s=300)
        assert found.outcome == "rotated"
        assert time.monotonic() - began < 120  # nobody had to be waited for
        assert not accepts(former)
        newer = world.login("predict").username
        until(lambda: (active := producer._failover.active) is not None and active.login.username == newer)
        producer.publish(event(), acks)
        acks.positions(1)


def test_a_service_with_one_user_only_is_left_as_it_is(world: World) -> None:
    with world.vault.logged_in("migrate") as client:
        values, version = client.read_kv("kafka/dlq")
        one = {name: values[name] for name in ("username", "password")}
        version = client.write_kv("kafka/dlq", one, cas=version)
        (found,) = world.rotate("dlq")
        assert found.outcome == "unchanged"
        assert "one user only" in found.detail
        client.write_kv("kafka/dlq", values, cas=version)
