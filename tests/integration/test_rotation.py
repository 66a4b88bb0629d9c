"""Rotating the database's credentials and the services' secret ids, on a real Vault and Postgres."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg2
import pytest
import structlog.testing

from bdlab.errors import IdentityRefused, VaultError
from bdlab.services import DATABASE_ROLES, NOT_ROTATED, SERVICES, SWEEP
from bdlab.settings import Secret
from bdlab.vault import session as session_module
from bdlab.vault.client import VaultClient
from bdlab.vault.client_reports import ClientReport, ClientReporter
from bdlab.vault.identity import Identity
from bdlab.vault.rotation import Rotation
from bdlab.vault.rotation.database import end_logins, rotate_manager
from bdlab.vault.rotation.secret_ids import rotate_secret_ids
from bdlab.vault.session import VaultSession
from tests.fix_rotation import Deadly, rotation
from tests.fix_vault import VaultWorld
from tests.vault_steps import works_as_writer
from tests.waiting import until

_ALL = [*(name for name in SERVICES if name not in {"rotate", *NOT_ROTATED}), "rotate"]


def outcomes(found: list[Rotation]) -> dict[str, str]:
    return {one.service: one.outcome for one in found}


def rotate_ids(world: VaultWorld, *services: str, grace_s: float = 20.0, force: bool = False) -> list[Rotation]:
    with rotation(world, grace_s=grace_s, force=force) as run:
        return list(rotate_secret_ids(run, services or _ALL))


def lets_in(world: VaultWorld, service: str, secret_id: Secret) -> bool:
    """Whether Vault takes this secret id."""
    client = world.client()
    try:
        client.token = client.log_in(world.identity(service).role_id(), secret_id).token
    except IdentityRefused:
        return False
    else:
        client.revoke_self()
        return True
    finally:
        client.close()


def held_secret_id(world: VaultWorld, service: str) -> Secret:
    """The one in its folder, unwrapped where it was not yet."""
    client = world.client()
    with contextlib.closing(client):
        return world.identity(service).obtain(client)[1]


def reports(world: VaultWorld, service: str) -> list[ClientReport]:
    with rotation(world) as run:
        return run.clients(service)


@pytest.fixture
def consumer(vault_world: VaultWorld) -> Iterator[VaultSession]:
    """The consumer's session, as the daemon has it."""
    with vault_world.session("consume", "bdlab-writer") as opened:
        yield opened


# -- the database ------------------------------------------------------------------------------------------


def test_the_managers_former_password_is_dead_and_users_are_made_as_ever(
    vault_world: VaultWorld, consumer: VaultSession
) -> None:
    known = Secret("known-to-a-person")
    manager = msgspec.structs.replace(vault_world.manager.admin, user="bdlab_manager", password=known)
    vault_world.manager.prepare(known)
    with vault_world.root() as root:
        root.write(
            "database/config/bdlab",
            {
                "plugin_name": "postgresql-database-plugin",
                "password": known.reveal(),
                "allowed_roles": [*(role.name for role in DATABASE_ROLES), SWEEP],
            },
        )
    vault_world.connect(manager).close()
    before = consumer.database()
    with rotation(vault_world) as run:
        assert rotate_manager(run).outcome == "rotated"
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        vault_world.connect(manager)
    assert consumer.database() is before
    assert works_as_writer(before, vault_world)
    assert works_as_writer(consumer.replace_database(before), vault_world)


def test_every_login_ends_and_whoever_has_one_gets_another(vault_world: VaultWorld, consumer: VaultSession) -> None:
    before = consumer.database()
    with rotation(vault_world) as run:
        assert outcomes(list(end_logins(run))) == dict.fromkeys((role.name for role in DATABASE_ROLES), "rotated")
    assert before.user not in vault_world.users()
    assert works_as_writer(consumer.replace_database(before), vault_world)


# -- secret ids --------------------------------------------------------------------------------------------


def test_every_service_gets_another_secret_id_and_the_former_ones_are_dead(vault_world: VaultWorld) -> None:
    former = {name: held_secret_id(vault_world, name) for name in _ALL}
    found = rotate_ids(vault_world)
    assert outcomes(found) == dict.fromkeys(_ALL, "rotated")
    for name in _ALL:
        assert not lets_in(vault_world, name, former[name]), name
        assert lets_in(vault_world, name, held_secret_id(vault_world, name)), name
        assert vault_world.identity(name).wrapping_token() is None
    assert {one.before for one in found}.isdisjoint({one.after for one in found})


def test_running_services_take_it_without_a_restart_and_their_former_tokens_end(
    vault_world: VaultWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_MOVE_S", 1.0)
    former = held_secret_id(vault_world, "consume")
    with vault_world.session("consume", "bdlab-writer") as one, vault_world.session("consume", "bdlab-writer") as other:
        sessions = (one, other)
        logins = [opened.database() for opened in sessions]
        tokens = [opened._client.token for opened in sessions]
        assert len(reports(vault_world, "consume")) == 2
        assert outcomes(rotate_ids(vault_world, "consume")) == {"consume": "rotated"}
        accessor = vault_world.identity("consume").accessor
        assert {client.secret_id for client in reports(vault_world, "consume")} == {accessor}
        assert not lets_in(vault_world, "consume", former)
        for opened, login, token in zip(sessions, logins, tokens, strict=True):
            assert opened._client.token != token
            assert opened.database() is not login
            assert works_as_writer(opened.database(), vault_world)
        until(lambda: not {login.user for login in logins} & vault_world.users())
        for token in tokens:
            with pytest.raises(VaultError):
                vault_world.client(token).read("auth/token/lookup-self")
        assert all(opened.state().authenticated for opened in sessions)
    assert reports(vault_world, "consume") == []


def test_a_client_that_does_not_report_keeps_its_secret_id_and_a_later_run_finishes(
    vault_world: VaultWorld, consumer: VaultSession
) -> None:
    former = held_secret_id(vault_world, "consume")
    consumer._renewal.stop(5)
    (found,) = rotate_ids(vault_world, "consume", grace_s=0.5)
    assert found.outcome == "incomplete"
    (client,) = reports(vault_world, "consume")
    assert client.name in found.detail
    assert lets_in(vault_world, "consume", former)
    consumer._start_renewal()
    (found,) = rotate_ids(vault_world, "consume")
    assert found.outcome == "finished"
    assert not lets_in(vault_world, "consume", former)


def test_force_ends_it_although_a_client_has_not_reported(vault_world: VaultWorld, consumer: VaultSession) -> None:
    former = held_secret_id(vault_world, "consume")
    consumer._renewal.stop(5)
    (found,) = rotate_ids(vault_world, "consume", grace_s=0.2, force=True)
    assert found.outcome == "rotated"
    assert not lets_in(vault_world, "consume", former)


def test_a_delivery_that_somebody_else_unwrapped_raises_the_alarm_and_the_next_run_ends_it(
    vault_world: VaultWorld, consumer: VaultSession
) -> None:
    former = held_secret_id(vault_world, "consume")
    identity = vault_world.identity("consume")
    consumer._renewal.stop(5)
    rotate_ids(vault_world, "consume", grace_s=0)
    wrapped = identity.wrapping_token()
    assert wrapped is not None
    stolen = Secret(vault_world.client().unwrap(wrapped)["secret_id"])
    assert lets_in(vault_world, "consume", stolen)

    with structlog.testing.capture_logs() as logs:
        consumer._start_renewal()
        until(lambda: any("ALARM" in str(entry.get("problem")) for entry in logs))
    assert consumer.state().authenticated
    assert lets_in(vault_world, "consume", former)

    (found,) = rotate_ids(vault_world, "consume")
    assert found.outcome == "finished"
    assert not lets_in(vault_world, "consume", stolen)
    assert not lets_in(vault_world, "consume", former)
    assert lets_in(vault_world, "consume", held_secret_id(vault_world, "consume"))
    assert consumer.state().authenticated


@pytest.mark.long
def test_killed_after_any_change_it_is_run_again_and_nobody_is_locked_out(
    vault_world: VaultWorld, consumer: VaultSession, deadly: Deadly
) -> None:
    for changes in range(1, 30):
        former = held_secret_id(vault_world, "consume")
        if not deadly.dies_after(changes, lambda: rotate_ids(vault_world, "consume")):
            break
        assert consumer.state().authenticated
        (found,) = rotate_ids(vault_world, "consume")
        assert found.outcome in ("rotated", "finished")
        assert not lets_in(vault_world, "consume", former), changes
        assert lets_in(vault_world, "consume", held_secret_id(vault_world, "consume")), changes
        until(lambda: consumer._token.secret_id == vault_world.identity("consume").accessor)
        assert works_as_writer(consumer.database(), vault_world)
    assert changes > 5


def test_asked_to_stop_it_begins_nothing_more(vault_world: VaultWorld) -> None:
    former = held_secret_id(vault_world, "consume")
    with rotation(vault_world) as run:
        run.stop.set()
        found = list(rotate_secret_ids(run, _ALL))
    assert outcomes(found) == dict.fromkeys(_ALL, "incomplete")
    assert {one.detail for one in found} == {"asked to stop before it began"}
    assert not vault_world.identity("consume").delivered
    assert held_secret_id(vault_world, "consume") == former


def test_a_service_without_an_identity_here_is_left(vault_world: VaultWorld) -> None:
    with rotation(vault_world) as run:
        elsewhere = msgspec.structs.replace(
            run, vault=msgspec.structs.replace(vault_world.vault, identity_dir="/nowhere")
        )
        (found,) = rotate_secret_ids(elsewhere, ["serve"])
    assert (found.outcome, found.detail) == ("unchanged", "no identity of it is in /nowhere")


# -- reports -----------------------------------------------------------------------------------------------


def test_a_process_that_was_killed_is_not_waited_for_and_leaves_its_name_to_the_next(vault_world: VaultWorld) -> None:
    def reporter(client: VaultClient) -> ClientReporter:
        folder = vault_world.identity("consume").folder
        return ClientReporter(client, Identity(folder, service="consume"))

    with vault_world.session("consume") as opened:
        ttl = opened._token.ttl
        assert ttl
        until(lambda: [one.kafka_version for one in reports(vault_world, "consume")] == [1])
        (running,) = reports(vault_world, "consume")
        killed = reporter(opened._client)
        killed.report(7, "", ttl)
        assert {one.kafka_version for one in reports(vault_world, "consume")} == {1, 7}
        assert killed._lock is not None
        os.close(killed._lock)  # as the kernel does
        successor = reporter(opened._client)
        successor.report(8, "", ttl)
        assert {one.kafka_version for one in reports(vault_world, "consume")} == {1, 8}
        assert successor._name == killed._name
        successor.report(9, "", ttl)
        assert successor._lock is not None
        os.close(successor._lock)
        # Nobody took its place: whoever sees the folder knows that it is gone.
        assert [one.name for one in reports(vault_world, "consume")] == [running.name]


def test_a_report_counts_until_its_token_has_run_out(vault_world: VaultWorld) -> None:
    long_ago = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    with vault_world.logged_in("consume") as client:
        values = {"kafka_version": "1", "secret_id": "", "until": long_ago}
        client.write_kv("clients/consume/gone", values)
    before = len(vault_world.audit())
    assert reports(vault_world, "consume") == []
    removed = [entry["request"]["path"] for entry in vault_world.audit()[before:]]
    assert "kv/metadata/clients/consume/gone" in removed


@pytest.mark.long
def test_a_client_reports_anew_when_its_token_is_renewed(vault_world: VaultWorld) -> None:
    with vault_world.root() as root:
        root.write("auth/approle/role/consume", {"token_period": 9})
    try:
        with vault_world.session("consume") as opened:
            began = time.monotonic()
            while time.monotonic() - began < 18:
                assert len(reports(vault_world, "consume")) == 1
                time.sleep(0.3)
            assert opened.state().authenticated
    finally:
        vault_world.init()
