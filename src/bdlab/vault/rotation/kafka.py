"""The services' Kafka users: of the two of each service, the idle one gets a new password and takes over.

In `kafka/<service>` of the key-value engine, each step is one version after the one before (`cas`):

    1  a new password of the idle user; then it is set at the broker, and a new client tries it
    2  the two users change places, with the version from which on that is so: the processes follow
    3  once no process uses the former user, a new password for it; then that is set at the broker too
    4  nothing of the rotation any more

The broker follows what Vault holds. A run that was killed is run again; `bdlab migrate` in between brings the broker to
the same state."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec

from bdlab.credentials import KafkaLogin
from bdlab.errors import PolicyDenied, VaultError
from bdlab.retry import tries
from bdlab.settings import Secret
from bdlab.vault.client_reports import ClientReport
from bdlab.vault.logins import now
from bdlab.vault.responses import refusal
from bdlab.vault.rotation import STOPPED, Rotation, RotationOutcome, Run, listed, wait_for_clients

_SWITCHED = "switched_at_version"


class BrokerUsers(Protocol):
    """The users at the broker. Raises BrokerError."""

    def put(self, service: str, login: KafkaLogin) -> None:
        """Set this user's password, and the rights of its service; the login works on return."""

    def accepts(self, login: KafkaLogin) -> bool:
        """Return whether a new client can log in with it."""


class _UserRotation:
    """The rotation of one service's users: its secret in Vault, now at `version`."""

    def __init__(self, run: Run, broker: BrokerUsers, clients: KafkaLogin, service: str) -> None:
        self._run, self._broker, self._clients, self._began = run, broker, clients, now()
        self.service = service
        self.values, self.version = run.session.read_secret(f"kafka/{service}")
        self.resumed = _SWITCHED in self.values
        former = self.values.get("idle_username" if self.resumed else "username", "")
        at = self.switched_at - 1 if self.resumed else self.version
        self._before = f"{former} v{at}"

    @property
    def switched_at(self) -> int:
        return int(self.values[_SWITCHED])

    def switch(self) -> None:
        """Do steps 1 and 2; if an earlier run did, make sure that the broker knows the active user."""
        if self.resumed:
            self._broker.put(self.service, self._login(""))
        else:
            self._renew_idle()
            for field in ("username", "password"):
                self.values[field], self.values[f"idle_{field}"] = self.values[f"idle_{field}"], self.values[field]
            self._write(**{_SWITCHED: str(self.version + 1)})
        self._note(username=self.values["username"], former=self.values["idle_username"], since=self.values[_SWITCHED])

    def late(self) -> list[ClientReport]:
        """Return the processes that have not reported that they use the new user."""
        clients = self._run.clients(self.service)
        return [client for client in clients if client.kafka_version < self.switched_at]

    def retire(self) -> None:
        """Do steps 3 and 4. Raises VaultError if the broker still accepts the former password."""
        former = self._login("idle_")
        self._renew_idle()
        if all(self._broker.accepts(former) for _ in tries(15.0)):
            raise refusal(VaultError, "former_works", user=former.username)
        self._note(username=self.values["username"], since=self.values.pop(_SWITCHED))
        self._write()

    def result(self, outcome: RotationOutcome, detail: str = "") -> Rotation:
        after = "" if outcome.startswith("would") else f"{self.values['username']} v{self.version}"
        return Rotation("kafka", outcome, self.service, detail, self._before, after, now() - self._began)

    def _renew_idle(self) -> None:
        self._write(idle_password=secrets.token_urlsafe(24))
        self._broker.put(self.service, self._login("idle_"))

    def _write(self, **changes: str) -> None:
        self.values |= changes
        try:
            self.version = self._run.session.write_secret(f"kafka/{self.service}", self.values, cas=self.version)
        except VaultError as error:
            if "check-and-set" not in error.message:
                raise
            raise refusal(VaultError, "written_meanwhile", error=error) from error

    def _note(self, **told: str) -> None:
        """Tell in the metadata, for those who may not read the secret, whose login it is `since` which version, and the
        `former` user if that still works."""
        path = f"{self._run.vault.kv_mount}/metadata/kafka/{self.service}"
        with suppress(PolicyDenied):  # by a policy of an older version
            self._run.session.ask(lambda client: client.write(path, {"custom_metadata": told}))

    def _login(self, prefix: str) -> KafkaLogin:
        user, password = (self.values[f"{prefix}{field}"] for field in ("username", "password"))
        return msgspec.structs.replace(self._clients, username=user, password=Secret(password))


def rotate_kafka_users(
    run: Run, broker: BrokerUsers, clients: KafkaLogin, services: Sequence[str]
) -> Iterator[Rotation]:
    """Rotate the users of `services`, and yield each result; `clients` says how they reach the broker. Raises
    VaultError and BrokerError; run again, it continues."""
    begun: dict[str, _UserRotation] = {}
    for service in services:
        if run.stop.is_set():
            yield Rotation("kafka", "incomplete", service, STOPPED)
            continue
        users = _UserRotation(run, broker, clients, service)
        if not users.values.get("idle_username"):
            detail = "has one user only, from outside: change its password at the broker, then in Vault"
            yield Rotation("kafka", "unchanged", service, detail)
        elif run.dry_run:
            yield users.result("would finish" if users.resumed else "would rotate")
        else:
            begun[service] = users
            users.switch()
            run.progress(f"kafka {service}: {users.values['username']} is active, from version {users.switched_at}")
    # A command reports nothing, and reads its login from Vault this often.
    settled_at = now() + 2 * run.vault.poll_s
    late = wait_for_clients({service: users.late for service, users in begun.items()}, run)
    if begun and len(late) < len(begun):
        run.stop.wait(max(0.0, settled_at - now()))
    for service, users in begun.items():
        waiting = late.get(service, ())
        if (waiting and not run.force) or run.stop.is_set():
            missing = f"not reported: {listed(waiting)}" if waiting else "asked to stop"
            yield users.result("incomplete", f"{missing}; {users.values['idle_username']} still works")
            continue
        users.retire()
        detail = f"ended without the report of: {listed(waiting)}" if waiting else ""
        yield users.result("finished" if users.resumed else "rotated", detail)
