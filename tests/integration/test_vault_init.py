"""`vault-init`: the first run, every later one, and the keys file."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import msgspec
import psycopg2
import pytest

from bdlab.errors import IdentityRefused, SettingsInvalid, TokenRefused, VaultError
from bdlab.services import IDENTITIES, NOT_ROTATED
from tests.fix_vault import VaultWorld
from tests.vault_steps import STEPS, outcomes, root_tokens, unchanged_but


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- the first run -----------------------------------------------------------------------------------------


@pytest.mark.with_tls
def test_the_first_run_does_every_step(vault_world: VaultWorld) -> None:
    assert outcomes(vault_world.first) == dict.fromkeys(STEPS, "done") | {"unseal": "unchanged"}


def test_the_root_token_is_gone(vault_world: VaultWorld) -> None:
    assert vault_world.seen_root.reveal()
    with pytest.raises(TokenRefused):
        vault_world.client(vault_world.seen_root).read("auth/token/lookup-self")
    assert vault_world.seen_root.reveal() not in vault_world.keys_file.read_text()
    assert root_tokens(vault_world) == []


def test_keys_and_identities_are_private(vault_world: VaultWorld) -> None:
    assert mode(vault_world.keys_file) == 0o600
    for service in IDENTITIES:
        folder = vault_world.identity(service).folder
        assert mode(folder) == 0o700
        assert {mode(file) for file in folder.rglob("*") if file.is_file()} == {0o600}
        assert {mode(inner) for inner in folder.rglob("*") if inner.is_dir()} <= {0o700}


def test_only_vault_knows_the_database_managers_password(vault_world: VaultWorld) -> None:
    prepared = vault_world.manager.password
    assert prepared.reveal()
    manager = msgspec.structs.replace(vault_world.manager.admin, user="bdlab_manager", password=prepared)
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        vault_world.connect(manager)


def test_no_password_of_the_set_up_is_in_a_servers_log(vault_world: VaultWorld) -> None:
    """Neither the administrator's nor the first one of the manager; the run itself is in there."""
    logs = {
        "audit": vault_world.openbao.folder / "audit.log",
        "Vault": vault_world.openbao.log_file,
        "Postgres": vault_world.postgres.log_file,
    }
    said = {name: file.read_text("utf-8", "replace") for name, file in logs.items()}
    assert "database/config/bdlab" in said["audit"]
    assert "ready to accept connections" in said["Postgres"]
    for password in (vault_world.manager.password, vault_world.postgres.admin_password):
        assert not [name for name, text in said.items() if password.reveal() in text]


def test_what_the_services_read_are_strings(vault_world: VaultWorld) -> None:
    with vault_world.session("migrate", daemon=False) as session:
        database, _ = session.read_secret("database/credentials")
        serve, version = session.read_secret("kafka/serve")
    assert database["port"] == str(vault_world.server.port)
    assert version == 1
    assert serve["username"] != serve["idle_username"]
    assert len({serve["password"], serve["idle_password"], ""}) == 3


# -- a second run ------------------------------------------------------------------------------------------


@pytest.mark.with_tls
@pytest.mark.parametrize("with_env", [True, False])
def test_a_second_run_changes_and_writes_nothing(vault_world: VaultWorld, *, with_env: bool) -> None:
    plan = vault_world.plan() if with_env else vault_world.plan(seeds=None, manager=None)
    before = len(vault_world.audit())
    steps = vault_world.init(plan)
    assert outcomes(steps) == unchanged_but()
    changing = [
        request["path"]
        for entry in vault_world.audit()[before:]
        if (request := entry["request"])["operation"] not in ("read", "list")
    ]
    looks = [path for path in changing if path.endswith(("/secret-id/lookup", "sys/wrapping/lookup"))]
    assert [path for path in changing if path not in looks] == ["auth/approle/login", "auth/token/revoke-self"]


def test_a_rotated_value_is_never_overwritten(vault_world: VaultWorld) -> None:
    with vault_world.session("migrate", daemon=False) as session:
        before, version = session.read_secret("kafka/dlq")
        session.write_secret("kafka/dlq", {**before, "password": "rotated"}, cas=version)
        assert outcomes(vault_world.init()) == unchanged_but()
        found, now = session.read_secret("kafka/dlq")
        assert (found["password"], now) == ("rotated", version + 1)


def test_a_changed_policy_comes_into_force_through_the_recovery_key(
    vault_world: VaultWorld, changed_policy: None
) -> None:
    steps = vault_world.init(vault_world.plan(seeds=None, manager=None))
    assert outcomes(steps) == unchanged_but(policies="done", root_token="done")
    assert [step.details for step in steps if step.name == "policies"] == [("serve",)]
    with vault_world.logged_in("inspect") as client:
        assert "kv/data/extra" in client.read("sys/policies/acl/serve")["policy"]
    assert root_tokens(vault_world) == []


def test_an_inspect_policy_of_an_older_version_is_no_obstacle(vault_world: VaultWorld) -> None:
    vault_world.init()
    with vault_world.root() as client:
        client.write("sys/policies/acl/inspect", {"policy": 'path "sys/mounts" { capabilities = ["read"] }'})
    steps = vault_world.init()
    assert outcomes(steps) == unchanged_but(policies="done", root_token="done")


def test_a_dry_run_says_what_it_would_do(vault_world: VaultWorld, changed_policy: None) -> None:
    vault_world.init()  # takes the change in, so that another can be seen
    with vault_world.root() as client:
        client.request("delete", "sys/policies/acl/dlq")
    before = len(vault_world.audit())
    steps = vault_world.init(vault_world.plan(dry_run=True))
    assert outcomes(steps) == unchanged_but(policies="would do")
    assert steps[STEPS.index("policies")].details == ("dlq",)
    written = {entry["request"]["path"] for entry in vault_world.audit()[before:]}
    assert not any(path.startswith("sys/generate-root") for path in written)
    vault_world.init()


def test_a_mount_that_is_taken_names_the_settings(vault_world: VaultWorld) -> None:
    vault = msgspec.structs.replace(vault_world.vault, kv_mount="database")
    with pytest.raises(SettingsInvalid, match=r"database/ in Vault is taken by something else"):
        vault_world.init(vault_world.plan(vault=vault))


# -- the keys file -----------------------------------------------------------------------------------------


def test_a_keys_file_open_to_others_is_refused(vault_world: VaultWorld) -> None:
    vault_world.keys_file.chmod(0o644)
    try:
        with pytest.raises(VaultError, match=r"open to others \(mode 0644\)") as refused:
            vault_world.init()
        assert "chmod 600" in refused.value.hint
    finally:
        vault_world.keys_file.chmod(0o600)


def test_a_missing_keys_file_is_missed_only_for_a_change(vault_world: VaultWorld, tmp_path: Path) -> None:
    plan = vault_world.plan(keys_file=tmp_path / "absent.json")
    vault_world.init()
    assert outcomes(vault_world.init(plan)) == unchanged_but()
    with vault_world.root() as client:
        client.request("delete", "sys/policies/acl/dlq")
    with pytest.raises(VaultError, match=r"no way in to change it: there is no keys file at .*absent\.json"):
        vault_world.init(plan)
    vault_world.init()


def test_keys_that_never_reached_their_file_are_said_to_be_lost(vault_world: VaultWorld, tmp_path: Path) -> None:
    reserved = tmp_path / "keys.json"
    reserved.touch(0o600)
    with pytest.raises(VaultError, match="its keys never reached"):
        vault_world.init(vault_world.plan(keys_file=reserved))


def test_the_keys_of_another_vault_are_refused(vault_world: VaultWorld, tmp_path: Path) -> None:
    other = json.loads(vault_world.keys_file.read_text()) | {"cluster_id": "another"}
    file = tmp_path / "keys.json"
    file.touch(0o600)
    file.write_text(json.dumps(other))
    with pytest.raises(VaultError, match="those of another Vault"):
        vault_world.init(vault_world.plan(keys_file=file))


def test_nonsense_in_the_keys_file_is_named(vault_world: VaultWorld, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.touch(0o600)
    file.write_text("[1]")
    with pytest.raises(VaultError, match="is no keys file of bdlab"):
        vault_world.init(vault_world.plan(keys_file=file))


@pytest.mark.parametrize("service", NOT_ROTATED)
def test_what_rotate_may_not_deliver_is_renewed_here(vault_world: VaultWorld, service: str) -> None:
    vault_world.init()  # a test before this one may have left another policy in force
    nobody = vault_world.client()
    role_id, former = vault_world.identity(service).obtain(nobody)
    steps = {step.name: step for step in vault_world.init(vault_world.plan(renew=(service,)))}
    assert steps["secret ids"].details == (service,)
    assert outcomes(list(steps.values())) == unchanged_but(secret_ids="done", root_token="done")
    with pytest.raises(IdentityRefused):
        nobody.log_in(role_id, former)
    # Nothing waits to be unwrapped: nobody may type the command before that runs out.
    assert not vault_world.identity(service).delivered
    with vault_world.logged_in(service):
        pass
    assert outcomes(vault_world.init()) == unchanged_but()
