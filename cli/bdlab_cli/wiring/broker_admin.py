"""What an administrator does at a secured broker: for `bdlab migrate`, and for `bdlab rotate`."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec

from bdlab.credentials import KafkaCredentials, KafkaLogin
from bdlab.kafka.broker_admin import Change, accepts, ensure_users_and_acls
from bdlab.retry import wait_for
from bdlab.services import KAFKA_SERVICES
from bdlab.settings import Secret
from bdlab.static_credentials import StaticCredentials
from bdlab.vault import pki
from bdlab.vault.session import VaultSession


def secure(
    session: VaultSession, admin_servers: str, *, timeout_s: float, stop: threading.Event
) -> tuple[KafkaCredentials, list[Change]]:
    """Make the users that Vault holds, and their ACLs; the administrator's login, and what was changed.

    Raises VaultError, BrokerError.
    """
    clients = session.kafka()
    admin = administrator(session, clients, admin_servers)
    users = {service: _logins(session, service, clients) for service in KAFKA_SERVICES}
    changes = wait_for(
        "the broker", lambda: ensure_users_and_acls(admin, users), timeout_s=timeout_s, stop=stop
    )
    return StaticCredentials(kafka=admin), changes


def administrator(session: VaultSession, clients: KafkaLogin, admin_servers: str) -> KafkaLogin:
    """An administrator of the broker of `clients`. Its certificate is made for this run, and lives in memory.

    Raises VaultError.
    """
    issued = session.ask(pki.issue_admin)
    server = msgspec.structs.replace(clients.server, bootstrap_servers=admin_servers, security_protocol="SSL")
    return KafkaLogin(server=server, ca_pem=issued.ca_pem, certificate=issued.certificate)


class Users:
    """The broker's users, in the hands of an administrator; implements `rotation.BrokerUsers`."""

    def __init__(self, admin: KafkaLogin) -> None:
        self._admin = admin

    def put(self, service: str, login: KafkaLogin) -> None:
        ensure_users_and_acls(self._admin, {service: [login]})

    def accepts(self, login: KafkaLogin) -> bool:
        return accepts(login)


def _logins(session: VaultSession, service: str, clients: KafkaLogin) -> Sequence[KafkaLogin]:
    """The active user of a service, and the idle one that its next rotation makes the active one."""
    values, _ = session.read_secret(f"kafka/{service}")
    return [
        msgspec.structs.replace(
            clients, username=values[f"{prefix}username"], password=Secret(values[f"{prefix}password"])
        )
        for prefix in ("", "idle_")
        if values.get(f"{prefix}username")
    ]
