"""How a service comes by its identity, and how a stolen one is found out."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from bdlab.errors import IdentityRefused
from bdlab.settings import Secret
from bdlab.vault.rotation.secret_ids import rotate_secret_ids
from tests.fix_rotation import rotation
from tests.fix_vault import VaultWorld
from tests.vault_steps import outcomes, unchanged_but


def test_a_stolen_secret_id_is_an_alarm_and_the_next_run_destroys_it(vault_world: VaultWorld) -> None:
    identity = vault_world.identity("rotate")
    shutil.rmtree(identity.folder)
    vault_world.init()
    wrapped = identity.wrapping_token()
    assert wrapped
    stolen = Secret(vault_world.client().unwrap(wrapped)["secret_id"])
    with pytest.raises(IdentityRefused, match=r"ALARM: .* already unwrapped by somebody else"):
        identity.obtain(vault_world.client())

    assert outcomes(vault_world.init()) == unchanged_but(secret_ids="done", root_token="done")
    with pytest.raises(IdentityRefused):
        vault_world.client().log_in(identity.role_id(), stolen)
    with vault_world.logged_in("rotate"):
        pass


@pytest.mark.parametrize("thief_first", [True, False], ids=["stolen", "lost"])
def test_after_a_rotation_that_went_wrong_the_next_run_hands_over_another(
    vault_world: VaultWorld, thief_first: bool
) -> None:
    """Its service takes none before the last delivery, however good the secret id before it is."""
    identity = vault_world.identity("predict")
    _, former = identity.obtain(vault_world.client())
    with vault_world.root() as client:
        delivery = identity.hand_over(client, wrap_ttl_s=60, replaces=(identity.accessor,))
        wrapped = identity.wrapping_token()
        assert wrapped
        taken = Secret(vault_world.client().unwrap(wrapped)["secret_id"])
        if not thief_first:  # killed between Vault's answer and the writing
            (identity.folder / "wrapped_secret_id").rename(identity.folder / "claimed_secret_id")
            later = (identity.folder / "secret_id").stat().st_mtime_ns + 10**9
            os.utime(identity.folder / "claimed_secret_id", ns=(later, later))
    with pytest.raises(IdentityRefused, match="ALARM" if thief_first else "in the middle of unwrapping"):
        identity.obtain(vault_world.client())

    assert outcomes(vault_world.init())["secret ids"] == "done"
    with pytest.raises(IdentityRefused):
        vault_world.client().log_in(identity.role_id(), taken)
    with vault_world.logged_in("predict"):
        pass
    found = identity.wrapped_secret_id()
    assert found
    assert found.accessor != delivery.accessor
    assert found.replaces == delivery.replaces
    assert outcomes(vault_world.init()) == unchanged_but()
    with rotation(vault_world) as run:
        (rotated,) = rotate_secret_ids(run, ["predict"])
    assert rotated.outcome == "finished"
    with pytest.raises(IdentityRefused):
        vault_world.client().log_in(identity.role_id(), former)


def test_a_secret_id_of_another_service_put_in_place_is_an_alarm(vault_world: VaultWorld) -> None:
    identity = vault_world.identity("status")
    with vault_world.root() as client:
        wrapped = client.request("post", "auth/approle/role/predict/secret-id", {}, wrap_ttl_s=60)["wrap_info"]
    (identity.folder / "wrapped_secret_id").write_text(wrapped["token"])
    (identity.folder / "wrapped_secret_id").chmod(0o600)
    with pytest.raises(IdentityRefused, match=r"ALARM: .* it was made at auth/approle/role/predict/secret-id"):
        identity.obtain(vault_world.client())
    (identity.folder / "claimed_secret_id").unlink()


def test_a_delivery_that_ran_out_is_no_alarm(vault_world: VaultWorld) -> None:
    identity = vault_world.identity("verify")
    shutil.rmtree(identity.folder)
    vault_world.init()
    past = json.loads((identity.folder / "delivery.json").read_text()) | {"expires_at": "2026-01-01T00:00:00Z"}
    (identity.folder / "delivery.json").write_text(json.dumps(past))
    wrapped = identity.wrapping_token()
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
