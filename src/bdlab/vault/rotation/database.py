"""The password of the database engine's own user, and the logins that the engine has given out."""

from collections.abc import Callable, Iterator
from functools import partial

from bdlab.errors import VaultError
from bdlab.services import CONNECTION, DATABASE_ROLES, SWEEP, Deployment
from bdlab.vault.client import VaultClient
from bdlab.vault.logins import now
from bdlab.vault.rotation import Rotation, RotationOutcome, Run

#: Vault answers when every session in the database has ended; each may take seconds.
_REVOKE_S = 120.0


def rotate_manager(run: Run) -> Rotation:
    """Let Vault set a new password, which only Vault knows, for the role through which it makes users. The logins that
    were given out stay valid. Raises VaultError."""
    began = now()
    outcome: RotationOutcome = "would rotate" if run.dry_run else "rotated"
    if not run.dry_run:
        path = f"{run.vault.database_mount}/rotate-root/{run.deployment.own(CONNECTION)}"
        run.session.ask(lambda client: client.write(path))
    return Rotation("database", outcome, "manager", after="known to Vault alone", seconds=now() - began)


def end_logins(run: Run) -> Iterator[Rotation]:
    """Revoke all logins of each role, the owner's first, and yield each result; services get new logins. If the logins
    of one role cannot be revoked, its outcome is `incomplete`, and the next role follows."""
    for name in (run.deployment.own(role.name) for role in DATABASE_ROLES):
        path = f"sys/leases/revoke-prefix/{run.vault.database_mount}/creds/{name}"
        revoke = partial(VaultClient.request, method="post", path=path, body={"sync": True}, timeout_s=_REVOKE_S)
        yield _attempt(run, name, revoke, "every login", "fresh ones")


def drop_left_behind(run: Run) -> Rotation:
    """Drop the users whose logins ended and that could not be dropped then, and end their sessions. The outcome is
    `incomplete`, with names and reasons, if some cannot be dropped now either."""
    return _attempt(run, "left behind", lambda client: sweep(client, run.deployment), "ended logins", "dropped")


def sweep(client: VaultClient, deployment: Deployment) -> None:
    """Let Vault drop the users that are left behind. Raises VaultError, which names those that it cannot drop."""
    path = f"{client.settings.database_mount}/creds/{deployment.own(SWEEP)}"
    client.request("get", path, timeout_s=_REVOKE_S)


def _attempt(run: Run, what: str, work: Callable[[VaultClient], object], before: str, after: str) -> Rotation:
    began = now()
    outcome: RotationOutcome = "would rotate" if run.dry_run else "rotated"
    detail = ""
    if not run.dry_run:
        try:
            run.session.ask(work)
        except VaultError as error:
            outcome, after, detail = "incomplete", "", error.message
    return Rotation("database", outcome, what, detail, before, after, now() - began)
