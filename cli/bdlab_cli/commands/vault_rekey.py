"""`bdlab vault-rekey`: new key shares for Vault."""

from typing import Annotated

from typer import Option

from bdlab.errors import InvalidInput
from bdlab_cli.options import KEYS_FILE, IdentityDir, KeysFile, StartupTimeout
from bdlab_cli.output import terminal


def vault_rekey(
    *,
    shares: Annotated[int | None, Option(min=1, max=255, show_default="as many as before")] = None,
    threshold: Annotated[int | None, Option(min=1, max=255, show_default="as many as before")] = None,
    keys_file: KeysFile = KEYS_FILE,
    identity_dir: IdentityDir = None,
    startup_timeout: StartupTimeout = None,
    json: bool = False,
) -> None:
    """Replace the key shares of Vault, or the recovery key of one that opens by itself.

    It takes enough of the old ones, which are worth nothing afterwards. Nothing stops meanwhile."""
    import msgspec

    from bdlab.vault.bootstrap.admin_access import key_numbers, rekey
    from bdlab_cli.wiring.vault_admin import admin_plan

    plan = admin_plan(keys_file, identity_dir, startup_timeout)
    there, needed = key_numbers(plan)
    shares, threshold = shares or there, threshold or needed
    if threshold > shares:
        raise InvalidInput(f"--threshold {threshold} is more than --shares {shares}")
    plan = msgspec.structs.replace(plan, shares=shares, threshold=threshold)
    kind = "key shares" if rekey(plan).unseal_keys else "recovery keys"
    result = {"kind": kind, "shares": shares, "threshold": threshold, "keys_file": str(plan.keys_file)}
    terminal.echo_result(result, f"{shares} new {kind} in {plan.keys_file}, {threshold} needed", as_json=json)
    terminal.echo("The old ones are worth nothing any more: destroy their copies, and copy the new ones.", err=True)
