"""What the rotations have in common: what is error_text of each, and how long clients are waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from bdlab.retry import tries
from bdlab.services import DAEMONS
from bdlab.settings import VaultSettings
from bdlab.vault.client_reports import ClientReport, prune_reports
from bdlab.vault.session import VaultSession

What = Literal["database", "kafka", "approle"]
RotationOutcome = Literal["rotated", "finished", "unchanged", "incomplete", "would rotate", "would finish"]

#: The detail of what was not begun any more.
STOPPED = "asked to stop before it began"

_LOOK_AGAIN_S = 0.2


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one credential. `finished` is one that an earlier run had begun.

    `before` and `after` name the versions, and hold no secret. `detail` says why nothing was to be done, or
    what is missing: then the older credential still works.
    """

    what: What
    service: str = ""
    outcome: RotationOutcome
    before: str = ""
    after: str = ""
    seconds: float = 0.0
    detail: str = ""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """`session` is one of the identity `rotate`. `progress` gets a line for what is done or waited for.

    Running clients may take `grace_s` seconds; then the older credential is left as it is, or with `force`
    ends all the same. Setting `stop` ends the wait, and the older one is left. A `dry_run` changes nothing.
    """

    session: VaultSession
    vault: VaultSettings
    progress: Callable[[str], None]
    stop: threading.Event
    grace_s: float
    force: bool = False
    dry_run: bool = False

    def clients(self, service: str) -> list[ClientReport]:
        """The running clients that report for `service`; none for a command that soon ends."""
        if service not in DAEMONS:
            return []
        folder = self.identities / service
        return self.session.ask(
            lambda client: prune_reports(client, kv_mount=self.vault.kv_mount, service=service, folder=folder)
        )

    @property
    def identities(self) -> Path:
        """The folder of the services' identities."""
        return Path(self.vault.identity_dir).expanduser()


def wait_for_clients(
    late: Callable[[str], Sequence[ClientReport]],
    services: Sequence[str],
    run: Run,
    *,
    settled: Callable[[str], None] = lambda _service: None,
) -> dict[str, Sequence[ClientReport]]:
    """Wait until `late` gives nobody for each service; who was still late when the time was over.

    `settled` is called once for each service that nobody is late for.
    """
    open_: dict[str, Sequence[ClientReport]] = dict.fromkeys(services, ())
    told: set[str] = set()
    for _ in tries(run.grace_s, stop=run.stop, longest_s=_LOOK_AGAIN_S):
        for service in tuple(open_):
            open_[service] = late(service)
            if not open_[service]:
                del open_[service]
                settled(service)
        names = {f"waiting for {client}" for clients in open_.values() for client in clients}
        for line in sorted(names - told):
            run.progress(line)
        told |= names
        if not open_:
            break
    return open_


def in_words(late: Sequence[ClientReport]) -> str:
    return "; ".join(str(client) for client in late)
