"""`bdlab vault-token`: a short-lived token of Vault for an operator's task."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Annotated

from typer import Argument, Exit, Option, Typer

from bdlab.errors import InvalidInput, TokenRefused, VaultError
from bdlab.settings import VaultSettings
from bdlab_cli.completion import services
from bdlab_cli.options import KEYS_FILE, IdentityDir, KeysFile, StartupTimeout, age
from bdlab_cli.output import terminal
from bdlab_cli.output.progress import no_line

app = Typer(add_completion=False)


@app.command(context_settings={"allow_interspersed_args": False})
def vault_token(
    command: Annotated[
        list[str] | None, Argument(help="What to run; without it the token is printed", metavar="COMMAND")
    ] = None,
    *,
    ttl: str = "10m",
    policy: Annotated[list[str] | None, Option(show_default="root", autocompletion=services)] = None,
    keys_file: KeysFile = KEYS_FILE,
    identity_dir: IdentityDir = None,
    startup_timeout: StartupTimeout = None,
    json: bool = False,
) -> None:
    """Run a command with a short-lived administrator's token of Vault, and revoke the token afterwards.

    COMMAND finds it in VAULT_TOKEN, with VAULT_ADDR, VAULT_CACERT and VAULT_NAMESPACE beside it; its exit code is this
    one's. The token is made with the recovery key, and each use of it stands in Vault's audit log with your name.

    Use it as: bdlab vault-token -- bao list auth/approle/role"""
    from bdlab.services import IDENTITIES
    from bdlab.vault.bootstrap.admin_access import ROOT_POLICY, make_token
    from bdlab_cli.wiring.vault_admin import admin_plan

    lifetime = age(ttl)
    if not 1 <= lifetime.total_seconds() <= 24 * 3600:
        raise InvalidInput(f"--ttl {ttl}: a token for a task lives between 1 s and 24 h")
    plan = admin_plan(keys_file, identity_dir, startup_timeout)
    own = plan.deployment.own
    policies = tuple(own(name) if name in IDENTITIES else name for name in policy or (ROOT_POLICY,))
    with closing(make_token(plan, ttl=lifetime, policies=policies)) as client:
        if not command:
            token = client.token.reveal()
            terminal.echo_result({"token": token, "ttl_s": lifetime.total_seconds()}, token, as_json=json)
            terminal.echo(f"It ends in {ttl}; sooner with: bao token revoke -self", err=True)
            return
        try:
            with no_line():
                code = _run(command, _environment(plan.vault) | {"VAULT_TOKEN": client.token.reveal()})
        finally:
            try:
                client.revoke_self()
            except TokenRefused:
                pass  # the command revoked it, took longer than it lived, or put another Vault in place
            except VaultError as error:  # as after `bao operator seal`: what the command did counts
                terminal.echo(f"warning: the token could not be revoked, and ends in {ttl}: {error.message}", err=True)
    raise Exit(code)


def _environment(vault: VaultSettings) -> dict[str, str]:
    """Return this process's variables, with the same Vault; without BAO_ ones, which `bao` would prefer."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BAO_")}
    named = {"VAULT_CACERT": vault.ca_file, "VAULT_NAMESPACE": vault.namespace}
    return kept | {"VAULT_ADDR": vault.address} | {name: value for name, value in named.items() if value}


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run it, and return its exit code; 128 and more if a signal killed it, as a shell does."""
    from bdlab import signals

    # A terminal's Ctrl-C reaches the command itself; here it must only not keep the token from being revoked.
    with signals.handled(lambda *_: None) as numbers:
        try:
            child = subprocess.Popen(list(command), env=dict(environment))
        except OSError as error:
            hint = "`bao` comes with bdlab's extra `local`; put its folder on the PATH."
            raise InvalidInput(f"{command[0]} cannot be run: {error.strerror}", hint=hint) from error
        for number in {*numbers} - {signal.SIGINT}:
            signal.signal(number, lambda number, _: child.send_signal(number))
        code = child.wait()
    return code if code >= 0 else 128 - code
