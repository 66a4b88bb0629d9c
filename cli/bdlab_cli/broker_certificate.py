"""`bdlab broker-certificate`: what a secured broker needs before its first start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bdlab_cli.options import StartupTimeout

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def broker_certificate(
    folder: Annotated[
        Path,
        typer.Option(
            envvar="BDLAB_BROKER_TLS_DIR",
            help="Where server.pem (key and certificate) and ca.pem go; the folder's group may read them.",
        ),
    ],
    host: Annotated[
        list[str],
        typer.Option(
            envvar="BDLAB_BROKER_HOSTS", help="A name that the broker is reached under; repeatable."
        ),
    ],
    startup_timeout: StartupTimeout = None,
) -> None:
    """Get a broker's certificate from Vault's authority, in the form in which Kafka reads it.

    One that is good for a third of its time or longer stands. The broker reads a new one when it starts.
    """
    from bdlab_cli import wiring

    layers = wiring.layers({"startup_timeout_s": startup_timeout})
    from bdlab.vault import pki
    from bdlab.vault.broker_files import BrokerFiles

    files = BrokerFiles(folder)
    with wiring.vault_session(layers, service="migrate") as session:
        authority = session.kafka().ca_pem
        if files.good_for(host, authority=authority):
            typer.echo("broker certificate: unchanged")
            return
        issued = session.ask(lambda client: pki.issue_broker(client, hosts=host))
    files.write(issued, host, ttl_s=pki.BROKER_TTL_S)
    typer.echo(f"broker certificate: issued for {', '.join(host)}, good for {pki.BROKER_TTL_S // 86400} days")
