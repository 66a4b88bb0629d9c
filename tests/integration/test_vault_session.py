"""A session with Vault: what it gives, and how that is renewed, replaced and given back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import structlog.testing

from bdlab import settings
from bdlab.errors import SecretMissing, VaultError
from bdlab.vault.session import VaultSession
from tests.fix_vault import VaultWorld
from tests.vault_steps import works_as_writer
from tests.waiting import until


def own_token(session: VaultSession) -> str:
    return str(session._client.read("auth/token/lookup-self")["accessor"])


def revoke_token(world: VaultWorld, session: VaultSession) -> None:
    with world.root() as root:
        root.write("auth/token/revoke-accessor", {"accessor": own_token(session)})


def about(logs: list[Any], event: str) -> int:
    return sum(entry["event"] == event for entry in logs)


@pytest.fixture
def session(vault_world: VaultWorld) -> Iterator[VaultSession]:
    """The consumer's, as the daemon has it."""
    with vault_world.session("consume", "bdlab-writer") as opened:
        yield opened


# -- what it gives -----------------------------------------------------------------------------------------


@pytest.mark.with_tls
def test_a_database_login_works_as_the_group(session: VaultSession, vault_world: VaultWorld) -> None:
    login = session.database()
    assert works_as_writer(login, vault_world)
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
    with vault_world.session("migrate", daemon=False) as migrate, vault_world.session("serve") as serve:
        before, version = migrate.read_secret("kafka/credentials")
        plain = serve.kafka()
        assert (plain.username, plain.server.security_protocol) == ("", "PLAINTEXT")
        secured = {**before, "security_protocol": "SASL_SSL", "ca_pem": pem}
        version = migrate.write_secret("kafka/credentials", secured, cas=version)
        until(lambda: serve.kafka() is not plain)
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
        values, version = root.read_kv("database/credentials")
        root.write_kv("database/credentials", {**values, "ca_pem": pem}, cas=version)
        try:
            with vault_world.session("status", "bdlab-reader", daemon=False) as opened:
                file = Path(opened.database().server.ca_file)
                assert file.read_text() == pem
                assert file.stat().st_mode & 0o777 == 0o600
        finally:
            root.write_kv("database/credentials", values)


# -- how it lasts ------------------------------------------------------------------------------------------


@pytest.fixture
def short_lived(vault_world: VaultWorld) -> Iterator[None]:
    """Tokens and database logins of 9 s without renewal; a login lasts 20 s at most."""
    with vault_world.root() as root:
        root.write("auth/approle/role/consume", {"token_period": 9})
        role = root.read("database/roles/bdlab-writer")
        root.write("database/roles/bdlab-writer", {**role, "default_ttl": 9, "max_ttl": 20})
    yield
    vault_world.init()


@pytest.mark.long
def test_a_daemon_renews_past_every_ttl(vault_world: VaultWorld, short_lived: None) -> None:
    with structlog.testing.capture_logs() as logs, vault_world.session("consume", "bdlab-writer") as opened:
        began = time.monotonic()
        logins = [opened.database()]
        while time.monotonic() - began < 22 or len(logins) < 2:
            assert time.monotonic() - began < 90
            login = opened.database()
            assert works_as_writer(login, vault_world)
            if login is not logins[-1]:
                # The one before still works: connect with the new one first, then close the old.
                assert works_as_writer(logins[-1], vault_world)
                logins.append(login)
            state = opened.state()
            assert state.credentials_valid, state
            left_s = {name: moment - time.time() for name, moment in opened.expiries().items()}
            assert left_s.keys() == {"vault_token", "database_lease"}
            assert all(0 < seconds <= 12 for seconds in left_s.values()), left_s
            time.sleep(0.05)
    assert [entry for entry in logs if entry["log_level"] in ("warning", "error")] == []


@pytest.mark.long
def test_a_short_command_renews_on_use(vault_world: VaultWorld, short_lived: None) -> None:
    with vault_world.session("consume", "bdlab-writer", daemon=False) as opened:
        began = time.monotonic()
        first = opened.database()
        while (login := opened.database()) is first:
            assert works_as_writer(login, vault_world)
            assert opened.state().authenticated
            time.sleep(0.1)
        assert 9 < time.monotonic() - began < 60
        assert works_as_writer(login, vault_world)


@pytest.mark.with_tls
def test_a_revoked_lease_is_replaced_once_for_all_who_ask(session: VaultSession, vault_world: VaultWorld) -> None:
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
    assert works_as_writer(session.database(), vault_world)
    assert session.database() is next(iter(fresh.values()))


@pytest.mark.with_tls
def test_a_dead_token_is_replaced_and_the_database_login_with_it(
    session: VaultSession, vault_world: VaultWorld
) -> None:
    before = session.database()
    with structlog.testing.capture_logs() as logs:
        revoke_token(vault_world, session)
        until(lambda: session.database() is not before)
        until(lambda: session.state().authenticated)
    assert works_as_writer(session.database(), vault_world)
    assert before.user not in vault_world.users()
    assert about(logs, "the token is dead; logging in again") == 1


@pytest.mark.with_tls
def test_a_short_command_logs_in_again(vault_world: VaultWorld) -> None:
    with vault_world.session("consume", "bdlab-writer", daemon=False) as opened:
        before = opened.database()
        revoke_token(vault_world, opened)
        assert opened.refresh_kafka() is opened.kafka()
        assert opened.database() is not before
        assert works_as_writer(opened.database(), vault_world)


@pytest.mark.with_tls
def test_closing_gives_token_and_login_back(vault_world: VaultWorld) -> None:
    opened = vault_world.session("verify", "bdlab-reader", daemon=False)
    opened.open(10)
    user, accessor = opened.database().user, own_token(opened)
    assert user in vault_world.users()
    opened.close()
    until(lambda: user not in vault_world.users())
    with vault_world.root() as root, pytest.raises(VaultError):
        root.write("auth/token/lookup-accessor", {"accessor": accessor})
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vault-")]


@pytest.mark.with_tls
def test_a_secret_id_that_is_rotated_is_taken_in_while_running(session: VaultSession, vault_world: VaultWorld) -> None:
    identity = vault_world.identity("consume")
    before = identity.secret_id()
    with vault_world.logged_in("rotate") as rotate:
        path = "auth/approle/role/consume/secret-id"
        wrapped = rotate.request("post", path, {}, wrap_ttl_s=60)["wrap_info"]
    (identity.folder / "new").write_text(wrapped["token"])
    (identity.folder / "new").chmod(0o600)
    (identity.folder / "new").rename(identity.folder / "wrapped_secret_id")
    until(lambda: identity.secret_id() != before)
    revoke_token(vault_world, session)
    until(lambda: session.state().authenticated)


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
