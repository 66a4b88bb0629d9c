"""`vault-init`: take Vault from any state to the finished set-up, one small repeatable step after the other.

A run that was killed is run again. A run that finds nothing to do writes nothing: it looks through the
`inspect` identity. One that finds something makes itself a root token that lasts minutes, with the `recovery`
identity and the recovery key, and revokes it at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bdlab.errors import PolicyDenied, TokenRefused
from bdlab.services import IDENTITIES, RECOVERY
from bdlab.vault.audit import audit_missing
from bdlab.vault.bootstrap.admin_access import Authority
from bdlab.vault.bootstrap.certificate_authorities import certification
from bdlab.vault.bootstrap.database import Connection, Roles
from bdlab.vault.bootstrap.handover import HandOver
from bdlab.vault.bootstrap.keysfile import KeysFile
from bdlab.vault.bootstrap.lock import vault_init_lock
from bdlab.vault.bootstrap.mounts import Mounts
from bdlab.vault.bootstrap.namespace import InRootNamespace, Namespace
from bdlab.vault.bootstrap.plan import Plan, Report, Step
from bdlab.vault.bootstrap.policies import AppRoles, Policies
from bdlab.vault.bootstrap.seal import initialise, unseal
from bdlab.vault.bootstrap.seeds import KeyValues
from bdlab.vault.bootstrap.units import Unit, side_by_side
from bdlab.vault.client import VaultClient

_ROOT_TOKEN = "root token"  # noqa: S105 - the name of a step


def bootstrap(plan: Plan, report: Report) -> list[Step]:
    """Do what is missing; `report` gets each step as it ends.

    Raises VaultUnavailable where Vault does not answer or open in time, VaultError where there is no way in,
    InvalidInput where `.env` is needed and missing. Nothing that was done is lost: run it again.
    """
    with contextlib.nullcontext() if plan.dry_run else vault_init_lock(plan):
        return _bootstrap(plan, report)


def _bootstrap(plan: Plan, report: Report) -> list[Step]:
    steps: list[Step] = []

    def ended(step: Step) -> None:
        steps.append(step)
        report(step)

    client = VaultClient(plan.vault)
    file = KeysFile(plan.keys_file)
    rounds = _rounds(plan, client)
    units = [unit for chains in rounds for chain in chains for unit in chain]
    try:
        for open_up in (initialise, unseal):
            step = open_up(client, plan, file)
            ended(step)
            if step.outcome == "would do":
                # Nothing more can be seen of a Vault that is not open.
                for name in (*(unit.name for unit in units), _ROOT_TOKEN):
                    ended(Step(name, "would do"))
                return steps
        authority = Authority(client, plan, file)
        try:
            for chains in rounds:
                for step in _run(chains, authority, plan):
                    ended(step)
                if isinstance(chains[0][0], Namespace) and steps[-1].outcome == "would do":
                    # Nothing can be in it yet.
                    for name in (*(unit.name for unit in units[1:]), _ROOT_TOKEN):
                        ended(Step(name, "would do"))
                    return steps
            if missing := audit_missing(authority.reader()):
                ended(Step("audit log", "unchanged", (missing,)))
            ended(_end_root(authority, plan))
        finally:
            authority.close()
    finally:
        client.close()
    return steps


def _rounds(plan: Plan, client: VaultClient) -> list[list[list[Unit]]]:
    """One round after the other; in it are chains that need nothing of each other."""
    services: tuple[str, ...] = IDENTITIES
    before: list[list[list[Unit]]] = []
    after: list[list[list[Unit]]] = []
    if client.namespace:
        services = tuple(service for service in IDENTITIES if service != RECOVERY)
        before.append([[Namespace(client.namespace)]])
    if client.namespace and plan.token is None:  # without keys nobody could use it
        only, root = (RECOVERY,), client.in_namespace("")
        log_in = Mounts(plan, log_in_only=True)
        after.append(
            [
                [
                    InRootNamespace(
                        log_in, Policies(plan, only), AppRoles(plan, only), HandOver(plan, root, only)
                    )
                ]
            ]
        )
    return [
        *before,
        [[Mounts(plan)], *certification(plan)],
        [
            [Policies(plan, services), AppRoles(plan, services)],
            [Connection(plan), Roles(plan)],
        ],
        [[KeyValues(plan)]],
        [[HandOver(plan, client, services)]],
        *after,
    ]


def _run(chains: list[list[Unit]], authority: Authority, plan: Plan) -> Iterator[Step]:
    """The steps of a round, in order. It is looked at first; its chains are then done side by side."""
    pending = {unit: _pending(unit, authority, plan) for chain in chains for unit in chain}

    def apply(chain: list[Unit]) -> None:
        for unit in chain:
            if pending[unit]:
                unit.apply(authority.writer(), pending[unit])

    if not plan.dry_run and any(pending.values()):
        authority.writer()
        if len(chains) == 1:
            apply(chains[0])  # in the main thread, where a signal can be held back
        else:
            side_by_side(apply, chains)
    for unit, names in pending.items():
        yield Step(unit.name, ("would do" if plan.dry_run else "done") if names else "unchanged", names)


def _pending(unit: Unit, authority: Authority, plan: Plan) -> tuple[str, ...]:
    try:
        return unit.pending(authority.reader())
    except (PolicyDenied, TokenRefused):
        if plan.dry_run:
            raise
        # The policy that `inspect` has in Vault may be older than this version.
        return unit.pending(authority.writer())


def _end_root(authority: Authority, plan: Plan) -> Step:
    if authority.is_first_root:
        if plan.dry_run:
            return Step(_ROOT_TOKEN, "would do", ("revoke it",))
        authority.prove_identities()
        authority.revoke_first_root()
        return Step(_ROOT_TOKEN, "done", ("revoked",))
    if authority.made_root:
        authority.close()
        return Step(_ROOT_TOKEN, "done", ("made for this run, and revoked",))
    return Step(_ROOT_TOKEN, "unchanged")


__all__ = ["Plan", "Step", "bootstrap"]
