"""`bdlab vault-init`: take a Vault from any state to the finished set-up."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdlab_cli.options import KEYS_FILE, IdentityDir, KeysFile, StartupTimeout, key_number
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings

if TYPE_CHECKING:
    from bdlab.vault.bootstrap.plan import StepResult

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_STYLES = {"done": "green", "unchanged": "dim", "would do": "yellow"}


class AuthorityName(StrEnum):
    kafka = "kafka"
    servers = "servers"


@app.command()
def vault_init(
    env_file: Annotated[
        Path | None,
        typer.Option(
            envvar="BDLAB_ENV_FILE",
            metavar="FILE",
            help="What to put into Vault",
            show_default=".env, where there is one",
        ),
    ] = None,
    keys_file: KeysFile = KEYS_FILE,
    identity_dir: IdentityDir = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="BDLAB_VAULT_TOKEN_FILE",
            metavar="FILE",
            help="An administrator's token, for a Vault initialised elsewhere (or set BDLAB_VAULT_TOKEN)",
        ),
    ] = None,
    shares: Annotated[int, key_number("BDLAB_KEY_SHARES", "Key shares to make at initialisation")] = 1,
    threshold: Annotated[int, key_number("BDLAB_KEY_THRESHOLD", "How many of the shares are needed")] = 1,
    wrap_ttl: Annotated[
        int,
        typer.Option(
            envvar="BDLAB_WRAP_TTL",
            min=10,
            metavar="SECONDS",
            help="How long a handed-over secret id may wait",
        ),
    ] = 24 * 3600,
    authority: Annotated[
        list[AuthorityName] | None,
        typer.Option(
            envvar="BDLAB_AUTHORITY",
            show_default="what .env says",
            help="Make Vault the authority for the certificates of Kafka's brokers, or of the servers "
            "(Vault, PostgreSQL, the API); repeatable",
        ),
    ] = None,
    broker_folder: Annotated[
        Path | None,
        typer.Option(
            envvar="BDLAB_BROKER_FOLDER",
            metavar="FOLDER",
            show_default="none is made",
            help="Put the first certificate of a broker on this machine there, so early that it can "
            "start meanwhile; later ones are `bdlab broker-certificate`'s",
        ),
    ] = None,
    broker_ttl: Annotated[
        int | None,
        typer.Option(
            envvar="BDLAB_BROKER_TTL",
            min=5,
            metavar="SECONDS",
            show_default="a year",
            help="For how long that is good",
        ),
    ] = None,
    renew: Annotated[
        list[str] | None,
        typer.Option(
            envvar="BDLAB_RENEW",
            metavar="NAME",
            show_default=False,
            help="Give this identity another secret id and end its former one: migrate, backup, inspect or "
            "recovery; repeatable",
        ),
    ] = None,
    shared_database: Annotated[
        bool,
        typer.Option(
            "--shared-database",
            envvar="BDLAB_SHARED_DATABASE",
            help="Others use the database server too: let everybody enter its databases postgres and "
            "template1 as before",
        ),
    ] = False,
    startup_timeout: StartupTimeout = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", envvar="BDLAB_DRY_RUN", help="Say what would be done, and change nothing"),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", envvar="BDLAB_JSON", help="Print the steps as JSON")
    ] = False,
) -> None:
    """Take a Vault from any state to the finished set-up; run it as often as you like."""
    from bdlab.errors import InvalidInput
    from bdlab.services import NOT_ROTATED
    from bdlab.trust import require_own
    from bdlab.vault.bootstrap import Plan, bootstrap, envfile
    from bdlab_cli.wiring import vault_admin

    for name in renew or ():
        if name not in NOT_ROTATED:
            raise InvalidInput(
                f"--renew {name}: vault-init renews {', '.join(NOT_ROTATED)}",
                hint="Of the services, `bdlab rotate approle --service NAME` hands over another secret id.",
            )
    if threshold > shares:
        raise InvalidInput(f"--threshold {threshold} is more than --shares {shares}")
    settings = load_settings(
        {"vault": {"identity_dir": identity_dir}, "startup_timeout_s": startup_timeout}
    ).settings()
    env_path = env_file
    if env_path is None and Path(".env").is_file():
        env_path = Path(".env")
        require_own(env_path, option="--env-file")
    seeds = envfile.read(env_path) if env_path else None
    plan = Plan(
        vault=settings.vault,
        keys_file=keys_file.expanduser(),
        seeds=seeds,
        manager=vault_admin.database_manager(seeds, shared=shared_database) if seeds else None,
        token=vault_admin.read_token(token_file),
        shares=shares,
        threshold=threshold,
        ask_key=vault_admin.ask_key if sys.stdin.isatty() else None,
        timeout_s=settings.startup_timeout_s,
        wrap_ttl_s=wrap_ttl,
        certificate_authorities=tuple(name.value for name in authority or ()),
        renew=tuple(renew or ()),
        broker_folder=broker_folder,
        broker_ttl_s=broker_ttl,
        dry_run=dry_run,
    )
    from rich.markup import escape

    talk, out = terminal.stderr(), terminal.stdout()
    if env_path and env_path.stat().st_mode & 0o077:
        talk.print(f"warning: {env_path} is open to others; it holds passwords. Run: chmod 600 {env_path}")

    def report(step: StepResult) -> None:
        if not as_json:
            details = f"  {', '.join(step.details)}" if step.details else ""
            style = _STYLES[step.outcome]
            out.print(
                f"{step.name:<20} [{style}]{step.outcome:<9}[/]{escape(details)}", markup=True, soft_wrap=True
            )

    steps = bootstrap(plan, report)
    if as_json:
        terminal.echo_json(steps)
    if dry_run:
        return
    if plan.keys_file.exists() and any(
        step.name == "initialise" and step.outcome == "done" for step in steps
    ):
        talk.print(
            f"Keep a copy of {plan.keys_file} where nobody else reads it: without it Vault cannot be changed."
        )
    if seeds and (open_to_all := vault_admin.open_databases(seeds)):
        talk.print(
            f"warning: whoever has a login at {seeds.postgres.host} may enter its databases "
            f"{', '.join(open_to_all)}, bdlab's readers too, and make large objects there. Where that is not "
            "meant: REVOKE CONNECT ON DATABASE name FROM PUBLIC.",
            markup=False,
            soft_wrap=True,
        )
    if env_path:
        talk.print(f"Vault is set up. {env_path} is not needed any more: delete it.")
