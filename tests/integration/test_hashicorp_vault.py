"""HashiCorp Vault as its documentation has it, and a real one by BDLAB_VAULT_BINARY."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bdlab import resources
from bdlab.errors import SettingsInvalid, TokenRefused, VaultError
from bdlab.settings import Secret
from bdlab.vault.bootstrap import steps
from bdlab.vault.bootstrap.admin_access import rekey
from tests import forked
from tests.fix_vault import VaultWorld
from tests.hashicorp import BINARY, KINDS, RealVault, Vault1, Vault2
from tests.vault_steps import outcomes, unchanged_but

pytestmark = pytest.mark.plaintext("a relay stands in front of Vault")


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def hashicorp(request: pytest.FixtureRequest, new_world: Callable[..., VaultWorld]) -> VaultWorld:
    """A Vault that nobody has initialised."""
    return new_world(request.param)


def _bdlab(world: VaultWorld, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.run([*arguments], os.environ | world.environment(), timeout_s=120)


@pytest.mark.long
def test_from_the_first_set_up_to_new_keys(hashicorp: VaultWorld, request: pytest.FixtureRequest) -> None:
    world = hashicorp
    first = world.init(world.plan(shares=3, threshold=2))
    told = {step.name: step.details for step in first}
    assert "vault audit enable file" in told["audit log"][0]
    assert set(outcomes(first).values()) == {"done", "unchanged"}
    with pytest.raises(TokenRefused):
        world.client(world.seen_root).read("auth/token/lookup-self")
    assert outcomes(world.init()) == unchanged_but(audit_log="unchanged")

    request.getfixturevalue("changed_policy")
    assert outcomes(world.init())["policies"] == "done"
    with world.session("consume", "bdlab-writer", daemon=False) as session:
        world.connect(session.database()).close()

    # New keys, though somebody has left an attempt at them, and one at a root token, open.
    with world.root() as root:
        begun = {"secret_shares": 1, "secret_threshold": 1}
        path = "sys/rotate/root/init" if isinstance(world.openbao, RealVault) and _is_openbao() else "sys/rekey/init"
        root.request("post", path, begun)
    old = json.loads(world.keys_file.read_bytes())
    done = _bdlab(world, "vault-rekey", "--shares", "2", "--threshold", "2")
    assert done.returncode == 0, done.stderr
    new = json.loads(world.keys_file.read_bytes())
    assert not {*new["unseal_keys"]} & {*old["unseal_keys"]}
    done = _bdlab(world, "vault-token", "--", "true")
    assert done.returncode == 0, done.stderr
    world.openbao.stop()
    world.openbao.start()
    assert outcomes(world.init()) == unchanged_but(unseal="done", audit_log="unchanged", policies="unchanged")


def _is_openbao() -> bool:
    said = subprocess.run([BINARY, "version"], capture_output=True, text=True, check=True)
    return "OpenBao" in said.stdout


def test_the_audit_log_is_spoken_of_until_there_is_one(new_world: Callable[..., VaultWorld]) -> None:
    world = new_world(Vault2)
    world.init()
    with world.session("status", "bdlab-reader", kafka=False, daemon=False) as session:
        assert "vault audit enable file" in session.state().unaudited
    done = _bdlab(world, "status", "--check", "vault", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert "no audit device" in checks["vault.unsealed"]["message"]
    assert checks["vault.unsealed"]["state"] == "healthy"


def test_where_recovery_may_not_begin_the_root_token_stays(
    new_world: Callable[..., VaultWorld], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a policy that knows nothing of HashiCorp's path, on a Vault that asks for a token there."""
    world = new_world(Vault2)
    folder = tmp_path / "policies"
    shutil.copytree(resources.policies_dir(), folder)
    text = (folder / "recovery.hcl").read_text("utf-8")
    (folder / "recovery.hcl").write_text(text.replace('"sys/generate-root/*"', '"sys/elsewhere/*"'))
    with monkeypatch.context() as patch:
        patch.setattr(steps, "policies_dir", lambda: folder)
        with pytest.raises(VaultError, match="nobody could change this Vault again") as refused:
            world.init()
    assert "sys/generate-root" in refused.value.message
    assert str(world.keys_file) in refused.value.hint
    root = Secret(json.loads(world.keys_file.read_bytes())["root_token"])
    assert world.client(root).read("auth/token/lookup-self")["policies"] == ["root"]

    assert outcomes(world.init()) == unchanged_but(policies="done", root_token="done", audit_log="unchanged")
    assert not json.loads(world.keys_file.read_bytes())["root_token"]
    with world.root():
        pass


def test_a_vault_of_before_gets_in_by_what_it_still_serves(
    new_world: Callable[..., VaultWorld], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set up on 1.x with such a policy; a later run brings it up to date, before 2.x comes."""
    world = new_world(Vault1)
    folder = tmp_path / "policies"
    shutil.copytree(resources.policies_dir(), folder)
    text = (folder / "recovery.hcl").read_text("utf-8")
    (folder / "recovery.hcl").write_text(text.replace('"sys/generate-root/*"', '"sys/elsewhere/*"'))
    with monkeypatch.context() as patch:
        patch.setattr(steps, "policies_dir", lambda: folder)
        world.init()
    assert outcomes(world.init()) == unchanged_but(policies="done", root_token="done", audit_log="unchanged")
    assert isinstance(world.openbao, Vault1)
    assert world.openbao.relay is not None
    world.openbao.relay.version = "2.0.0"
    with world.root():
        pass
    rekey(world.plan())


def test_without_namespaces_nothing_is_put_into_the_root(new_world: Callable[..., VaultWorld]) -> None:
    world = new_world(Vault1)
    world.namespace = "team"
    with pytest.raises(SettingsInvalid, match="has no namespaces"):
        world.init()
    world.namespace = ""
    root = Secret(json.loads(world.keys_file.read_bytes())["root_token"])
    assert "kv/" not in world.client(root).request("get", "sys/mounts")["data"]
