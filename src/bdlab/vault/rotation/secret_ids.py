"""The services' secret ids: another is handed over, wrapped; the former one is destroyed once nobody uses it.

The receiver is the running service, which unwraps what lies in its folder and logs in with it. If no process runs from
that folder, as with a command that somebody types now and then, `rotate` unwraps it in its place, as its next run
would. What is to be destroyed is noted beside the wrapped secret id (see `vault.identity`), so that a run that was
killed can be run again. Only the secret ids of these folders are touched: another machine has others."""

from collections.abc import Iterator, Sequence
from functools import partial

import structlog

from bdlab.errors import IdentityRefused
from bdlab.vault.client import VaultClient
from bdlab.vault.client_reports import ClientReport
from bdlab.vault.logins import now
from bdlab.vault.rotation import STOPPED, Rotation, RotationOutcome, Run, listed, wait_for_clients

_log = structlog.get_logger()


class _SecretIdRotation:
    """The rotation of one service's secret id. `refusal` is why the new one could not be tried."""

    def __init__(self, run: Run, anonymous: VaultClient, service: str) -> None:
        self._run, self._anonymous, self._began = run, anonymous, now()
        self.identity = run.identity(service)
        last = self.identity.wrapped_secret_id()
        self._accessor, self._replaces = (last.accessor, last.replaces) if last else ("", ())
        self.resumed = bool(self._replaces)
        self.refusal = ""

    def hand_over(self) -> None:
        """Put another secret id, wrapped, into the folder, unless one of an earlier run is unused."""
        spent, former = self.identity.spent(self._anonymous), [self._accessor] if self._accessor else []
        if former and spent:
            # It was lost, or somebody else has it.
            _log.warning("a secret id that was handed over is spent; it ends", service=self.identity.service)
            self._destroy(former)
        if self.resumed and not spent:
            return
        replaces = self._replaces if spent else (*former, *self._replaces)
        hand_over = partial(self.identity.hand_over, wrap_ttl_s=24 * 3600, replaces=replaces)
        new = self._run.session.ask(hand_over)
        self._accessor, self._replaces = new.accessor, new.replaces

    def late(self) -> list[ClientReport]:
        """Return the processes that use the former one; try the new one if there are none."""
        clients = self._run.clients(self.identity.service)
        found = [client for client in clients if client.secret_id in self._replaces]
        if not found:
            self.prove()
        return found

    def prove(self) -> None:
        """Unwrap it if nobody has, and log in with it once."""
        role_id, secret_id = self.identity.obtain(self._anonymous)
        try:
            token = self._anonymous.log_in(role_id, secret_id)
        except IdentityRefused as error:
            clients = self._run.clients(self.identity.service)
            # If it is bound to networks, it may work for the service and not from here.
            if not any(client.secret_id == self._accessor for client in clients):
                self.refusal = error.message
            return
        self._anonymous.with_token(token.token).revoke_self()

    def destroy_former(self) -> None:
        self._destroy(self._replaces)
        self.identity.forget_replaced()

    def result(self, outcome: RotationOutcome, detail: str = "") -> Rotation:
        planned = outcome.startswith("would")
        before = self._replaces[0] if self._replaces else self.identity.accessor if planned else ""
        after, seconds = ("", 0.0) if planned else (self._accessor, now() - self._began)
        return Rotation("approle", outcome, self.identity.service, detail, before[:8], after[:8], seconds)

    def _destroy(self, accessors: Sequence[str]) -> None:
        self._run.session.ask(lambda client: self.identity.destroy(client, accessors))


def rotate_secret_ids(run: Run, services: Sequence[str]) -> Iterator[Rotation]:
    """Rotate the secret ids of `services`, and yield each result. Raises VaultError, and IdentityRefused with an ALARM
    if somebody else has unwrapped one that was handed over; run again, it continues."""
    anonymous = VaultClient(run.vault)
    begun: dict[str, _SecretIdRotation] = {}
    for service in services:
        if run.stop.is_set():
            yield Rotation("approle", "incomplete", service, STOPPED)
            continue
        one = _SecretIdRotation(run, anonymous, service)
        if not one.identity.exists:
            detail = f"no identity of it is in {one.identity.folder.parent}"
            yield Rotation("approle", "unchanged", service, detail)
        elif run.dry_run:
            yield one.result("would finish" if one.resumed else "would rotate")
        else:
            one.hand_over()
            begun[service] = one
            run.progress(f"approle {service}: a secret id lies wrapped in {one.identity.folder}")
    late = wait_for_clients({service: one.late for service, one in begun.items()}, run)
    for service, one in begun.items():
        waiting = late.get(service, ())
        if waiting and run.force and not run.stop.is_set():
            one.prove()
        elif waiting:
            one.refusal = f"not reported: {listed(waiting)}"
        if one.refusal:
            yield one.result("incomplete", f"{one.refusal}; the former secret id still works")
            continue
        one.destroy_former()
        yield one.result("finished" if one.resumed else "rotated")
