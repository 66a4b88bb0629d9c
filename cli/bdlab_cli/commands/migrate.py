"""`bdlab migrate`: bring the schema, the topics and a secured broker's users up to date."""

from functools import partial
from typing import Annotated

from typer import BadParameter

from bdlab.credentials import FeedbackTopic, KafkaCredentials
from bdlab.errors import VaultError
from bdlab_cli.options import AdminServers, StartupTimeout, setting
from bdlab_cli.output import terminal
from bdlab_cli.wiring.session import load_settings, open_session
from bdlab_cli.wiring.signals import stop_on_signal


def migrate(
    *,
    announce_broker: bool = False,
    bootstrap_servers: Annotated[str | None, setting("kafka.bootstrap_servers", "what Vault says")] = None,
    ca_file: Annotated[str, setting("kafka.ca_file", "what Vault says")] = "",
    adopt_log: bool = False,
    new_log: bool = False,
    of_feedback: bool = False,
    admin_servers: AdminServers = "",
    json: bool = False,
    startup_timeout: StartupTimeout = None,
) -> None:
    """Bring the database schema, the topics and a secured broker's users up to date.

    The columns of predictions are those of the model's contract: BDLAB_MODEL_PATH names its card. With a registry and
    no such model the database keeps its contract. A second run changes nothing."""
    if adopt_log and new_log:
        raise BadParameter("--adopt-log and --new-log say the opposite: give one of them.")
    from bdlab.kafka.admin import Admin
    from bdlab.model import load_contract
    from bdlab.postgres import contracts
    from bdlab.retry import wait_for
    from bdlab.vault.rotation.database import sweep
    from bdlab_cli.wiring.broker_admin import announce, decide, secure

    layers = load_settings({"kafka": {"bootstrap_servers": bootstrap_servers}, "startup_timeout_s": startup_timeout})
    patience, deployment = layers.settings().startup_timeout_s, layers.settings().deployment
    model = layers.settings().model
    contract = None if model.registry and not model.path else load_contract(model.path)
    tell = partial(terminal.echo_change, as_json=json)
    with stop_on_signal() as stop, open_session(layers, stop, service="migrate", database=True) as session:
        if announce_broker:
            tell("broker address in Vault", announce(session, layers, ca_file))
        both = partial(contracts.migrate, session, contract, deployment)
        applied, change = wait_for("PostgreSQL", both, timeout_s=patience, stop=stop)
        tell("schema", ", ".join(applied))
        tell("contract", change)
        credentials: KafkaCredentials = session
        if admin_servers:
            credentials, secured = secure(session, admin_servers, timeout_s=patience, stop=stop)
            tell("users and ACLs", ", ".join(f"{action} {subject}" for action, subject in secured))
        outcomes = []
        for topic in (credentials, FeedbackTopic(credentials)):
            with Admin(topic, client_id="bdlab-migrate") as admin:
                outcomes.append(wait_for("the broker", admin.ensure_topic, timeout_s=patience, stop=stop))
                if (adopt_log or new_log) and of_feedback is (topic is not credentials):
                    tell("log", decide(session, admin, same=adopt_log))
        try:
            session.ask(lambda client: sweep(client, deployment))
        except VaultError as error:
            terminal.echo(f"warning: database logins that ended cannot be dropped: {error.message}", err=True)
    for outcome in outcomes:
        tell(f"topic {outcome.topic}", f"created, {outcome.partitions} partitions" if outcome.created else "")
        if outcome.warning:
            terminal.echo(f"warning: {outcome.warning}", err=True)
