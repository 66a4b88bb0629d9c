"""A session with Vault: what it refuses at once, what it waits for, and what it outlives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from bdlab import settings
from bdlab.errors import IdentityRefused, PolicyDenied, VaultError, VaultUnavailable
from bdlab.vault.session import VaultSession
from tests.fix_vault import ShamirOpenBao, VaultWorld
from tests.vault_steps import works_as_writer
from tests.waiting import until


def about(logs: list[Any], event: str) -> int:
    return sum(entry["event"] == event for entry in logs)


# -- what it refuses at once -------------------------------------------------------------------------------


def refused_at_once(opened: VaultSession, kind: type[VaultError]) -> VaultError:
    began = time.monotonic()
    try:
        with pytest.raises(kind) as refused:
            opened.open(60)
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
        with pytest.raises(VaultUnavailable, match=r"is unreachable: Connection refused \(waited \d+ s\)"):
            opened.open(1)
        assert about(logs, "waiting for Vault") == 1
        starting = threading.Thread(target=world.openbao.start)
        starting.start()
        opened.open(60)
        starting.join()
        assert works_as_writer(opened.database(), world)
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


@pytest.mark.long
def test_an_outage_is_outlived_and_told_once(new_world: Callable[..., VaultWorld]) -> None:
    """Sealed, then killed, then back: what is held stays in use, and is replaced when it has run out."""
    world = new_world(ShamirOpenBao)
    world.init(world.plan(seeds=world.seeds(token_period_s=9, lease_ttl_s=9, lease_max_ttl_s=18)))
    with structlog.testing.capture_logs() as logs, world.session("consume", "bdlab-writer") as opened:
        login, kafka = opened.database(), opened.kafka()
        connection = world.connect(login)
        with world.root() as root:
            root.request("put", "sys/seal", {})
            until(lambda: about(logs, "credentials cannot be renewed from Vault; the present ones stay in use") == 1)
            state = opened.state()
            assert (state.connected, state.sealed) == (False, True)
            assert "is sealed" in state.problem
            assert opened.kafka() is kafka
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")

            world.openbao._popen.kill()  # type: ignore[union-attr]
            until(lambda: opened.state().lease_ttl_s == 0)
            assert not opened.state().credentials_valid
            assert "unreachable" in opened.state().problem
            began = time.monotonic()
            with pytest.raises(VaultUnavailable, match="there is no database login: Vault at"):
                opened.database()
            assert time.monotonic() - began < 5
            assert opened.kafka() is kafka

            world.openbao.stop()
            world.openbao.start()
            assert world.init()[1].outcome == "done"
            root.token = root.with_token(root.token).token
        until(lambda: about(logs, "credentials are renewed from Vault again") == 1)
        fresh = opened.database()
        assert fresh is not login
        assert works_as_writer(fresh, world)
        assert opened.state().credentials_valid
        connection.close()
    assert about(logs, "credentials cannot be renewed from Vault; the present ones stay in use") == 1


def test_a_daemon_starts_without_its_database(vault_world: VaultWorld) -> None:
    vault_world.postgres.stop()
    try:
        opened = vault_world.session("serve", "bdlab-reader")
        opened.open(10)
        assert opened.kafka()
        with pytest.raises(VaultUnavailable):
            opened.database()
        assert not opened.state().credentials_valid
        assert opened.state().authenticated
    finally:
        vault_world.postgres.start()
    until(lambda: opened.state().credentials_valid)
    vault_world.connect(opened.database()).close()
    opened.close()
