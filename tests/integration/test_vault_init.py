"""`vault-init`: from any state of Vault to the finished one, again and again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import psycopg2
import pytest

from bdlab import resources
from bdlab.credentials import DatabaseLogin
from bdlab.errors import (
    IdentityRefused,
    InvalidInput,
    SettingsInvalid,
    TokenRefused,
    VaultError,
    VaultUnavailable,
)
from bdlab.settings import Secret, VaultSettings
from bdlab.vault.bootstrap import Plan, Step, access
from bdlab.vault.bootstrap.alone import alone
from bdlab.vault.bootstrap.plan import IDENTITIES
from tests.fix_vault import AdminManager, ShamirOpenBao, VaultWorld

BDLAB = (sys.executable, "-m", "bdlab_cli")
STEPS = [
    "initialise",
    "unseal",
    "engines",
    "policies",
    "identities",
    "database connection",
    "database roles",
    "key-value seed",
    "secret ids",
    "root token",
]


def outcomes(steps: list[Step]) -> dict[str, str]:
    return {step.name: step.outcome for step in steps}


def unchanged_but(**others: str) -> dict[str, str]:
    return dict.fromkeys(STEPS, "unchanged") | {name.replace("_", " "): what for name, what in others.items()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def changed_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if a new version of bdlab came with another policy for `serve`."""
    folder = tmp_path / "policies"
    shutil.copytree(resources.policies_dir(), folder)
    with (folder / "serve.hcl").open("a") as file:
        file.write('\npath "kv/data/extra" {\n  capabilities = ["read"]\n}\n')
    with monkeypatch.context() as patch:
        patch.setattr(access, "policies_dir", lambda: folder)
        yield


def maintenance(world: VaultWorld) -> DatabaseLogin:
    server = msgspec.structs.replace(world.server, dbname="postgres")
    return msgspec.structs.replace(world.manager.admin, server=server)


def root_tokens(world: VaultWorld) -> list[str]:
    """The display names of all living root tokens but the one that looks."""
    with world.root() as client:
        own = client.read("auth/token/lookup-self")["accessor"]
        found = []
        for accessor in client.request("list", "auth/token/accessors")["data"]["keys"]:
            with contextlib.suppress(VaultError):  # it ran out meanwhile
                token = client.write("auth/token/lookup-accessor", {"accessor": accessor})
                if accessor != own and "root" in token["policies"]:
                    found.append(str(token["display_name"]))
        return found


# -- the first run -----------------------------------------------------------------------------------------


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
        assert {mode(file) for file in folder.iterdir()} == {0o600}


def test_only_vault_knows_the_database_managers_password(vault_world: VaultWorld) -> None:
    prepared = vault_world.manager.password
    assert prepared.reveal()
    manager = msgspec.structs.replace(vault_world.manager.admin, user="bdlab_manager", password=prepared)
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        vault_world.connect(manager)


def test_what_the_services_read_are_strings(vault_world: VaultWorld) -> None:
    with vault_world.session("migrate", daemon=False) as session:
        database, _ = session.read_secret("database/credentials")
        serve, version = session.read_secret("kafka/serve")
    assert database["port"] == str(vault_world.server.port)
    assert version == 1
    assert serve["username"] != serve["idle_username"]
    assert len({serve["password"], serve["idle_password"], ""}) == 3


# -- a second run ------------------------------------------------------------------------------------------


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
    assert [path for path in changing if path not in looks] == [
        "auth/approle/login",
        "auth/token/revoke-self",
    ]


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


def test_keys_that_never_reached_their_file_are_said_to_be_lost(
    vault_world: VaultWorld, tmp_path: Path
) -> None:
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


# -- identities --------------------------------------------------------------------------------------------


def test_a_stolen_secret_id_is_an_alarm_and_the_next_run_destroys_it(vault_world: VaultWorld) -> None:
    identity = vault_world.identity("rotate")
    shutil.rmtree(identity.folder)
    vault_world.init()
    wrapped = identity.wrapped()
    assert wrapped
    stolen = Secret(vault_world.client().unwrap(wrapped)["secret_id"])
    with pytest.raises(IdentityRefused, match=r"ALARM: .* already unwrapped by somebody else"):
        identity.obtain(vault_world.client())

    assert outcomes(vault_world.init()) == unchanged_but(secret_ids="done", root_token="done")
    with pytest.raises(IdentityRefused):
        vault_world.client().log_in("approle", identity.role_id(), stolen)
    with vault_world.logged_in("rotate"):
        pass


def test_a_secret_id_of_another_service_put_in_place_is_an_alarm(vault_world: VaultWorld) -> None:
    identity = vault_world.identity("status")
    with vault_world.root() as client:
        wrapped = client.request("post", "auth/approle/role/predict/secret-id", {}, wrap_ttl_s=60)[
            "wrap_info"
        ]
    (identity.folder / "wrapped_secret_id").write_text(wrapped["token"])
    (identity.folder / "wrapped_secret_id").chmod(0o600)
    with pytest.raises(
        IdentityRefused, match=r"ALARM: .* it was made at auth/approle/role/predict/secret-id"
    ):
        identity.obtain(vault_world.client())
    (identity.folder / "claimed_secret_id").unlink()


def test_a_delivery_that_ran_out_is_no_alarm(vault_world: VaultWorld) -> None:
    identity = vault_world.identity("verify")
    shutil.rmtree(identity.folder)
    vault_world.init()
    past = json.loads((identity.folder / "delivery.json").read_text()) | {
        "expires_at": "2026-01-01T00:00:00Z"
    }
    (identity.folder / "delivery.json").write_text(json.dumps(past))
    wrapped = identity.wrapped()
    assert wrapped
    vault_world.client().unwrap(wrapped)
    with pytest.raises(IdentityRefused, match="not unwrapped in time"):
        identity.obtain(vault_world.client())
    assert outcomes(vault_world.init())["secret ids"] == "done"


def test_stopped_while_unwrapping(vault_world: VaultWorld) -> None:
    """Before the unwrapping, after the secret id was written, and in the moment in between."""
    identity = vault_world.identity("migrate")
    claimed = identity.folder / "claimed_secret_id"
    shutil.rmtree(identity.folder)
    vault_world.init()
    (identity.folder / "wrapped_secret_id").rename(claimed)
    assert outcomes(vault_world.init()) == unchanged_but()
    wrapped = claimed.read_text()
    _, secret_id = identity.obtain(vault_world.client())

    claimed.write_text(wrapped)
    claimed.chmod(0o600)
    os.utime(claimed, ns=(0, 0))  # a delivery is older than what came out of it
    assert identity.obtain(vault_world.client())[1] == secret_id
    assert not claimed.exists()

    (identity.folder / "secret_id").unlink()
    claimed.write_text(wrapped)
    claimed.chmod(0o600)
    with pytest.raises(IdentityRefused, match="stopped in the middle of unwrapping"):
        identity.obtain(vault_world.client())
    vault_world.init()
    identity.obtain(vault_world.client())


def test_a_secret_id_open_to_others_is_refused(vault_world: VaultWorld) -> None:
    identity = vault_world.identity("dlq")
    identity.obtain(vault_world.client())
    file = identity.folder / "secret_id"
    file.chmod(0o640)
    try:
        with pytest.raises(IdentityRefused, match=r"secret_id is open to others \(mode 0640\)"):
            identity.obtain(vault_world.client())
    finally:
        file.chmod(0o600)


# -- other states of Vault ---------------------------------------------------------------------------------


def test_a_wiped_data_folder(new_world: Callable[..., VaultWorld]) -> None:
    world = new_world()
    world.init()
    old_keys = world.keys_file.read_text()
    world.openbao.stop()
    shutil.rmtree(world.openbao.folder / "raft")
    world.openbao.start()

    steps = world.init()
    assert outcomes(steps) == dict.fromkeys(STEPS, "done") | {"unseal": "unchanged"}
    aside = [file for file in world.folder.iterdir() if file.name.endswith(".old")]
    assert [file.read_text() for file in aside] == [old_keys]
    assert outcomes(world.init()) == unchanged_but()
    with world.session("consume", "bdlab-writer", daemon=False) as session:
        world.connect(session.database()).close()


def test_a_shamir_seal_of_three_of_five(
    new_world: Callable[..., VaultWorld], request: pytest.FixtureRequest
) -> None:
    world = new_world(ShamirOpenBao)
    assert outcomes(world.init(world.plan(shares=5, threshold=3)))["unseal"] == "done"
    shares = json.loads(world.keys_file.read_text())["unseal_keys"]
    assert len(shares) == 5

    world.openbao.stop()
    world.openbao.start()
    # Held by people: none is in the file, so that each has to be asked for.
    keys = json.loads(world.keys_file.read_text()) | {"unseal_keys": []}
    world.keys_file.write_text(json.dumps(keys))
    with pytest.raises(VaultError, match="is sealed, and 0 key shares are not enough"):
        world.init(world.plan(timeout_s=1))
    asked: list[int] = []

    def ask(number: int) -> Secret:
        asked.append(number)
        return Secret(shares[number])

    assert outcomes(world.init(world.plan(ask_key=ask))) == unchanged_but(unseal="done")
    assert asked == [1, 2, 3]

    request.getfixturevalue("changed_policy")
    asked.clear()
    steps = world.init(world.plan(ask_key=ask))
    assert outcomes(steps) == unchanged_but(policies="done", root_token="done")
    assert asked == [1, 2, 3]


def test_a_vault_that_somebody_else_initialised(new_world: Callable[..., VaultWorld]) -> None:
    world = new_world(ShamirOpenBao)
    client = world.client()
    made = client.request("put", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, timeout_s=60)
    client.request("put", "sys/unseal", {"key": made["keys"][0]})

    with pytest.raises(VaultError, match=r"no way in to change it: there is no keys file") as refused:
        world.init()
    assert "--token-file" in refused.value.hint
    with pytest.raises(IdentityRefused, match="does not accept the token that was given"):
        world.init(world.plan(token=Secret("s.wrong")))

    token = Secret(str(made["root_token"]))
    steps = world.init(world.plan(token=token))
    assert outcomes(steps) == dict.fromkeys(STEPS, "done") | dict.fromkeys(
        ("initialise", "unseal", "root token"), "unchanged"
    )
    assert not world.keys_file.exists()
    client.token = token
    assert client.read("auth/token/lookup-self")["policies"] == ["root"]
    assert outcomes(world.init()) == unchanged_but()


def test_a_dry_run_leaves_a_new_vault_alone(new_world: Callable[..., VaultWorld]) -> None:
    world = new_world()
    steps = world.init(world.plan(dry_run=True))
    assert outcomes(steps) == dict.fromkeys((name for name in STEPS if name != "unseal"), "would do")
    assert not world.client().health().initialized
    assert not world.keys_file.exists()
    with pytest.raises(InvalidInput, match="not initialised, so that no token"):
        world.init(world.plan(token=Secret("s.any")))
    with pytest.raises(InvalidInput, match="takes the database administrator's log-in"):
        world.init(world.plan(seeds=None, manager=None))
    assert outcomes(world.init())["database connection"] == "done"


def test_two_at_once_wait_for_each_other(new_world: Callable[..., VaultWorld]) -> None:
    world = new_world()
    with ThreadPoolExecutor(3) as pool:
        found = [outcomes(steps) for steps in pool.map(lambda _: world.init(), range(3))]
    assert sorted(steps["engines"] for steps in found) == ["done", "unchanged", "unchanged"]
    assert sum(steps == unchanged_but() for steps in found) == 2
    with alone(world.plan()), pytest.raises(VaultUnavailable, match="another vault-init is at work"):
        world.init(world.plan(timeout_s=0.2))


def test_an_old_env_file_is_no_obstacle(vault_world: VaultWorld) -> None:
    """The administrator's password was changed since: nothing is to be done with it anyway."""
    admin = msgspec.structs.replace(vault_world.manager.admin, password=Secret("of old"))
    plan = vault_world.plan(manager=AdminManager(admin))
    assert outcomes(vault_world.init(plan)) == unchanged_but()


def test_a_wiped_database_is_set_up_again(new_world: Callable[..., VaultWorld]) -> None:
    world = new_world()
    world.init()
    with contextlib.closing(world.connect(maintenance(world))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for user in world.users():  # of Vaults that other tests have wiped
                cursor.execute(f'DROP ROLE "{user}"')
            cursor.execute(f"DROP DATABASE {world.dbname} WITH (FORCE)")
            cursor.execute("DROP ROLE bdlab_manager")
    steps = world.init()
    assert outcomes(steps) == unchanged_but(database_connection="done", root_token="done")
    with world.session("consume", "bdlab-writer", daemon=False) as session:
        world.connect(session.database()).close()


def test_an_unreachable_vault_is_waited_for_and_named(vault_world: VaultWorld) -> None:
    vault = VaultSettings(address="http://127.0.0.1:1", identity_dir=vault_world.vault.identity_dir)
    with pytest.raises(VaultUnavailable, match=r"http://127\.0\.0\.1:1 is unreachable: Connection refused"):
        vault_world.init(Plan(vault=vault, keys_file=vault_world.keys_file, timeout_s=0.2))


# -- the command -------------------------------------------------------------------------------------------


def run(world: VaultWorld, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BDLAB, "--debug", "vault-init", *arguments],
        env=os.environ | world.environment(**environment),
        cwd=world.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_kill_after_each_step_then_run_again(new_world: Callable[..., VaultWorld]) -> None:
    world = new_world()
    env_file = world.env_file()
    command = [*BDLAB, "vault-init", "--env-file", str(env_file)]
    environment = os.environ | world.environment(PYTHONUNBUFFERED="1")
    killed = []
    for step in STEPS:
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout
            for line in process.stdout:
                if line.startswith(step):
                    process.kill()
                    killed.append(step)
                    break
    assert killed == STEPS
    last = run(world, "--env-file", str(env_file), "--json")
    assert last.returncode == 0, last.stderr
    assert outcomes(world.init()) == unchanged_but()
    assert root_tokens(world) == []
    with world.session("consume", "bdlab-writer", daemon=False) as session:
        world.connect(session.database()).close()


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.storm) for n in range(2, 12))])
def test_kill_after_any_change_then_run_again(new_world: Callable[..., VaultWorld], seed: int) -> None:
    """On the server or on disk: whatever the run had just done when it died, a later one finishes."""
    world = new_world()
    given = {
        "seed": seed,
        "env_file": str(world.env_file()),
        "server": msgspec.to_builtins(world.server),
        "address": world.vault.address,
        "identity_dir": world.vault.identity_dir,
        "keys_file": str(world.keys_file),
    }
    crashes = subprocess.run(
        [sys.executable, "-m", "tests.crash_vault_init"],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert crashes.returncode == 0, crashes.stderr
    died_after = crashes.stdout.splitlines()
    assert len(died_after) > 8, died_after
    assert outcomes(world.init()) == unchanged_but()
    assert root_tokens(world) == []
    for service in IDENTITIES:
        with world.logged_in(service):
            pass
    with world.session("consume", "bdlab-writer", daemon=False) as session:
        world.connect(session.database()).close()


def test_the_command_prints_steps_and_no_secret(vault_world: VaultWorld) -> None:
    env_file = vault_world.env_file()
    vault_world.init()
    done = run(vault_world)
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == STEPS
    assert done.stdout.count("unchanged") == len(STEPS)
    assert f"{env_file.name} is not needed any more: delete it" in done.stderr
    as_json = run(vault_world, "--json")
    assert [step["outcome"] for step in json.loads(as_json.stdout)] == ["unchanged"] * len(STEPS)
    env_file.unlink()
    without = run(vault_world)
    assert "not needed any more" not in without.stderr

    keys = json.loads(vault_world.keys_file.read_text())
    secrets = [vault_world.postgres.admin_password.reveal(), *keys["recovery_keys"]]
    said = "".join(found.stdout + found.stderr for found in (done, as_json, without))
    assert not [secret for secret in secrets if secret in said]


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "said"),
    [
        (["--threshold", "2"], {}, 2, "--threshold 2 is more than --shares 1"),
        (["--env-file", "absent.env"], {}, 2, "there is no file absent.env"),
        (["--token-file", "absent"], {}, 2, "the token file absent cannot be read"),
        ([], {"BDLAB_VAULT_TOKEN": "s.wrong"}, 1, "does not accept the token that was given"),
        (["--startup-timeout", "0.1"], {"VAULT_ADDR": "http://127.0.0.1:1"}, 1, "is unreachable"),
        ([], {"VAULT_ADDR": "vault:8200"}, 2, "setting vault.address: 'vault:8200' is no http(s) URL"),
    ],
)
def test_the_command_says_what_is_wrong(
    vault_world: VaultWorld, arguments: list[str], environment: dict[str, str], code: int, said: str
) -> None:
    found = run(vault_world, *arguments, **environment)
    assert found.returncode == code
    assert "done" not in found.stdout
    assert said in found.stderr.partition("\nerror: ")[2]
    assert "s.wrong" not in found.stderr
