"""`bdlab vault-token`: an operator's token lives for one task, and Vault's audit log says whose it was."""

from __future__ import annotations

import getpass
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bdlab.errors import TokenRefused
from bdlab.settings import Secret
from tests import forked
from tests.fix_vault import ShamirOpenBao, VaultWorld

BAO = str(Path(sys.executable).with_name("bao"))


def vault_token(world: VaultWorld, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return forked.run(["vault-token", *arguments], os.environ | world.environment(**changes), timeout_s=60)


@pytest.mark.with_tls
def test_a_command_has_a_root_token_that_is_gone_afterwards(vault_world: VaultWorld) -> None:
    done = vault_token(vault_world, "--ttl", "2m", "--", BAO, "token", "lookup", "-format=json", BAO_TOKEN="another")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["data"]
    assert found["policies"] == ["root"]
    assert 60 < found["ttl"] <= 120
    assert not found["renewable"]
    with vault_world.root() as root:
        living = root.request("list", "auth/token/accessors")["data"]["keys"]
    assert found["accessor"] not in living
    used = [entry for entry in vault_world.audit() if entry["request"]["path"] == "auth/token/lookup-self"]
    assert f"token-operator-{getpass.getuser()}" in {entry["auth"].get("display_name") for entry in used}


def test_its_policy_can_be_less_than_root(vault_world: VaultWorld) -> None:
    ask = ("--", BAO, "kv", "get", "-mount=kv", "database/credentials")
    assert vault_token(vault_world, "--policy", "verify", *ask).returncode == 0
    refused = vault_token(vault_world, "--policy", "predict", *ask)
    assert refused.returncode == 2
    assert "permission denied" in refused.stderr


@pytest.mark.parametrize(
    ("script", "code"), [("exit 3", 3), ("kill -KILL $$", 128 + signal.SIGKILL), ('test -n "$VAULT_TOKEN"', 0)]
)
def test_the_exit_code_is_that_of_the_command(vault_world: VaultWorld, script: str, code: int) -> None:
    assert vault_token(vault_world, "--", "sh", "-c", script).returncode == code


def test_ctrl_c_still_revokes_it(vault_world: VaultWorld) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bdlab_cli", "vault-token", "sh", "-c", 'echo "$VAULT_TOKEN"; exec sleep 60'],
        env=os.environ | vault_world.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        token = Secret(process.stdout.readline().strip())
        assert vault_world.client(token).read("auth/token/lookup-self")["policies"] == ["root"]
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGINT
    with pytest.raises(TokenRefused):
        vault_world.client(token).read("auth/token/lookup-self")


def test_a_command_that_seals_vault_has_done_its_work(new_world: Callable[..., VaultWorld]) -> None:
    # One that unseals itself tries so for some seconds after its start, and would do it here.
    world = new_world(ShamirOpenBao)
    world.init()
    done = vault_token(world, "--ttl", "3m", "--", BAO, "operator", "seal")
    assert done.returncode == 0
    assert world.client().health().sealed
    assert "could not be revoked, and ends in 3m" in done.stderr


def test_without_a_command_it_is_printed_and_lives_for_its_time(vault_world: VaultWorld) -> None:
    done = vault_token(vault_world, "--ttl", "90s")
    assert done.returncode == 0, done.stderr
    client = vault_world.client(Secret(done.stdout.strip()))
    assert 60 < client.read("auth/token/lookup-self")["ttl"] <= 90
    client.revoke_self()
    client.close()


def test_the_shares_of_a_shamir_seal_make_it(new_world: Callable[..., VaultWorld]) -> None:
    world = new_world(ShamirOpenBao)
    world.init(world.plan(shares=5, threshold=3))
    assert vault_token(world, "--", BAO, "list", "sys/policies/acl").returncode == 0


def test_what_is_in_the_way_is_named(vault_world: VaultWorld, tmp_path: Path) -> None:
    done = vault_token(vault_world, BDLAB_VAULT_KEYS_FILE=str(tmp_path / "none.json"))
    assert done.returncode == 1
    assert f"there is no keys file at {tmp_path / 'none.json'}" in done.stderr
    assert vault_token(vault_world, "--ttl", "30h").returncode == 2
    done = vault_token(vault_world, "--", "no-such-program")
    assert done.returncode == 2
    assert "no-such-program cannot be run" in done.stderr
