"""The step that gives each identity's folder its role id, and a wrapped secret id if it has no valid one."""

from collections.abc import Collection, Sequence
from functools import partial

from bdlab.errors import SecretMissing
from bdlab.services import INSPECT, RECOVERY
from bdlab.vault.bootstrap.plan import Change, Plan, Step
from bdlab.vault.client import VaultClient
from bdlab.vault.identity import Identity


def secret_ids(plan: Plan, anonymous: VaultClient, services: Sequence[str]) -> Step:
    """Return the step for these services."""
    identities = {service: Identity.of(plan.vault, plan.deployment, service) for service in services}

    def missing(reader: VaultClient) -> dict[str, Change]:
        return {
            service: partial(hand_over, service)
            for service, identity in identities.items()
            if service in plan.renew or not _is_valid(identity, reader, anonymous)
        }

    def hand_over(service: str, writer: VaultClient) -> None:
        identity = identities[service]
        before = identity.wrapped_secret_id()
        replaces = before.replaces if before else ()
        # A secret id handed over earlier ends: it was lost, or somebody else has it, or another is asked for.
        ended = [before.accessor] if before else []
        if service in plan.renew:
            ended, replaces = [*ended, identity.accessor, *replaces], ()
        identity.destroy(writer, filter(None, ended))
        identity.hand_over(writer, wrap_ttl_s=plan.wrap_ttl_s, replaces=replaces)

    def obtain(handed_over: Collection[str]) -> None:
        # Unwrapped here: vault-init itself is the receiver, and a command may not be run in time.
        renewed = set(plan.renew).intersection(handed_over)
        for service in {INSPECT, RECOVERY, *renewed}.intersection(services):
            identities[service].obtain(anonymous)

    return Step(name="secret ids", missing=missing, at_once=True, finish=obtain)


def _is_valid(identity: Identity, reader: VaultClient, anonymous: VaultClient) -> bool:
    if not identity.exists:
        return False
    role = identity.role(reader)
    try:
        role_id = str(reader.read(f"{role}/role-id")["role_id"])
    except SecretMissing:
        return False
    if identity.role_id() != role_id:
        return False
    wrapped = identity.wrapping_token()
    if wrapped and anonymous.wrapped_at(wrapped):
        return True
    secret_id = identity.secret_id()
    # If a spent one lies there, the service refuses the older one, and somebody else may have the new one.
    if secret_id is None or identity.spent(anonymous):
        return False
    # Vault answers 204 without a body if it does not know the id.
    return bool(reader.write(f"{role}/secret-id/lookup", {"secret_id": secret_id.reveal()}))
