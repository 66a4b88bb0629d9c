"""`bdlab broker-certificate`: what a secured broker needs before its first start."""

from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option

from bdlab_cli.options import AdminServers, StartupTimeout
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings, open_session


def broker_certificate(
    *,
    folder: Annotated[Path, Option()],
    host: Annotated[list[str], Option()],
    ttl: Annotated[int | None, Option(min=5, show_default="a year")] = None,
    admin_servers: AdminServers = "",
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Get a broker's certificate from Vault's authority, in the form in which Kafka reads it.

    One that is good for a third of its time or longer stands. The broker reads a new one when it starts, or
    when it is told to (--admin-servers)."""
    from bdlab.certificates import BROKER_TTL_S, GROUP_READS, CertificateFiles
    from bdlab.vault import pki

    layers = load_settings({"startup_timeout_s": startup_timeout})
    ttl_s, change = ttl or BROKER_TTL_S, ""
    files = CertificateFiles(folder, mode=GROUP_READS)
    tell = partial(terminal.echo_change, "broker certificate", as_json=json)
    with open_session(layers, service="migrate", kafka=bool(admin_servers)) as session:
        if not files.good_for(host, authority=session.ask(pki.authority_pem)):
            issued = session.ask(lambda client: pki.issue(client, pki.BROKER_ROLE, hosts=host, ttl_s=ttl_s))
            files.write(issued, host, ttl_s=ttl_s)
            change = f"issued for {', '.join(host)}, good for {ttl_s} s"
        tell(change)
        if admin_servers:
            from bdlab.kafka.broker_admin import reload_certificates
            from bdlab_cli.wiring.broker_admin import administrator

            brokers = reload_certificates(administrator(session, session.kafka(), admin_servers))
            tell(f"read by broker {', '.join(map(str, brokers))}")
