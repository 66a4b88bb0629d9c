"""The step that gives each identity's folder its role id, and a wrapped secret id if it has no valid one."""

from collections.abc import Sequence

from bdlab.errors import SecretMissing
from bdlab.services import IDENTITIES, INSPECT, RECOVERY
from bdlab.vault.bootstrap.plan import Plan, in_parallel
from bdlab.vault.client import VaultClient
from bdlab.vault.identity import Identity


class SecretIds:
    name = "secret ids"

    def __init__(self, plan: Plan, anonymous: VaultClient, services: Sequence[str] = IDENTITIES) -> None:
        self._plan = plan
        self._services = services
        self._anonymous = anonymous

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        renew = self._plan.renew
        return tuple(name for name in self._services if name in renew or not self._is_valid(reader, name))

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        renewed = [name for name in pending if name in self._plan.renew]

        def hand_over(service: str) -> None:
            identity = self._identity(service)
            before = identity.wrapped_secret_id()
            replaces = before.replaces if before else ()
            # A secret id handed over earlier ends: it was lost, or somebody else has it, or another is asked
            # for.
            ended = [before.accessor] if before else []
            if service in renewed:
                ended, replaces = [*ended, identity.accessor, *replaces], ()
            identity.destroy(writer, filter(None, ended))
            identity.hand_over(writer, wrap_ttl_s=self._plan.wrap_ttl_s, replaces=replaces)

        in_parallel(hand_over, pending)
        # Unwrapped here: vault-init itself is the receiver, and a command may not be run in time.
        for service in {INSPECT, RECOVERY, *renewed}.intersection(self._services):
            self._identity(service).obtain(self._anonymous)

    def _is_valid(self, reader: VaultClient, service: str) -> bool:
        identity = self._identity(service)
        if not identity.exists:
            return False
        try:
            role_id = str(reader.read(self._role(service, "role-id"))["role_id"])
        except SecretMissing:
            return False
        if identity.role_id() != role_id:
            return False
        wrapped = identity.wrapping_token()
        if wrapped and self._anonymous.wrapped_at(wrapped):
            return True
        secret_id = identity.secret_id()
        # If a spent one lies there, the service refuses the older one, and somebody else may have the new
        # one.
        if secret_id is None or identity.spent(self._anonymous):
            return False
        # Vault answers 204 without a body if it does not know the id.
        found = reader.write(self._role(service, "secret-id/lookup"), {"secret_id": secret_id.reveal()})
        return bool(found)

    def _identity(self, service: str) -> Identity:
        return Identity(self._plan.vault.identities / self._plan.deployment.own(service), service=service)

    def _role(self, service: str, what: str) -> str:
        return f"auth/{self._plan.vault.approle_mount}/role/{self._plan.deployment.own(service)}/{what}"
