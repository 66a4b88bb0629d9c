"""`bdlab vault-rekey`: new keys, which are in force only once they are written down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable

import pytest

from bdlab.errors import VaultError
from bdlab.stack import OpenBao
from bdlab.vault.bootstrap.admin_access import rekey
from bdlab.vault.bootstrap.seal import KeysFile
from tests import forked
from tests.fix_vault import ShamirOpenBao, UnauthedOpenBao, VaultWorld

KINDS = pytest.mark.parametrize("kind", [OpenBao, ShamirOpenBao])


def bdlab(world: VaultWorld, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return forked.run([*arguments], os.environ | world.environment(**changes), timeout_s=60)


@KINDS
def test_the_new_keys_open_and_the_old_ones_do_not(new_world: Callable[..., VaultWorld], kind: type[OpenBao]) -> None:
    world = new_world(kind)
    world.init(world.plan(shares=5, threshold=3))
    old = world.folder / "old-keys.json"
    old.write_bytes(world.keys_file.read_bytes())
    old.chmod(0o600)
    done = bdlab(world, "vault-rekey", "--shares", "3", "--threshold", "2")
    assert done.returncode == 0, done.stderr
    assert "2 needed" in done.stdout
    before, after = (json.loads(file.read_bytes()) for file in (old, world.keys_file))
    assert world.keys_file.stat().st_mode & 0o077 == 0
    assert not KeysFile(world.keys_file).candidate.exists()
    assert after["threshold"] == 2
    shares = {*after["unseal_keys"], *after["recovery_keys"]}
    assert len(shares) == 3
    assert not shares & {*before["unseal_keys"], *before["recovery_keys"]}
    for secret in shares:
        assert secret not in done.stdout + done.stderr

    # One of them is lost: the two that are left do.
    kept = {name: keys[1:] for name in ("unseal_keys", "recovery_keys") if (keys := after[name])}
    world.keys_file.write_text(json.dumps(after | kept))
    assert bdlab(world, "vault-token", "--", "true").returncode == 0
    assert bdlab(world, "vault-token", "--", "true", BDLAB_VAULT_KEYS_FILE=str(old)).returncode == 1
    world.openbao.stop()
    world.openbao.start()
    done = bdlab(world, "vault-init")
    assert done.returncode == 0, done.stderr
    assert world.client().health().active


@KINDS
def test_cut_off_before_they_are_written_down_the_old_ones_hold(
    new_world: Callable[..., VaultWorld], kind: type[OpenBao], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(kind)
    world.init(world.plan(shares=2, threshold=2))

    def full(*_arguments: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(KeysFile, "write", full)
        with pytest.raises(OSError, match="no space left"):
            rekey(world.plan(shares=2, threshold=2))
    assert bdlab(world, "vault-token", "--", "true").returncode == 0
    rekey(world.plan(shares=2, threshold=2))
    assert bdlab(world, "vault-token", "--", "true").returncode == 0


def test_cut_off_before_the_new_file_has_its_name_the_next_run_says_what_to_try(
    new_world: Callable[..., VaultWorld], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    world.init()

    def killed(_file: KeysFile) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KeysFile, "promote", killed)
        with pytest.raises(KeyboardInterrupt):
            rekey(world.plan())
    with pytest.raises(VaultError, match="was cut off") as told:
        rekey(world.plan())
    candidate = KeysFile(world.keys_file).candidate
    assert f"vault-token --keys-file {candidate}" in told.value.hint
    assert bdlab(world, "vault-token", "--keys-file", str(candidate), "--", "true").returncode == 0


def test_too_few_old_shares_change_nothing(new_world: Callable[..., VaultWorld]) -> None:
    world = new_world()
    world.init(world.plan(shares=3, threshold=2))
    keys = json.loads(world.keys_file.read_bytes())
    world.keys_file.write_text(json.dumps(keys | {"recovery_keys": keys["recovery_keys"][:1]}))
    done = bdlab(world, "vault-rekey")
    assert done.returncode == 1
    assert "takes 2 key shares, and 1 are there" in done.stderr
    done = bdlab(world, "vault-rekey", "--threshold", "4")
    assert done.returncode == 2
    assert "--threshold 4 is more than --shares 3" in done.stderr
    world.keys_file.write_text(json.dumps(keys))
    done = bdlab(world, "vault-rekey")
    assert "3 new recovery keys" in done.stdout
    assert "2 needed" in done.stdout
    assert bdlab(world, "vault-token", "--", "true").returncode == 0


def test_without_the_identity_recovery_the_key_needs_a_server_that_takes_it_alone(
    new_world: Callable[..., VaultWorld],
) -> None:
    world = new_world()
    world.init()
    shutil.rmtree(world.folder / "identity")
    done = bdlab(world, "vault-init")
    assert done.returncode == 1
    assert "there is no way in to change it" in done.stderr
    world.openbao.stop()
    world.openbao = UnauthedOpenBao(world.folder)
    with world.openbao:
        done = bdlab(world, "vault-init")
        assert done.returncode == 0, done.stderr
    with OpenBao(world.folder) as world.openbao:
        assert bdlab(world, "vault-token", "--", "true").returncode == 0
