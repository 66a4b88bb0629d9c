"""`bdlab migrate`: schema and topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from bdlab_cli.options import StartupTimeout

if TYPE_CHECKING:
    from bdlab.credentials import KafkaCredentials
    from bdlab.settings import Layers
    from bdlab.vault.session import VaultSession

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_BROKER_PATH = "kafka/credentials"


@app.command()
def migrate(
    announce_broker: bool = typer.Option(
        False,
        "--announce-broker",
        envvar="BDLAB_ANNOUNCE_BROKER",
        help="Write the broker's address from the environment or --bootstrap-servers into Vault first.",
    ),
    bootstrap_servers: str | None = typer.Option(
        None,
        "--bootstrap-servers",
        envvar="BDLAB_KAFKA_BOOTSTRAP_SERVERS",
        metavar="SERVERS",
        show_default="what Vault says",
        help="The broker to make the topic at: host:port, or several with commas.",
    ),
    admin_servers: str = typer.Option(
        "",
        "--admin-servers",
        envvar="BDLAB_KAFKA_ADMIN_SERVERS",
        metavar="SERVERS",
        show_default="none",
        help="Where a secured broker takes its administrator: makes the services' users and ACLs there too.",
    ),
    startup_timeout: StartupTimeout = None,
) -> None:
    """Bring the database schema, the topic and a secured broker's users up to date.

    A second run changes nothing.
    """
    from bdlab_cli import wiring

    layers = wiring.layers(
        {"kafka": {"bootstrap_servers": bootstrap_servers}, "startup_timeout_s": startup_timeout}
    )
    from bdlab.kafka.admin import Admin
    from bdlab.postgres import migrations
    from bdlab_cli.broker_users import secure

    patience = layers.settings().startup_timeout_s
    with (
        wiring.stop_on_signal() as stop,
        wiring.vault_session(layers, stop, service="migrate", database_role="bdlab-owner") as session,
    ):
        if announce_broker:
            _tell("broker address in Vault", _announce(session, layers))
        applied = wiring.wait_for(
            "PostgreSQL", lambda: migrations.migrate(session), timeout_s=patience, stop=stop
        )
        _tell("schema", ", ".join(applied))
        credentials: KafkaCredentials = session
        if admin_servers:
            credentials, changes = secure(session, admin_servers, timeout_s=patience, stop=stop)
            _tell("users and ACLs", ", ".join(f"{action} {subject}" for action, subject in changes))
        with Admin(credentials, client_id="bdlab-migrate") as admin:
            outcome = wiring.wait_for("the broker", admin.ensure_topic, timeout_s=patience, stop=stop)
    _tell(f"topic {outcome.topic}", f"created, {outcome.partitions} partitions" if outcome.created else "")
    if outcome.warning:
        typer.echo(f"warning: {outcome.warning}", err=True)


def _tell(what: str, change: str) -> None:
    typer.echo(f"{what}: {change or 'unchanged'}")


def _announce(session: VaultSession, layers: Layers) -> str:
    """Write the broker's address, only over the version that was read; what changed, empty for nothing."""
    from bdlab.errors import SettingsInvalid

    address = layers.settings().kafka.bootstrap_servers
    if not address:
        raise SettingsInvalid(
            "there is no broker address to announce",
            hint="Give it with --bootstrap-servers or BDLAB_KAFKA_BOOTSTRAP_SERVERS.",
        )
    values, version = session.read_secret(_BROKER_PATH)
    before = values.get("bootstrap_servers", "")
    if before == address:
        return ""
    session.write_secret(_BROKER_PATH, {**values, "bootstrap_servers": address}, cas=version)
    session.refresh_kafka()
    return f"{before or 'none'} is now {address}"
