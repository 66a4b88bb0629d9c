"""`vault-init`: take Vault from any state to the finished set-up, in small steps that can be repeated.

A run that was killed is run again. A run that finds nothing to do writes nothing: it looks with the identity `inspect`.
A run that finds something makes a root token that is valid for minutes, with the identity `recovery` and the recovery
key, and revokes it at the end."""

import contextlib
from collections.abc import Callable, Iterator

from bdlab.errors import PolicyDenied, TokenRefused
from bdlab.services import IDENTITIES, RECOVERY
from bdlab.vault.bootstrap import steps
from bdlab.vault.bootstrap.admin_access import AdminAccess, vault_init_lock
from bdlab.vault.bootstrap.database import connection, role_entries
from bdlab.vault.bootstrap.plan import Change, Plan, Step, StepOutcome, StepResult, in_parallel
from bdlab.vault.bootstrap.seal import KeysFile, initialise, unseal
from bdlab.vault.client import VaultClient

_ROOT_TOKEN = "root token"  # noqa: S105 - the name of a step


def bootstrap(plan: Plan, report: Callable[[StepResult], None]) -> list[StepResult]:
    """Do the steps that are missing, and return the result of each; `report` gets each when it is known. Raises
    VaultUnavailable if Vault does not answer or does not open in time, VaultError if no token can be had, InvalidInput
    if `.env` is needed and missing. What was done stays: run it again."""
    results: list[StepResult] = []

    def tell(*found: StepResult) -> None:
        for result in found:
            results.append(result)
            report(result)

    lock = contextlib.nullcontext() if plan.dry_run else vault_init_lock(plan)
    with lock, contextlib.closing(VaultClient(plan.vault)) as client:
        file, rounds = KeysFile(plan.keys_file), _rounds(plan, client)
        names = [step.name for chains in rounds for chain in chains for step in chain] + [_ROOT_TOKEN]
        for open_up in (initialise, unseal):
            tell(open_up(client, plan, file))
            if results[-1].outcome == "would do":
                # Nothing more can be seen of a Vault that is not open.
                tell(*(StepResult(name, "would do") for name in names))
                return results
        with contextlib.closing(AdminAccess(client, plan)) as access:
            for chains in rounds:
                tell(*_run(chains, access, plan))
                if results[-1].name == steps.NAMESPACE and results[-1].outcome == "would do":
                    # Nothing can be in it yet.
                    tell(*(StepResult(name, "would do") for name in names[1:]))
                    return results
            if missing := access.reader().audit_missing():
                tell(StepResult("audit log", "unchanged", (missing,)))
            tell(_end_root(access, plan))
    return results


def _rounds(plan: Plan, client: VaultClient) -> list[list[list[Step]]]:
    """Return the rounds, in order; the chains of steps in one round are independent of each other."""
    namespace = client.namespace
    services = tuple(service for service in IDENTITIES if not (namespace and service == RECOVERY))
    rounds: list[list[list[Step]]] = [
        [[steps.mounts(plan)], *steps.certification(plan)],
        [
            [steps.policy_entries(plan, services), steps.approle_entries(plan, services)],
            [connection(plan), role_entries(plan)],
        ],
        [[steps.key_values(plan)]],
        [[steps.secret_ids(plan, client, services)]],
    ]
    if namespace:
        rounds.insert(0, [[steps.namespace_step(namespace)]])
    if namespace and plan.token is None:  # without keys nobody could use it
        only, root = (RECOVERY,), client.in_namespace("")
        log_in, ids = steps.mounts(plan, log_in_only=True), steps.secret_ids(plan, root, only)
        in_root = (log_in, steps.policy_entries(plan, only), steps.approle_entries(plan, only), ids)
        rounds.append([[steps.root_namespace_step(*in_root)]])
    return rounds


def _run(chains: list[list[Step]], access: AdminAccess, plan: Plan) -> Iterator[StepResult]:
    """Do a round, and yield the result of each step; all are looked at before the first is done."""
    looked = [[(step, _missing(step, access, plan)) for step in chain] for chain in chains]
    found = [each for chain in looked for each in chain]

    def apply(chain: list[tuple[Step, dict[str, Change]]]) -> None:
        for step, changes in chain:
            step.apply(access.writer(), changes)

    if not plan.dry_run and any(changes for _, changes in found):
        access.writer()
        if len(looked) == 1:
            apply(looked[0])  # in the main thread, where a signal can be held back
        else:
            in_parallel(apply, looked)
    for step, changes in found:
        outcome: StepOutcome = ("would do" if plan.dry_run else "done") if changes else "unchanged"
        yield StepResult(step.name, outcome, tuple(changes))


def _missing(step: Step, access: AdminAccess, plan: Plan) -> dict[str, Change]:
    try:
        return step.missing(access.reader())
    except (PolicyDenied, TokenRefused):
        if plan.dry_run:
            raise
        # The policy of `inspect` in Vault may be of an older version.
        return step.missing(access.writer())


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
