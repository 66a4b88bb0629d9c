"""The services' secret ids: another one is handed over, wrapped; the one before ends once nobody uses it.

The receiver is the running service, which unwraps what lies in its folder and logs in with it. Where none
runs from that folder, as with a command that somebody types now and then, it is unwrapped in its place: just
as its next run would do. What is to be destroyed is kept with the delivery (see `identity`), so that a run
that was killed is run again. Only these folders' own secret ids are touched: another machine has others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import structlog

from bdlab.errors import IdentityRefused, SecretMissing
from bdlab.vault.client import VaultClient
from bdlab.vault.client_reports import ClientReport
from bdlab.vault.identity import Identity, WrappedSecretId
from bdlab.vault.leases import now
from bdlab.vault.rotation.plan import (
    STOPPED,
    Rotation,
    RotationOutcome,
    Run,
    in_words,
    wait_for_clients,
)

_WRAP_TTL_S = 24 * 3600
_SHOWN = 8

_log = structlog.get_logger()


class _Handed(msgspec.Struct):
    """One service's delivery. `refusal` is why what was delivered could not be proved."""

    identity: Identity
    began: float
    resumed: bool
    delivery: WrappedSecretId
    refusal: str = ""


def rotate_secret_ids(run: Run, services: Sequence[str]) -> Iterator[Rotation]:
    """Rotate the secret ids of `services`.

    Raises VaultError, and IdentityRefused with an ALARM where somebody else has unwrapped a delivery; run
    again, it goes on from there.
    """
    work = _SecretIdRotation(run)
    handed: dict[str, _Handed] = {}
    for service in services:
        if run.stop.is_set():
            yield Rotation(what="approle", service=service, outcome="incomplete", detail=STOPPED)
            continue
        identity = Identity(run.identities / service, service=service)
        if not identity.exists:
            detail = f"no identity of it is in {identity.folder.parent}"
            yield Rotation(what="approle", service=service, outcome="unchanged", detail=detail)
        elif run.dry_run:
            before = identity.wrapped_secret_id()
            resumed = bool(before and before.replaces)
            name = _short(before.replaces[0] if before and resumed else identity.accessor)
            outcome: RotationOutcome = "would finish" if resumed else "would rotate"
            yield Rotation(what="approle", service=service, outcome=outcome, before=name)
        else:
            handed[service] = work.hand_over(identity)
            run.progress(f"approle {service}: a secret id lies wrapped in {identity.folder}")
    late = wait_for_clients(
        lambda service: work.users_of_the_former(handed[service]),
        tuple(handed),
        run,
        settled=lambda service: work.take_up(handed[service]),
    )
    for service, one in handed.items():
        waiting = late.get(service, ())
        if waiting and run.force and not run.stop.is_set():
            work.take_up(one)
        elif waiting:
            detail = f"not reported: {in_words(waiting)}; the former secret id still works"
            yield _result(one, "incomplete", detail)
            continue
        if one.refusal:
            yield _result(one, "incomplete", f"{one.refusal}; the former secret id still works")
            continue
        work.end_former(one)
        yield _result(one, "finished" if one.resumed else "rotated")


def _result(one: _Handed, outcome: RotationOutcome, detail: str = "") -> Rotation:
    return Rotation(
        what="approle",
        service=one.identity.service,
        outcome=outcome,
        before=_short(one.delivery.replaces[0]) if one.delivery.replaces else "",
        after=_short(one.delivery.accessor),
        seconds=now() - one.began,
        detail=detail,
    )


def _short(accessor: str) -> str:
    return accessor[:_SHOWN]


class _SecretIdRotation:
    def __init__(self, run: Run) -> None:
        self._run = run
        self._nobody = VaultClient(run.vault)

    def hand_over(self, identity: Identity) -> _Handed:
        """Put another secret id, wrapped, into the folder; one that an earlier run put there stands."""
        began = now()
        before = identity.wrapped_secret_id()
        resumed = bool(before and before.replaces)
        spent = identity.spent(self._nobody)
        if before and spent:
            # It was lost, or somebody else has it.
            _log.warning("a secret id that was handed over is spent; it ends", service=identity.service)
            self._destroy(identity.service, (before.accessor,))
        if before and resumed and not spent:
            return _Handed(identity, began, resumed=True, delivery=before)
        replaces = before.replaces if before else ()
        if before and not spent:
            replaces = (before.accessor, *replaces)
        delivery = self._run.session.ask(
            lambda client: identity.hand_over(
                client,
                mount=self._run.vault.approle_mount,
                wrap_ttl_s=_WRAP_TTL_S,
                replaces=replaces,
            )
        )
        return _Handed(identity, began, resumed=resumed, delivery=delivery)

    def users_of_the_former(self, one: _Handed) -> list[ClientReport]:
        return [
            client
            for client in self._run.clients(one.identity.service)
            if client.secret_id in one.delivery.replaces
        ]

    def take_up(self, one: _Handed) -> None:
        """Unwrap it where nobody has, and prove that it lets the service in."""
        role_id, secret_id = one.identity.obtain(self._nobody)
        try:
            token = self._nobody.log_in(self._run.vault.approle_mount, role_id, secret_id)
        except IdentityRefused as error:
            users = self._run.clients(one.identity.service)
            # Where it is bound to networks, it may work for the service and not from here.
            if not any(client.secret_id == one.delivery.accessor for client in users):
                one.refusal = error.message
            return
        proof = self._nobody.with_token(token.token)
        proof.revoke_self()
        proof.close()

    def end_former(self, one: _Handed) -> None:
        self._destroy(one.identity.service, one.delivery.replaces)
        one.identity.forget_replaced()

    def _destroy(self, service: str, accessors: tuple[str, ...]) -> None:
        def destroy(client: VaultClient) -> None:
            for accessor in accessors:
                body = {"secret_id_accessor": accessor}
                try:
                    client.write(self._role(service, "secret-id-accessor/lookup"), body)
                except SecretMissing:
                    continue  # destroyed by an earlier run
                client.write(self._role(service, "secret-id-accessor/destroy"), body)

        self._run.session.ask(destroy)

    def _role(self, service: str, what: str) -> str:
        return f"auth/{self._run.vault.approle_mount}/role/{service}/{what}"
