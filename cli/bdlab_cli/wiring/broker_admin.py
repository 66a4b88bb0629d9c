"""What an administrator does for the broker: its address in Vault, its users and ACLs, its log."""

import threading
from collections.abc import Sequence

import msgspec

from bdlab.credentials import GivenKafkaLogin, KafkaCredentials, KafkaLogin
from bdlab.errors import InvalidInput, SettingsInvalid
from bdlab.kafka.admin import Admin
from bdlab.kafka.broker_admin import Change, accepts, ensure_users_and_acls
from bdlab.postgres import accounts
from bdlab.retry import wait_for
from bdlab.services import KAFKA_SERVICES
from bdlab.settings import Layers, Secret
from bdlab.vault import pki
from bdlab.vault.session import VaultSession


def secure(
    session: VaultSession, admin_servers: str, *, timeout_s: float, stop: threading.Event
) -> tuple[KafkaCredentials, list[Change]]:
    """Make the users that Vault holds, and their ACLs; return the administrator's login and what was changed. Raises
    VaultError, BrokerError."""
    clients = session.kafka()
    admin = administrator(session, clients, admin_servers)
    users = {service: _logins(session, service, clients) for service in KAFKA_SERVICES}
    changes = wait_for("the broker", lambda: ensure_users_and_acls(admin, users), timeout_s=timeout_s, stop=stop)
    return GivenKafkaLogin(admin), changes


def administrator(session: VaultSession, clients: KafkaLogin, admin_servers: str) -> KafkaLogin:
    """Return an administrator of the broker of `clients`, with a certificate made in memory for this run. Raises
    VaultError."""
    issued = session.ask(lambda client: pki.issue(client, pki.ADMIN_ROLE))
    server = msgspec.structs.replace(clients.server, bootstrap_servers=admin_servers, security_protocol="SSL")
    return KafkaLogin(server=server, ca_pem=issued.ca_pem, certificate=issued)


def announce(session: VaultSession, layers: Layers, ca_file: str) -> str:
    """Write into Vault where the broker is, and how it is secured; return what changed, empty for nothing. Only the
    version that was read is overwritten. Raises InvalidInput, SettingsInvalid, VaultError."""
    address = layers.settings().kafka.bootstrap_servers
    if not address:
        hint = "Give it with --bootstrap-servers or BDLAB_KAFKA_BOOTSTRAP_SERVERS."
        raise SettingsInvalid("there is no broker address to announce", hint=hint)
    layers.settings().kafka.servers()
    if ca_file not in ("", "vault"):
        hint = "A file of another authority goes into .env, for `bdlab vault-init`."
        raise InvalidInput(f"--ca-file {ca_file}: only the word vault can be announced", hint=hint)
    values, version = session.read_secret("kafka/credentials")
    protocol = session.settings().kafka.security_protocol  # Vault's, unless the environment or an option says another
    wanted = {**values, "bootstrap_servers": address, "security_protocol": protocol}
    if ca_file:
        wanted["ca_pem"] = session.ask(pki.authority_pem)
    if wanted == values:
        return ""
    session.write_secret("kafka/credentials", wanted, cas=version)
    session.refresh_kafka()
    before = values.get("bootstrap_servers") or "none"
    return f"{before} is now {address}, {protocol}"


def decide(session: VaultSession, admin: Admin, *, same: bool) -> str:
    """Note an administrator's word on the broker's log, and return what changed. Raises InvalidInput."""
    found = admin.log_ranges()[0]
    name = f"{found.topic} (topic id {found.topic_id or 'none'}) of cluster {found.cluster_id}"
    if not accounts.decide_log(session, found, same=same):
        raise InvalidInput(f"nothing is recorded of {name}", hint="`bdlab consume` begins it at its start.")
    return f"{name} is the recorded one" if same else f"{name} is another one; the recorded one is closed"


class Users:
    """The broker's users, as an administrator changes them; implements `rotation.BrokerUsers`."""

    accepts = staticmethod(accepts)

    def __init__(self, admin: KafkaLogin) -> None:
        self._admin = admin

    def put(self, service: str, login: KafkaLogin) -> None:
        ensure_users_and_acls(self._admin, {service: [login]})


def _logins(session: VaultSession, service: str, clients: KafkaLogin) -> Sequence[KafkaLogin]:
    """Return a service's active user, and the idle one that its next rotation makes the active one."""
    values, _ = session.read_secret(f"kafka/{service}")
    return [
        msgspec.structs.replace(clients, username=name, password=Secret(values[f"{prefix}password"]))
        for prefix in ("", "idle_")
        if (name := values.get(f"{prefix}username"))
    ]
