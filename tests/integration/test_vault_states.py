"""`vault-init` from any other state of Vault and of the database."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from bdlab.credentials import DatabaseLogin
from bdlab.errors import IdentityRefused, InvalidInput, TokenRefused, VaultError, VaultUnavailable
from bdlab.settings import Secret, VaultSettings
from bdlab.vault.bootstrap import Plan
from bdlab.vault.bootstrap.admin_access import vault_init_lock
from tests.fix_vault import AdminManager, ShamirOpenBao, VaultWorld
from tests.terminal import Terminal
from tests.vault_steps import STEPS, outcomes, unchanged_but


def maintenance(world: VaultWorld) -> DatabaseLogin:
    server = msgspec.structs.replace(world.server, dbname="postgres")
    return msgspec.structs.replace(world.manager.admin, server=server)


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


def test_a_shamir_seal_of_three_of_five(new_world: Callable[..., VaultWorld], request: pytest.FixtureRequest) -> None:
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


def test_key_shares_typed_at_a_terminal(new_world: Callable[..., VaultWorld]) -> None:
    """Two of three shares are in the file, the third is typed: wrong at first, then right; never shown."""
    world = new_world(ShamirOpenBao)
    world.init(world.plan(shares=5, threshold=3))
    keys = json.loads(world.keys_file.read_text())
    shares = keys["unseal_keys"]
    world.keys_file.write_text(json.dumps(keys | {"unseal_keys": shares[:2]}))
    wrong = base64.b64encode(bytes(len(base64.b64decode(shares[0])))).decode()
    for typed, code in ((wrong, 1), ("", 1), (shares[4], 0)):
        world.openbao.stop()
        world.openbao.start()
        with contextlib.closing(Terminal(["vault-init"], os.environ | world.environment())) as terminal:
            assert terminal.shows("Key share 3 (empty: no more)", within_s=30), terminal.screen
            terminal.types(typed)
            assert terminal.ended() == code, terminal.screen
            assert not [share for share in (*shares, wrong) if share in terminal.screen]
        said = {
            wrong: "error: the key shares that were given are not accepted",
            "": "is sealed, and 2 key shares are not enough to open it",
            shares[4]: "done",
        }
        assert said[typed] in terminal.screen.replace("\n", " ")
    assert outcomes(world.init()) == unchanged_but()


def test_an_automatic_seal_that_was_sealed_opens_at_a_restart(new_world: Callable[..., VaultWorld]) -> None:
    world = new_world()
    world.init()
    world.openbao.stop()
    world.openbao.start()
    with world.root() as root:
        root.request("put", "sys/seal", {})
        with pytest.raises(VaultUnavailable, match="is sealed") as refused:
            world.init(world.plan(timeout_s=1))
        assert "an automatic seal opens when it is restarted" in refused.value.hint
        world.openbao.stop()
        world.openbao.start()
        assert outcomes(world.init()) == unchanged_but()


def test_what_set_vault_up_is_gone_afterwards(
    new_world: Callable[..., VaultWorld], request: pytest.FixtureRequest
) -> None:
    """No token is left but those that deliver secret ids, also after a run that made itself a root token."""
    world = new_world()
    world.init()
    with world.root() as root:
        own = root.read("auth/token/lookup-self")["accessor"]

        def tokens() -> dict[str, list[str]]:
            """Policies of each living token by its accessor, but for those of this look itself."""
            found = {}
            for accessor in root.request("list", "auth/token/accessors")["data"]["keys"]:
                token = root.write("auth/token/lookup-accessor", {"accessor": accessor})
                if accessor != own and token["policies"] != ["response-wrapping"]:
                    found[accessor] = token["policies"]
            return found

        before = tokens()
        # The log-in with which the present root token was made.
        assert list(before.values()) == [["recovery"]]
        request.getfixturevalue("changed_policy")
        assert outcomes(world.init()) == unchanged_but(policies="done", root_token="done")
        assert tokens() == before
    with pytest.raises(TokenRefused):
        world.client(world.seen_root).read("auth/token/lookup-self")


def test_a_wrong_recovery_key(new_world: Callable[..., VaultWorld]) -> None:
    world = new_world()
    world.init()
    keys = json.loads(world.keys_file.read_text())
    world.keys_file.write_text(json.dumps(keys | {"recovery_keys": [base64.b64encode(bytes(32)).decode()]}))
    world.identity("dlq").folder.rename(world.folder / "aside")
    with pytest.raises(VaultError, match="the key shares that were given are not accepted"):
        world.init()
    world.keys_file.write_text(json.dumps(keys))
    assert outcomes(world.init())["secret ids"] == "done"


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
        found = [outcomes(steps) for steps in pool.map(lambda _: world.init(world.plan(timeout_s=120)), range(3))]
    assert sorted(steps["engines"] for steps in found) == ["done", "unchanged", "unchanged"]
    assert sum(steps == unchanged_but() for steps in found) == 2
    with vault_init_lock(world.plan()), pytest.raises(VaultUnavailable, match="another vault-init is at work"):
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
            cursor.execute("DROP OWNED BY bdlab_manager")
            cursor.execute("DROP ROLE bdlab_manager")
    steps = world.init()
    assert outcomes(steps) == unchanged_but(database_connection="done", root_token="done")
    with world.session("consume", "bdlab-writer", daemon=False) as session:
        world.connect(session.database()).close()


def test_an_unreachable_vault_is_waited_for_and_named(vault_world: VaultWorld) -> None:
    vault = VaultSettings(address="http://127.0.0.1:1", identity_dir=vault_world.vault.identity_dir)
    with pytest.raises(VaultUnavailable, match=r"http://127\.0\.0\.1:1 is unreachable: Connection refused"):
        vault_world.init(Plan(vault=vault, keys_file=vault_world.keys_file, timeout_s=0.2))
