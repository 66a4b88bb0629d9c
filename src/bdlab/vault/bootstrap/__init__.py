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
from bdlab.vault.bootstrap.admin_access import AdminAccess
from bdlab.vault.bootstrap.certificate_authorities import certification
from bdlab.vault.bootstrap.database import Connection, Roles
from bdlab.vault.bootstrap.keysfile import KeysFile
from bdlab.vault.bootstrap.lock import vault_init_lock
from bdlab.vault.bootstrap.mounts import Mounts
from bdlab.vault.bootstrap.namespace import InRootNamespace, Namespace
from bdlab.vault.bootstrap.plan import Plan, Report, Step, StepResult, in_parallel
from bdlab.vault.bootstrap.policies import AppRoles, Policies
from bdlab.vault.bootstrap.seal import initialise, unseal
from bdlab.vault.bootstrap.secret_ids import SecretIds
from bdlab.vault.bootstrap.seeds import KeyValues
from bdlab.vault.client import VaultClient

_ROOT_TOKEN = "root token"  # noqa: S105 - the name of a step


def bootstrap(plan: Plan, report: Report) -> list[StepResult]:
    """Do what is missing; `report` gets each step as it ends.

    Raises VaultUnavailable where Vault does not answer or open in time, VaultError where there is no way in,
    InvalidInput where `.env` is needed and missing. Nothing that was done is lost: run it again.
    """
    with contextlib.nullcontext() if plan.dry_run else vault_init_lock(plan):
        return _bootstrap(plan, report)


def _bootstrap(plan: Plan, report: Report) -> list[StepResult]:
    steps: list[StepResult] = []

    def ended(step: StepResult) -> None:
        steps.append(step)
        report(step)

    client = VaultClient(plan.vault)
    file = KeysFile(plan.keys_file)
    rounds = _rounds(plan, client)
    steps_to_do = [step for chains in rounds for chain in chains for step in chain]
    try:
        for open_up in (initialise, unseal):
            step = open_up(client, plan, file)
            ended(step)
            if step.outcome == "would do":
                # Nothing more can be seen of a Vault that is not open.
                for name in (*(step.name for step in steps_to_do), _ROOT_TOKEN):
                    ended(StepResult(name, "would do"))
                return steps
        access = AdminAccess(client, plan, file)
        try:
            for chains in rounds:
                for step in _run(chains, access, plan):
                    ended(step)
                if isinstance(chains[0][0], Namespace) and steps[-1].outcome == "would do":
                    # Nothing can be in it yet.
                    for name in (*(step.name for step in steps_to_do[1:]), _ROOT_TOKEN):
                        ended(StepResult(name, "would do"))
                    return steps
            if missing := audit_missing(access.reader()):
                ended(StepResult("audit log", "unchanged", (missing,)))
            ended(_end_root(access, plan))
        finally:
            access.close()
    finally:
        client.close()
    return steps


def _rounds(plan: Plan, client: VaultClient) -> list[list[list[Step]]]:
    """One round after the other; in it are chains that need nothing of each other."""
    services: tuple[str, ...] = IDENTITIES
    before: list[list[list[Step]]] = []
    after: list[list[list[Step]]] = []
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
                        log_in, Policies(plan, only), AppRoles(plan, only), SecretIds(plan, root, only)
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
        [[SecretIds(plan, client, services)]],
        *after,
    ]


def _run(chains: list[list[Step]], access: AdminAccess, plan: Plan) -> Iterator[StepResult]:
    """The steps of a round, in order. It is looked at first; its chains are then done side by side."""
    pending = {step: _pending(step, access, plan) for chain in chains for step in chain}

    def apply(chain: list[Step]) -> None:
        for step in chain:
            if pending[step]:
                step.apply(access.writer(), pending[step])

    if not plan.dry_run and any(pending.values()):
        access.writer()
        if len(chains) == 1:
            apply(chains[0])  # in the main thread, where a signal can be held back
        else:
            in_parallel(apply, chains)
    for step, names in pending.items():
        yield StepResult(step.name, ("would do" if plan.dry_run else "done") if names else "unchanged", names)


def _pending(step: Step, access: AdminAccess, plan: Plan) -> tuple[str, ...]:
    try:
        return step.pending(access.reader())
    except (PolicyDenied, TokenRefused):
        if plan.dry_run:
            raise
        # The policy that `inspect` has in Vault may be older than this version.
        return step.pending(access.writer())


def _end_root(access: AdminAccess, plan: Plan) -> StepResult:
    if access.is_first_root:
        if plan.dry_run:
            return StepResult(_ROOT_TOKEN, "would do", ("revoke it",))
        access.prove_identities()
        access.revoke_first_root()
        return StepResult(_ROOT_TOKEN, "done", ("revoked",))
    if access.made_root:
        access.close()
        return StepResult(_ROOT_TOKEN, "done", ("made for this run, and revoked",))
    return StepResult(_ROOT_TOKEN, "unchanged")


__all__ = ["Plan", "StepResult", "bootstrap"]
