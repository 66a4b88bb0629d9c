"""The database engine's own password, and the logins that it has given out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bdlab.vault.bootstrap.database import ROLES
from bdlab.vault.bootstrap.plan import DATABASE
from bdlab.vault.client import VaultClient
from bdlab.vault.leases import now
from bdlab.vault.rotation.plan import Rotation, Run

#: Vault answers when every session at the database has ended, each of which may take seconds.
_REVOKE_S = 120.0


def rotate_manager(run: Run) -> Rotation:
    """Let Vault give the role through which it makes users another password, which it tells nobody.

    The logins that were given out stay as they are. Raises VaultError.
    """
    began = now()
    if not run.dry_run:
        path = f"{run.vault.database_mount}/rotate-root/{DATABASE}"
        run.session.ask(lambda client: client.write(path))
    return Rotation(
        what="database",
        service="manager",
        outcome="would rotate" if run.dry_run else "rotated",
        after="known to Vault alone",
        seconds=now() - began,
    )


def end_logins(run: Run) -> Iterator[Rotation]:
    """End every login of each role at once; who has one takes a fresh one. Raises VaultError."""
    for role in ROLES:
        began = now()
        if not run.dry_run:
            run.session.ask(_revoking(f"sys/leases/revoke-prefix/{run.vault.database_mount}/creds/{role}"))
        yield Rotation(
            what="database",
            service=role,
            outcome="would rotate" if run.dry_run else "rotated",
            before="every login",
            after="fresh ones",
            seconds=now() - began,
        )


def _revoking(path: str) -> Callable[[VaultClient], object]:
    return lambda client: client.request("post", path, {"sync": True}, timeout_s=_REVOKE_S)
