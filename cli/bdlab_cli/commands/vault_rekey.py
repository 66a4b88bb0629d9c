"""`bdlab vault-rekey`: new key shares for Vault."""

from __future__ import annotations

from typing import Annotated

import typer

from bdlab_cli.options import KEYS_FILE, IdentityDir, KeysFile, StartupTimeout, key_number
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def vault_rekey(
    shares: Annotated[
        int | None,
        key_number("BDLAB_KEY_SHARES", "How many key shares to make", show_default="as many as before"),
    ] = None,
    threshold: Annotated[
        int | None,
        key_number("BDLAB_KEY_THRESHOLD", "How many of them are needed", show_default="as many as before"),
    ] = None,
    keys_file: KeysFile = KEYS_FILE,
    identity_dir: IdentityDir = None,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Replace the key shares of Vault, or the recovery key of one that opens by itself.

    It takes enough of the old ones, which are worth nothing afterwards. Nothing stops meanwhile.
    """
    import functools
    import sys

    import msgspec

    from bdlab.errors import InvalidInput
    from bdlab.vault.bootstrap import Plan
    from bdlab.vault.bootstrap.rekey import key_numbers, rekey
    from bdlab_cli.wiring.vault_admin import ask_key

    settings = load_settings(
        {"vault": {"identity_dir": identity_dir}, "startup_timeout_s": startup_timeout}, quiet=True
    ).settings()
    plan = Plan(
        vault=settings.vault,
        keys_file=keys_file.expanduser(),
        # The old shares are needed twice, and typed once.
        ask_key=functools.cache(ask_key) if sys.stdin.isatty() else None,
        timeout_s=settings.startup_timeout_s,
    )
    there, needed = key_numbers(plan)
    shares, threshold = shares or there, threshold or needed
    if threshold > shares:
        raise InvalidInput(f"--threshold {threshold} is more than --shares {shares}")
    plan = msgspec.structs.replace(plan, shares=shares, threshold=threshold)
    kind = "key shares" if rekey(plan).unseal_keys else "recovery keys"
    terminal.echo(f"{shares} new {kind} in {plan.keys_file}, {threshold} needed")
    terminal.stderr().print(
        "The old ones are worth nothing any more: destroy their copies, and copy the new ones."
    )
