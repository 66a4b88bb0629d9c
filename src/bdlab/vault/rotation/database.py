"""The database engine's own password, and the logins that it has given out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bdlab.errors import VaultError
from bdlab.services import CONNECTION, DATABASE_ROLES, SWEEP
from bdlab.settings import VaultSettings
from bdlab.vault.client import VaultClient
from bdlab.vault.leases import now
from bdlab.vault.rotation.plan import Rotation, RotationOutcome, Run

#: Vault answers when every session at the database has ended, each of which may take seconds.
_REVOKE_S = 120.0


def rotate_manager(run: Run) -> Rotation:
    """Let Vault give the role through which it makes users another password, which it tells nobody.

    The logins that were given out stay as they are. Raises VaultError.
    """
    began = now()
    if not run.dry_run:
        path = f"{run.vault.database_mount}/rotate-root/{CONNECTION}"
        run.session.ask(lambda client: client.write(path))
    return Rotation(
        what="database",
        service="manager",
        outcome="would rotate" if run.dry_run else "rotated",
        after="known to Vault alone",
        seconds=now() - began,
    )


def end_logins(run: Run) -> Iterator[Rotation]:
    """End every login of each role at once, the owner's first; who has one takes a fresh one.

    A role whose logins cannot be ended keeps none of the others from it: its outcome is `incomplete`.
    """
    for role in DATABASE_ROLES:
        path = f"sys/leases/revoke-prefix/{run.vault.database_mount}/creds/{role.name}"
        yield _tried(run, role.name, _revoking(path), "every login", "fresh ones")


def drop_left_behind(run: Run) -> Rotation:
    """Drop the logins that were ended and could not be dropped, and end what sessions they have.

    `incomplete`, with their names and the reasons, where some cannot be dropped now either.
    """
    return _tried(run, "left behind", lambda client: sweep(client, run.vault), "ended logins", "dropped")


def sweep(client: VaultClient, vault: VaultSettings) -> None:
    """Let Vault drop them. Raises VaultError, which names those that it cannot drop."""
    client.request("get", f"{vault.database_mount}/creds/{SWEEP}", timeout_s=_REVOKE_S)


def _tried(run: Run, what: str, work: Callable[[VaultClient], object], before: str, after: str) -> Rotation:
    began = now()
    outcome: RotationOutcome = "would rotate" if run.dry_run else "rotated"
    detail = ""
    if not run.dry_run:
        try:
            run.session.ask(work)
        except VaultError as error:
            outcome, after, detail = "incomplete", "", error.message
    seconds = now() - began
    return Rotation(
        what="database",
        service=what,
        outcome=outcome,
        before=before,
        after=after,
        seconds=seconds,
        detail=detail,
    )


def _revoking(path: str) -> Callable[[VaultClient], object]:
    return lambda client: client.request("post", path, {"sync": True}, timeout_s=_REVOKE_S)
