"""`bdlab server-certificate`: certificates for Vault's listener, PostgreSQL and the API."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bdlab_cli.options import StartupTimeout
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings, open_session

ServerName = StrEnum("ServerName", ["vault", "postgres", "api"])


def server_certificate(
    server: Annotated[list[ServerName], Argument(help="Whose; several at once.")],
    *,
    folder: Annotated[Path, Option()],
    host: Annotated[list[str] | None, Option(show_default="localhost")] = None,
    ttl: Annotated[int | None, Option(min=5, show_default="30 days")] = None,
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Get certificates for Vault's listener, PostgreSQL or the API from Vault's own authority.

    One that is good for a third of its time or longer stands: run it as often as you like. Vault and PostgreSQL read a
    new one on SIGHUP, `bdlab serve` by itself. `bdlab vault-init --authority servers` makes Vault the authority."""
    from bdlab.certificates import SERVER_TTL_S, CertificateFiles
    from bdlab.vault import pki

    layers = load_settings({"startup_timeout_s": startup_timeout})
    hosts, ttl_s = host or ["localhost"], ttl or SERVER_TTL_S
    with open_session(layers, service="migrate", kafka=False) as session:
        authority = session.ask(partial(pki.authority_pem, authority=pki.SERVERS))
        for name in dict.fromkeys(server):
            files, change = CertificateFiles(folder / name), ""
            if not files.good_for(hosts, authority=authority):
                issued = session.ask(partial(pki.issue, name=name, hosts=hosts, ttl_s=ttl_s))
                files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                files.write(issued, hosts, ttl_s=ttl_s)
                change = f"issued for {', '.join(hosts)}, good for {ttl_s} s"
            terminal.echo_change(f"certificate of {name}", change, as_json=json)
