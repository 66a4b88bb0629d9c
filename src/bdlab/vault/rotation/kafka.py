"""The services' Kafka users: of the two of each, the idle one gets a new password and takes over.

In `kafka/<service>` of the key-value engine, each step a version over the one before (`cas`):

    1  the idle user's new password; then the broker is given it, and a fresh client proves it
    2  the two users change places, with the version from which on that is so: the clients follow
    3  once no client uses the one before, a new password for it; then the broker is given that too
    4  nothing of the rotation any more

What Vault holds is the truth, and the broker follows it; a run that was killed is therefore run again, and
`bdlab migrate` in between brings the broker to the same state.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from bdlab.credentials import KafkaLogin
from bdlab.errors import VaultError
from bdlab.retry import tries
from bdlab.settings import Secret
from bdlab.vault.client_reports import ClientReport
from bdlab.vault.leases import now
from bdlab.vault.rotation.plan import (
    STOPPED,
    Rotation,
    Run,
    in_words,
    wait_for_clients,
)

_SWITCHED = "switched_at_version"
_PASSWORD_BYTES = 24
_PROOF_S = 15.0


class BrokerUsers(Protocol):
    """What is asked of the broker. Raises BrokerError."""

    def put(self, service: str, login: KafkaLogin) -> None:
        """Let the broker take this login, with the rights of its service; it works on return."""
        ...

    def accepts(self, login: KafkaLogin) -> bool:
        """Whether a fresh client gets in with it."""
        ...


class _Secret(msgspec.Struct):
    """One service's secret as it is in Vault now, and how it was when this run came."""

    service: str
    values: dict[str, str]
    version: int
    began: float
    resumed: bool
    before: str

    @property
    def switched_at(self) -> int:
        return int(self.values[_SWITCHED])


def rotate_kafka_users(
    run: Run, broker: BrokerUsers, clients: KafkaLogin, services: Sequence[str]
) -> Iterator[Rotation]:
    """Rotate the users of `services`; `clients` says how they reach the broker.

    Raises VaultError and BrokerError; run again, it goes on from there.
    """
    work = _KafkaUserRotation(run, broker, clients)
    begun: dict[str, _Secret] = {}
    for service in services:
        if run.stop.is_set():
            yield Rotation(what="kafka", service=service, outcome="incomplete", detail=STOPPED)
            continue
        held = work.read(service)
        if not held.values.get("idle_username"):
            yield Rotation(
                what="kafka",
                service=service,
                outcome="unchanged",
                detail="has one user only, from outside: change its password at the broker, then in Vault",
            )
        elif run.dry_run:
            yield _result(held, "would finish" if held.resumed else "would rotate")
        else:
            begun[service] = held
            work.switch(held)
            run.progress(
                f"kafka {service}: {held.values['username']} is active, from version {held.switched_at}"
            )
    # A command that reports nothing looks into Vault this often.
    settled_at = now() + 2 * run.vault.poll_s
    late = wait_for_clients(lambda service: work.late(begun[service]), tuple(begun), run)
    if begun and len(late) < len(begun):
        run.stop.wait(max(0.0, settled_at - now()))
    for service, held in begun.items():
        waiting = late.get(service, ())
        if (waiting and not run.force) or run.stop.is_set():
            missing = f"not reported: {in_words(waiting)}" if waiting else "asked to stop"
            yield _result(held, "incomplete", f"{missing}; {held.values['idle_username']} still works")
            continue
        work.retire(held)
        detail = f"ended without the report of: {in_words(waiting)}" if waiting else ""
        yield _result(held, "finished" if held.resumed else "rotated", detail)


def _result(held: _Secret, outcome: str, detail: str = "") -> Rotation:
    return msgspec.convert(
        {
            "what": "kafka",
            "service": held.service,
            "outcome": outcome,
            "before": held.before,
            "after": f"{held.values['username']} v{held.version}" if not outcome.startswith("would") else "",
            "seconds": now() - held.began,
            "detail": detail,
        },
        Rotation,
    )


class _KafkaUserRotation:
    def __init__(self, run: Run, broker: BrokerUsers, clients: KafkaLogin) -> None:
        self._run = run
        self._broker = broker
        self._clients = clients

    def read(self, service: str) -> _Secret:
        began = now()
        values, version = self._run.session.read_secret(f"kafka/{service}")
        resumed = _SWITCHED in values
        before = values.get("idle_username", "") if resumed else values.get("username", "")
        at = int(values[_SWITCHED]) - 1 if resumed else version
        return _Secret(service, values, version, began, resumed, f"{before} v{at}")

    def switch(self, held: _Secret) -> None:
        """Steps 1 and 2; for a run that goes on, only that the broker takes the active user."""
        if held.resumed:
            self._broker.put(held.service, self._login(held, ""))
            return
        self._write(held, idle_password=_new_password())
        self._broker.put(held.service, self._login(held, "idle_"))
        was = dict(held.values)
        swapped = {
            "username": was["idle_username"],
            "password": was["idle_password"],
            "idle_username": was["username"],
            "idle_password": was["password"],
            _SWITCHED: str(held.version + 1),
        }
        self._write(held, **swapped)

    def late(self, held: _Secret) -> list[ClientReport]:
        """The clients that have not error_text that they use the new user."""
        return [
            client for client in self._run.clients(held.service) if client.kafka_version < held.switched_at
        ]

    def retire(self, held: _Secret) -> None:
        """Steps 3 and 4. Raises VaultError where the broker still takes the one before."""
        former = self._login(held, "idle_")
        self._write(held, idle_password=_new_password())
        self._broker.put(held.service, self._login(held, "idle_"))
        for _ in tries(_PROOF_S):
            if not self._broker.accepts(former):
                break
        else:
            raise VaultError(
                f"the broker still takes the former password of {former.username}",
                hint="Look into the broker's log, and run this again.",
            )
        del held.values[_SWITCHED]
        self._write(held)

    def _write(self, held: _Secret, **changes: str) -> None:
        held.values |= changes
        path = f"kafka/{held.service}"
        try:
            held.version = self._run.session.write_secret(path, held.values, cas=held.version)
        except VaultError as error:
            if "check-and-set" not in error.message:
                raise
            raise VaultError(
                error.message, hint="Somebody else has written it since it was read: run this again."
            ) from error

    def _login(self, held: _Secret, prefix: str) -> KafkaLogin:
        return msgspec.structs.replace(
            self._clients,
            username=held.values[f"{prefix}username"],
            password=Secret(held.values[f"{prefix}password"]),
        )


def _new_password() -> str:
    return secrets.token_urlsafe(_PASSWORD_BYTES)
