"""`bdlab migrate`: schema and topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from bdlab_cli.options import AdminServers, StartupTimeout
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings, open_session
from bdlab_cli.wiring.signals import stop_on_signal

if TYPE_CHECKING:
    from bdlab.credentials import KafkaCredentials
    from bdlab.kafka.admin import Admin
    from bdlab.settings import Layers
    from bdlab.vault.session import VaultSession

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_BROKER_PATH = "kafka/credentials"
_BY_VAULT = "vault"


@app.command()
def migrate(
    announce_broker: bool = typer.Option(
        False,
        "--announce-broker",
        envvar="BDLAB_ANNOUNCE_BROKER",
        help="Write the broker's address and security protocol from the environment or the options into "
        "Vault first.",
    ),
    bootstrap_servers: str | None = typer.Option(
        None,
        "--bootstrap-servers",
        envvar="BDLAB_KAFKA_BOOTSTRAP_SERVERS",
        metavar="SERVERS",
        show_default="what Vault says",
        help="The broker to make the topic at: host:port, or several with commas.",
    ),
    ca_file: str = typer.Option(
        "",
        "--ca-file",
        envvar="BDLAB_KAFKA_CA_FILE",
        metavar="vault",
        show_default="what Vault says",
        help="With --announce-broker: the word vault announces Vault's own authority as the broker's.",
    ),
    adopt_log: bool = typer.Option(
        False,
        "--adopt-log",
        envvar="BDLAB_ADOPT_LOG",
        help="Say that the broker's log is the recorded one, though it cannot be proved or a record differs.",
    ),
    new_log: bool = typer.Option(
        False,
        "--new-log",
        envvar="BDLAB_NEW_LOG",
        help="Close the recorded log: what the broker holds is accounted for as another one. Stop the "
        "consumers first.",
    ),
    admin_servers: AdminServers = "",
    startup_timeout: StartupTimeout = None,
) -> None:
    """Bring the database schema, the topic and a secured broker's users up to date.

    A second run changes nothing.
    """
    from bdlab.errors import VaultError

    layers = load_settings(
        {"kafka": {"bootstrap_servers": bootstrap_servers}, "startup_timeout_s": startup_timeout}
    )
    if adopt_log and new_log:
        raise typer.BadParameter("--adopt-log and --new-log say the opposite: give one of them.")
    from bdlab.kafka.admin import Admin
    from bdlab.postgres import migrations
    from bdlab.retry import wait_for
    from bdlab.vault.rotation.database import sweep
    from bdlab_cli.wiring.broker_admin import secure

    patience = layers.settings().startup_timeout_s
    with (
        stop_on_signal() as stop,
        open_session(layers, stop, service="migrate", database=True) as session,
    ):
        if announce_broker:
            _tell("broker address in Vault", _announce(session, layers, ca_file))
        applied = wait_for("PostgreSQL", lambda: migrations.migrate(session), timeout_s=patience, stop=stop)
        _tell("schema", ", ".join(applied))
        credentials: KafkaCredentials = session
        if admin_servers:
            credentials, changes = secure(session, admin_servers, timeout_s=patience, stop=stop)
            _tell("users and ACLs", ", ".join(f"{action} {subject}" for action, subject in changes))
        with Admin(credentials, client_id="bdlab-migrate") as admin:
            outcome = wait_for("the broker", admin.ensure_topic, timeout_s=patience, stop=stop)
            if adopt_log or new_log:
                _tell("log", _decide(session, admin, same=adopt_log))
        try:
            session.ask(lambda client: sweep(client, layers.settings().vault))
        except VaultError as error:
            terminal.echo(f"warning: database logins that ended cannot be dropped: {error.message}", err=True)
    _tell(f"topic {outcome.topic}", f"created, {outcome.partitions} partitions" if outcome.created else "")
    if outcome.warning:
        terminal.echo(f"warning: {outcome.warning}", err=True)


def _decide(session: VaultSession, admin: Admin, *, same: bool) -> str:
    """Note an administrator's word on the broker's log; what changed."""
    from bdlab.errors import InvalidInput
    from bdlab.postgres import logs

    found = admin.log_ranges()[0]
    name = f"{found.topic} (topic id {found.topic_id or 'none'}) of cluster {found.cluster_id}"
    if not logs.decide(session, found, same=same):
        raise InvalidInput(f"nothing is recorded of {name}", hint="`bdlab consume` begins it at its start.")
    return f"{name} is the recorded one" if same else f"{name} is another one; the recorded one is closed"


def _tell(what: str, change: str) -> None:
    terminal.echo(f"{what}: {change or 'unchanged'}")


def _announce(session: VaultSession, layers: Layers, ca_file: str) -> str:
    """Write where the broker is, and how it is secured, only over the version that was read; what changed,
    empty for nothing.
    """
    from bdlab.errors import InvalidInput, SettingsInvalid
    from bdlab.vault import pki

    address = layers.settings().kafka.bootstrap_servers
    if not address:
        raise SettingsInvalid(
            "there is no broker address to announce",
            hint="Give it with --bootstrap-servers or BDLAB_KAFKA_BOOTSTRAP_SERVERS.",
        )
    layers.settings().kafka.servers()
    if ca_file not in ("", _BY_VAULT):
        raise InvalidInput(
            f"--ca-file {ca_file}: only the word {_BY_VAULT} can be announced",
            hint="A file of another authority goes into .env, for `bdlab vault-init`.",
        )
    values, version = session.read_secret(_BROKER_PATH)
    wanted = {
        **values,
        "bootstrap_servers": address,
        # Vault's own word where nobody says another.
        "security_protocol": session.settings().kafka.security_protocol,
    }
    if ca_file:
        wanted["ca_pem"] = session.ask(pki.authority_pem)
    if wanted == values:
        return ""
    session.write_secret(_BROKER_PATH, wanted, cas=version)
    session.refresh_kafka()
    before = values.get("bootstrap_servers") or "none"
    return f"{before} is now {address}, {wanted['security_protocol']}"
