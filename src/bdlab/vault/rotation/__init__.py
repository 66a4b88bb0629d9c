"""Replacing credentials while everything runs: the database manager's password, Kafka users, secret ids.

Each rotation can be killed at any moment and run again: it continues where it was. The new credential is written to
Vault first, then set at the server or handed over; the former one ends last, when no process uses it."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from bdlab.retry import tries
from bdlab.services import BDLAB, DAEMONS, Deployment
from bdlab.settings import VaultSettings
from bdlab.vault.client_reports import ClientReport, prune_reports
from bdlab.vault.identity import Identity
from bdlab.vault.session import VaultSession

What = Literal["database", "kafka", "approle"]
RotationOutcome = Literal["rotated", "finished", "unchanged", "incomplete", "would rotate", "would finish"]
#: The detail of a rotation that was not begun any more.
STOPPED = "asked to stop before it began"


class Rotation(msgspec.Struct, frozen=True):
    """The result for one credential; `finished` is a rotation that an earlier run had begun. `before` and `after` name
    the versions, and hold no secret. `detail` says why nothing was to be done, or what is missing: then the former
    credential still works."""

    what: What
    outcome: RotationOutcome
    service: str = ""
    detail: str = ""
    before: str = ""
    after: str = ""
    seconds: float = 0.0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of `rotate`. `session` is of the identity `rotate`; `progress` gets a line for each thing done. Running
    processes have `grace_s` seconds to report the new credential; then the former one stays valid, or ends all the same
    if `force` is set. Setting `stop` ends the wait, and the former one stays valid. With `dry_run` nothing is
    changed."""

    session: VaultSession
    vault: VaultSettings
    deployment: Deployment = BDLAB
    progress: Callable[[str], None]
    stop: threading.Event
    grace_s: float
    force: bool = False
    dry_run: bool = False

    def clients(self, service: str) -> list[ClientReport]:
        """Return the reports of the processes of `service`; none if it is no daemon. Raises VaultError."""
        if service not in DAEMONS:
            return []
        return self.session.ask(lambda client: prune_reports(client, self.identity(service)))

    def identity(self, service: str) -> Identity:
        return Identity.of(self.vault, self.deployment, service)


def wait_for_clients(
    late: Mapping[str, Callable[[], Sequence[ClientReport]]], run: Run
) -> dict[str, Sequence[ClientReport]]:
    """Wait until `late` of each service has returned no process; return those that are late in the end."""
    waiting: dict[str, Sequence[ClientReport]] = dict.fromkeys(late, ())
    told: set[str] = set()
    for _ in tries(run.grace_s, stop=run.stop, longest_s=0.2):
        waiting = {service: clients for service in waiting if (clients := late[service]())}
        lines = {f"waiting for {client}" for clients in waiting.values() for client in clients}
        for line in sorted(lines - told):
            run.progress(line)
        told |= lines
        if not waiting:
            break
    return waiting


def listed(late: Sequence[ClientReport]) -> str:
    return "; ".join(str(client) for client in late)
