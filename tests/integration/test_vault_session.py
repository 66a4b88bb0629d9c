"""A session with Vault: what it holds is renewed, replaced, revoked, and outlives an outage."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psycopg2
import pytest
import structlog.testing

from bdlab import settings
from bdlab.credentials import DatabaseLogin
from bdlab.errors import (
    IdentityRefused,
    PolicyDenied,
    SecretMissing,
    SettingsInvalid,
    VaultError,
    VaultUnavailable,
)
from bdlab.settings import VaultSettings
from bdlab.vault.client import VaultClient
from bdlab.vault.session import VaultSession
from tests.fix_vault import ShamirOpenBao, VaultWorld

Logs = list[Any]


def eventually(condition: Callable[[], bool], within_s: float = 15.0) -> None:
    """Wait for something that happens elsewhere and tells nobody."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.02)


def works(login: DatabaseLogin, world: VaultWorld) -> bool:
    with contextlib.closing(world.connect(login)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT session_user, current_user")
        found = cursor.fetchone()
    return found == (login.user, "bdlab_writer")


def own_token(session: VaultSession) -> str:
    return str(session._client.read("auth/token/lookup-self")["accessor"])


def revoke_token(world: VaultWorld, session: VaultSession) -> None:
    with world.root() as root:
        root.write("auth/token/revoke-accessor", {"accessor": own_token(session)})


def about(logs: Logs, event: str) -> int:
    return sum(entry["event"] == event for entry in logs)


@pytest.fixture
def session(vault_world: VaultWorld) -> Iterator[VaultSession]:
    """The consumer's, as the daemon has it."""
    with vault_world.session("consume", "bdlab-writer") as opened:
        yield opened


# -- what it gives -----------------------------------------------------------------------------------------


def test_a_database_login_works_as_the_group(session: VaultSession, vault_world: VaultWorld) -> None:
    login = session.database()
    assert works(login, vault_world)
    assert session.database() is login
    assert login.password.reveal() not in repr(login)


def test_vaults_values_lie_between_file_and_environment(vault_world: VaultWorld, tmp_path: Path) -> None:
    config = tmp_path / "bdlab.toml"
    config.write_text('[postgres]\ndbname = "from-file"\nhost = "from-file"\nconnect_timeout_s = 3.0\n')
    layers = settings.load(config=config, environ=vault_world.environment(BDLAB_POSTGRES_HOST="localhost"))
    with VaultSession(layers, service="verify", database_role="bdlab-reader", daemon=False) as opened:
        found = opened.settings().postgres
        assert (found.host, found.dbname, found.connect_timeout_s) == ("localhost", "bdlab", 3.0)
        assert found.port == vault_world.server.port
        assert opened.database().server == found
        assert opened.settings().kafka.bootstrap_servers == opened.kafka().server.bootstrap_servers


def test_a_secured_broker_gets_the_services_own_user(vault_world: VaultWorld) -> None:
    pem = "-----BEGIN CERTIFICATE-----\n"
    with (
        vault_world.session("migrate", daemon=False) as migrate,
        vault_world.session("serve") as serve,
    ):
        before, version = migrate.read_secret("kafka/credentials")
        plain = serve.kafka()
        assert (plain.username, plain.server.security_protocol) == ("", "PLAINTEXT")
        secured = {**before, "security_protocol": "SASL_SSL", "ca_pem": pem}
        version = migrate.write_secret("kafka/credentials", secured, cas=version)
        eventually(lambda: serve.kafka() is not plain)
        login = serve.kafka()
        assert (login.username, login.ca_pem) == ("bdlab-serve-a", pem)
        assert login.password.reveal() == migrate.read_secret("kafka/serve")[0]["password"]
        assert serve.refresh_kafka() is login
        migrate.write_secret("kafka/credentials", before, cas=version)
        assert serve.refresh_kafka().username == ""


def test_a_write_over_another_version_is_refused(vault_world: VaultWorld) -> None:
    with vault_world.session("migrate", daemon=False) as opened:
        values, version = opened.read_secret("kafka/credentials")
        with pytest.raises(VaultError, match="check-and-set"):
            opened.write_secret("kafka/credentials", values, cas=version + 1)
        with pytest.raises(SecretMissing):
            opened.read_secret("kafka/nothing-here")


def test_the_authority_of_the_database_is_a_private_file(vault_world: VaultWorld) -> None:
    pem = "-----BEGIN CERTIFICATE-----\n"
    with vault_world.root() as root:
        values, version = root.read_kv("kv", "database/credentials")
        root.write_kv("kv", "database/credentials", {**values, "ca_pem": pem}, cas=version)
        try:
            with vault_world.session("status", "bdlab-reader", daemon=False) as opened:
                file = Path(opened.database().server.ca_file)
                assert file.read_text() == pem
                assert file.stat().st_mode & 0o777 == 0o600
        finally:
            root.write_kv("kv", "database/credentials", values)


# -- how it lasts ------------------------------------------------------------------------------------------


@pytest.fixture
def short_lived(vault_world: VaultWorld) -> Iterator[None]:
    """Tokens and database logins of 3 s without renewal; a login lasts 7 s at most."""
    with vault_world.root() as root:
        root.write("auth/approle/role/consume", {"token_period": 3})
        role = root.read("database/roles/bdlab-writer")
        root.write("database/roles/bdlab-writer", {**role, "default_ttl": 3, "max_ttl": 7})
    yield
    vault_world.init()


def test_a_daemon_renews_past_every_ttl(vault_world: VaultWorld, short_lived: None) -> None:
    with (
        structlog.testing.capture_logs() as logs,
        vault_world.session("consume", "bdlab-writer") as opened,
    ):
        began = time.monotonic()
        logins = [opened.database()]
        while time.monotonic() - began < 8 or len(logins) < 2:
            assert time.monotonic() - began < 30
            login = opened.database()
            assert works(login, vault_world)
            if login is not logins[-1]:
                # The one before still works: connect with the new one first, then close the old.
                assert works(logins[-1], vault_world)
                logins.append(login)
            state = opened.state()
            assert state.held_valid, state
            time.sleep(0.05)
    assert [entry for entry in logs if entry["log_level"] in ("warning", "error")] == []


def test_a_short_command_renews_on_use(vault_world: VaultWorld, short_lived: None) -> None:
    with vault_world.session("consume", "bdlab-writer", daemon=False) as opened:
        began = time.monotonic()
        first = opened.database()
        while (login := opened.database()) is first:
            assert works(login, vault_world)
            assert opened.state().authenticated
            time.sleep(0.1)
        assert 3 < time.monotonic() - began < 20
        assert works(login, vault_world)


def test_a_revoked_lease_is_replaced_once_for_all_who_ask(
    session: VaultSession, vault_world: VaultWorld
) -> None:
    refused = session.database()
    held = vault_world.connect(refused)
    with held.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE batch (id int)")
    with vault_world.root() as root:
        root.write("sys/leases/revoke", {"lease_id": refused.lease_id, "sync": True})
    with pytest.raises(psycopg2.OperationalError), held.cursor() as cursor:
        cursor.execute("SELECT 1")
    held.close()
    assert refused.user not in vault_world.users()

    with ThreadPoolExecutor(4) as pool:
        fresh = {id(login): login for login in pool.map(session.replace_database, [refused] * 4)}
    assert len(fresh) == 1
    assert works(session.database(), vault_world)
    assert session.database() is next(iter(fresh.values()))


def test_a_dead_token_is_replaced_and_the_database_login_with_it(
    session: VaultSession, vault_world: VaultWorld
) -> None:
    before = session.database()
    with structlog.testing.capture_logs() as logs:
        revoke_token(vault_world, session)
        eventually(lambda: session.database() is not before)
        eventually(lambda: session.state().authenticated)
    assert works(session.database(), vault_world)
    assert before.user not in vault_world.users()
    assert about(logs, "the token is dead; logging in again") == 1


def test_a_short_command_logs_in_again(vault_world: VaultWorld) -> None:
    with vault_world.session("dlq", "bdlab-writer", daemon=False) as opened:
        before = opened.database()
        revoke_token(vault_world, opened)
        assert opened.refresh_kafka() is opened.kafka()
        assert opened.database() is not before
        assert works(opened.database(), vault_world)


def test_closing_gives_token_and_login_back(vault_world: VaultWorld) -> None:
    opened = vault_world.session("verify", "bdlab-reader", daemon=False)
    opened.open(10)
    user, accessor = opened.database().user, own_token(opened)
    assert user in vault_world.users()
    opened.close()
    eventually(lambda: user not in vault_world.users())
    with vault_world.root() as root, pytest.raises(VaultError):
        root.write("auth/token/lookup-accessor", {"accessor": accessor})
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vault-")]


def test_a_secret_id_that_is_rotated_is_taken_in_while_running(
    session: VaultSession, vault_world: VaultWorld
) -> None:
    identity = vault_world.identity("consume")
    before = identity.secret_id()
    with vault_world.logged_in("rotate") as rotate:
        path = "auth/approle/role/consume/secret-id"
        wrapped = rotate.request("post", path, {}, wrap_ttl_s=60)["wrap_info"]
    (identity.folder / "new").write_text(wrapped["token"])
    (identity.folder / "new").chmod(0o600)
    (identity.folder / "new").rename(identity.folder / "wrapped_secret_id")
    eventually(lambda: identity.secret_id() != before)
    revoke_token(vault_world, session)
    eventually(lambda: session.state().authenticated)


def test_several_processes_of_a_service_unwrap_one_delivery(vault_world: VaultWorld) -> None:
    identity = vault_world.identity("serve")
    for name in ("secret_id", "wrapped_secret_id"):
        (identity.folder / name).unlink(missing_ok=True)
    vault_world.init()
    sessions = [vault_world.session("serve", "bdlab-reader") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda opened: opened.open(10), sessions))
    assert all(opened.state().authenticated for opened in sessions)
    for opened in sessions:
        opened.close()


# -- what it refuses at once -------------------------------------------------------------------------------


def refused_at_once(opened: VaultSession, kind: type[VaultError]) -> VaultError:
    began = time.monotonic()
    try:
        with pytest.raises(kind) as refused:
            opened.open(30)
    finally:
        opened.close()
    assert time.monotonic() - began < 5
    return refused.value


def test_a_wrong_secret_id(vault_world: VaultWorld, tmp_path: Path) -> None:
    folder = tmp_path / "consume"
    folder.mkdir(mode=0o700)
    for name, text in (("role_id", vault_world.identity("consume").role_id()), ("secret_id", "wrong")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    opened = vault_world.session("consume", "bdlab-writer", BDLAB_VAULT_IDENTITY_DIR=str(tmp_path))
    error = refused_at_once(opened, IdentityRefused)
    assert "invalid role or secret ID" in error.message
    assert "vault-init" in error.hint


def test_a_policy_that_does_not_allow_the_database(vault_world: VaultWorld) -> None:
    error = refused_at_once(vault_world.session("predict", "bdlab-reader"), PolicyDenied)
    assert "database/credentials" in error.message


def test_a_policy_that_does_not_allow_the_role(vault_world: VaultWorld) -> None:
    error = refused_at_once(vault_world.session("serve", "bdlab-owner"), PolicyDenied)
    assert "database/creds/bdlab-owner" in error.message


def test_an_identity_from_another_network(vault_world: VaultWorld) -> None:
    with vault_world.root() as root:
        root.write("auth/approle/role/status", {"secret_id_bound_cidrs": ["10.9.8.0/24"]})
    try:
        error = refused_at_once(vault_world.session("status"), IdentityRefused)
        assert "CIDR" in error.message
    finally:
        vault_world.init()


def test_an_identity_that_was_never_handed_over(vault_world: VaultWorld, tmp_path: Path) -> None:
    elsewhere = str(tmp_path)
    command = vault_world.session("verify", daemon=False, BDLAB_VAULT_IDENTITY_DIR=elsewhere)
    assert "has no identity" in refused_at_once(command, IdentityRefused).message
    daemon = vault_world.session("consume", BDLAB_VAULT_IDENTITY_DIR=elsewhere)
    with pytest.raises(IdentityRefused, match="has no identity"):
        daemon.open(0.3)
    daemon.close()

    handing_over = threading.Timer(
        0.5, lambda: (tmp_path / "consume").symlink_to(vault_world.identity("consume").folder)
    )
    handing_over.start()
    daemon.open(10)
    assert daemon.state().authenticated
    daemon.close()
    handing_over.join()


# -- outages -----------------------------------------------------------------------------------------------


def test_waiting_for_a_vault_that_is_not_there_yet(new_world: Callable[..., VaultWorld]) -> None:
    world = new_world()
    world.init()
    world.openbao.stop()
    with structlog.testing.capture_logs() as logs:
        opened = world.session("consume", "bdlab-writer")
        with pytest.raises(VaultUnavailable, match=r"is unreachable: Connection refused \(waited 1 s\)"):
            opened.open(1)
        assert about(logs, "waiting for Vault") == 1
        starting = threading.Thread(target=world.openbao.start)
        starting.start()
        opened.open(30)
        starting.join()
        assert works(opened.database(), world)
        opened.close()
    assert about(logs, "waiting for Vault") <= 4


def test_a_wait_ends_when_it_is_told_to() -> None:
    layers = settings.load(environ={"VAULT_ADDR": "http://127.0.0.1:1"})
    opened = VaultSession(layers, service="serve", database_role=None, daemon=True)
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    with pytest.raises(VaultUnavailable):
        opened.open(60, stop=stop)
    assert time.monotonic() - began < 5


def test_an_outage_is_outlived_and_told_once(new_world: Callable[..., VaultWorld]) -> None:
    """Sealed, then killed, then back: what is held stays in use, and is replaced when it has run out."""
    world = new_world(ShamirOpenBao)
    world.init(world.plan(seeds=world.seeds(token_period_s=3, lease_ttl_s=3, lease_max_ttl_s=6)))
    with (
        structlog.testing.capture_logs() as logs,
        world.session("consume", "bdlab-writer") as opened,
    ):
        login, kafka = opened.database(), opened.kafka()
        connection = world.connect(login)
        with world.root() as root:
            root.request("put", "sys/seal", {})
            eventually(
                lambda: about(logs, "Vault does not give what is due; going on with what is held") == 1
            )
            state = opened.state()
            assert (state.connected, state.sealed) == (False, True)
            assert "is sealed" in state.problem
            assert opened.kafka() is kafka
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")

            world.openbao._process._popen.kill()  # type: ignore[union-attr]
            eventually(lambda: opened.state().lease_ttl_s == 0)
            assert not opened.state().held_valid
            assert "unreachable" in opened.state().problem
            began = time.monotonic()
            with pytest.raises(VaultUnavailable, match="there is no database login: Vault at"):
                opened.database()
            assert time.monotonic() - began < 1
            assert opened.kafka() is kafka

            world.openbao.stop()
            world.openbao.start()
            assert world.init()[1].outcome == "done"
            root.token = root.with_token(root.token).token
        eventually(lambda: about(logs, "Vault gives again what is due") == 1)
        fresh = opened.database()
        assert fresh is not login
        assert works(fresh, world)
        assert opened.state().held_valid
        connection.close()
    assert about(logs, "Vault does not give what is due; going on with what is held") == 1


def test_a_daemon_starts_without_its_database(vault_world: VaultWorld) -> None:
    vault_world.postgres.stop()
    try:
        opened = vault_world.session("serve", "bdlab-reader")
        opened.open(10)
        assert opened.kafka()
        with pytest.raises(VaultUnavailable):
            opened.database()
        assert not opened.state().held_valid
        assert opened.state().authenticated
    finally:
        vault_world.postgres.start()
    eventually(lambda: opened.state().held_valid)
    vault_world.connect(opened.database()).close()
    opened.close()


# -- other servers than a healthy Vault --------------------------------------------------------------------


@contextlib.contextmanager
def answering(status: int, body: bytes) -> Iterator[VaultSettings]:
    """A server that answers every request like that."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield VaultSettings(address=f"http://127.0.0.1:{server.server_port}", timeout_s=2)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (412, "behind its cluster"),
        (429, "too many requests"),
        (472, "disaster-recovery standby"),
        (473, "performance standby"),
        (500, "failed at kv/data/x: disk full"),
        (501, "not initialised"),
        (502, "gateway"),
        (503, "sealed"),
        (504, "gateway"),
    ],
)
def test_answers_that_pass(status: int, said: str) -> None:
    with answering(status, b'{"errors": ["disk full"]}') as vault:
        client = VaultClient(vault)
        with pytest.raises(VaultUnavailable, match=said) as raised:
            client.read("kv/data/x")
        client.close()
    assert vault.address in raised.value.message


def test_something_else_than_vault_answers() -> None:
    with answering(200, b"<html>welcome</html>") as vault:
        client = VaultClient(vault)
        for ask in (client.health, lambda: client.read("kv/data/x")):
            with pytest.raises(VaultUnavailable, match="is no Vault"):
                ask()
        client.close()


def test_a_server_that_never_answers_is_given_up() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        vault = VaultSettings(address=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.3)
        client = VaultClient(vault)
        began = time.monotonic()
        with pytest.raises(VaultUnavailable, match="timed out"):
            client.health()
        client.close()
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("address", ["", "localhost:8200", "ftp://localhost", "http://"])
def test_an_address_that_is_no_url(address: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"vault\.address"):
        VaultClient(VaultSettings(address=address)).health()


def test_an_authority_file_that_is_missing(vault_world: VaultWorld) -> None:
    vault = msgspec.structs.replace(
        vault_world.vault, address=vault_world.vault.address.replace("http:", "https:"), ca_file="/absent.pem"
    )
    with pytest.raises(SettingsInvalid, match=r"vault\.ca_file: .*/absent\.pem"):
        VaultClient(vault).health()
