"""`bdlab vault-init`: take a Vault from any state to the finished set-up."""

import contextlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Option

from bdlab.errors import DatabaseError, InvalidInput
from bdlab.trust import require_own
from bdlab_cli.completion import renewable
from bdlab_cli.options import KEYS_FILE, IdentityDir, KeysFile, StartupTimeout
from bdlab_cli.output import terminal

_STYLES = {"done": "green", "unchanged": "dim", "would do": "yellow"}
AuthorityName = StrEnum("AuthorityName", ["kafka", "servers"])


def vault_init(
    *,
    env_file: Annotated[Path | None, Option(show_default=".env, if there is one")] = None,
    keys_file: KeysFile = KEYS_FILE,
    identity_dir: IdentityDir = None,
    token_file: Path | None = None,
    shares: Annotated[int, Option(min=1, max=255)] = 1,
    threshold: Annotated[int, Option(min=1, max=255)] = 1,
    wrap_ttl: Annotated[int, Option(min=10)] = 24 * 3600,
    authority: Annotated[list[AuthorityName] | None, Option(show_default="what .env says")] = None,
    broker_folder: Annotated[Path | None, Option(show_default="none is made")] = None,
    broker_ttl: Annotated[int | None, Option(min=5, show_default="a year")] = None,
    renew: Annotated[list[str] | None, Option(show_default=False, autocompletion=renewable)] = None,
    shared_database: bool = False,
    startup_timeout: StartupTimeout = None,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Take a Vault from any state to the finished set-up; run it as often as you like."""
    import msgspec
    from rich.markup import escape

    from bdlab.postgres.roles import Administrator
    from bdlab.services import NOT_ROTATED
    from bdlab.vault.bootstrap import bootstrap
    from bdlab.vault.bootstrap.plan import StepResult, read_env
    from bdlab_cli.wiring.vault_admin import admin_plan, read_token

    def show(step: StepResult) -> None:
        if not json:
            details = escape(f"  {', '.join(step.details)}" if step.details else "")
            line = f"{step.name:<20} [{_STYLES[step.outcome]}]{step.outcome:<9}[/]{details}"
            terminal.stdout().print(line, markup=True, soft_wrap=True)

    for name in renew or ():
        if name not in NOT_ROTATED:
            hint = "Of the services, `bdlab rotate approle --service NAME` hands over another secret id."
            raise InvalidInput(f"--renew {name}: vault-init renews {', '.join(NOT_ROTATED)}", hint=hint)
    if threshold > shares:
        raise InvalidInput(f"--threshold {threshold} is more than --shares {shares}")
    plan = admin_plan(keys_file, identity_dir, startup_timeout, quiet=False)
    env_path = env_file or (Path(".env") if Path(".env").is_file() else None)
    if env_path and not env_file:
        require_own(env_path, option="--env-file")
    seeds = read_env(env_path, plan.deployment) if env_path else None
    database = Administrator(seeds.administrator, plan.deployment, shared=shared_database) if seeds else None
    given: dict[str, object] = {"shares": shares, "threshold": threshold, "wrap_ttl_s": wrap_ttl}
    given |= {"broker_folder": broker_folder, "broker_ttl_s": broker_ttl, "dry_run": dry_run}
    given |= {"certificate_authorities": tuple(authority or ()), "renew": tuple(renew or ())}
    plan = msgspec.structs.replace(plan, seeds=seeds, manager=database, token=read_token(token_file), **given)
    if env_path and env_path.stat().st_mode & 0o077:
        terminal.echo(f"warning: {env_path} is open to others; it holds passwords. Run: chmod 600 {env_path}", err=True)
    steps = bootstrap(plan, show)
    if json:
        terminal.echo_json(steps)
    if dry_run:
        return
    if plan.keys_file.exists() and any(step.name == "initialise" and step.outcome == "done" for step in steps):
        keep = f"Keep a copy of {plan.keys_file} where nobody else reads it: without it Vault cannot be changed."
        terminal.echo(keep, err=True)
    with contextlib.suppress(DatabaseError):  # the login of an old .env may be refused
        if database and (found := database.open_databases()):
            terminal.echo(
                f"warning: whoever has a login at {database.login.server.host} may enter its databases "
                f"{', '.join(found)}, bdlab's readers too, and make large objects there. If that is not "
                "meant: REVOKE CONNECT ON DATABASE name FROM PUBLIC.",
                err=True,
            )
    if env_path:
        terminal.echo(f"Vault is set up. {env_path} is not needed any more: delete it.", err=True)
