"""`vault-rekey`: replace the unseal keys of a shamir seal, or the recovery keys of any other."""

import contextlib
from datetime import timedelta

from bdlab.errors import VaultError
from bdlab.retry import wait_for
from bdlab.signals import deferred
from bdlab.vault.bootstrap.admin_access import temporary_token
from bdlab.vault.bootstrap.keysfile import Keys, KeysFile
from bdlab.vault.bootstrap.plan import Plan
from bdlab.vault.bootstrap.seal import answer_data, give_shares, seal_type, usable_path
from bdlab.vault.client import VaultClient

_TTL = timedelta(minutes=10)
#: OpenBao's path, then that of HashiCorp Vault.
_PATHS = {True: ("sys/rotate/root", "sys/rekey"), False: ("sys/rotate/recovery", "sys/rekey-recovery-key")}


def key_numbers(plan: Plan) -> tuple[int, int]:
    """Return how many key shares Vault has given out, and how many are needed. Raises VaultError."""
    with contextlib.closing(VaultClient(plan.vault)) as client:
        wait_for("Vault", client.active, timeout_s=plan.timeout_s)
        status = client.request("get", "sys/seal-status")
        return int(status["n"]), int(status["t"])


def rekey(plan: Plan) -> Keys:
    """Replace the keys by `plan.shares` new ones, of which `plan.threshold` are needed, and return them.

    It takes enough of the old ones. Vault puts the new ones into force only when it is given them once, and
    by then they are in a file beside the keys file: after a kill at any moment, one of the two files is
    right. Raises VaultError if no token can be had, or if an earlier run was cut off.
    """
    file = KeysFile(plan.keys_file)
    if file.candidate.exists():
        raise VaultError(
            f"an earlier change of the keys was cut off: those in {file.candidate} may be in force, or those "
            f"in {file.path}",
            hint="Keep both until one is proved, with Vault open (one with a shamir seal is opened by `bdlab "
            "vault-init --keys-file FILE`, with whichever fits):\n"
            f"  bdlab vault-token --keys-file {file.candidate} -- true\n"
            f"If that succeeds, move it to {file.path}. If it says that the key shares are not "
            f"accepted, and those in {file.path} are, remove it.",
        )
    old = file.read()
    with temporary_token(plan, ttl=_TTL) as client:
        seal = seal_type(client)
        shamir = seal == "shamir"
        path = usable_path(client, _PATHS[shamir], "init")
        wanted = {"secret_shares": plan.shares, "secret_threshold": plan.threshold, "require_verification": True}
        begun = answer_data(client.request("post", f"{path}/init", wanted))
        answer = give_shares(client, path, begun, old, plan, too_few=_too_few)
        shares = tuple(str(key) for key in answer["keys_base64"])
        new = Keys(
            address=client.address,
            cluster_id=client.health().cluster_id,
            seal=old.seal if old else seal,
            threshold=plan.threshold,
            unseal_keys=shares if shamir else (),
            recovery_keys=() if shamir else shares,
            root_token=old.root_token if old else "",
        )
        with deferred("putting the new keys into force"):
            KeysFile(file.candidate).write(new)
            for share in shares[: plan.threshold]:
                given = {"key": share, "nonce": answer["verification_nonce"]}
                client.request("post", f"{path}/verify", given)
            file.promote()
        return new


def _too_few(required: int, there: int) -> VaultError:
    return VaultError(
        f"new keys take {required} of the old key shares, and {there} are there",
        hint="Run it at a terminal, which asks for them, or name the keys file with --keys-file.",
    )
