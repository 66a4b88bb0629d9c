"""The steps that set up a policy, an AppRole and a secret id for each identity."""

import re
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from bdlab.errors import SecretMissing, VaultError
from bdlab.resources import policies_dir
from bdlab.services import BDLAB, IDENTITIES, INSPECT, RECOVERY, Deployment
from bdlab.settings import VaultSettings
from bdlab.vault.bootstrap.plan import Change, Entry, Plan, Step, entries
from bdlab.vault.client import VaultClient
from bdlab.vault.identity import Identity

_PERIOD_S = 3600
_SHORT_TTL_S = 300
_SHORT_MAX_TTL_S = 900
_PATH = re.compile(
    r'(?m)^(path "(?:sys/leases/revoke-prefix/)?)(kv|database|auth/approle|sys/policies)/([^/]+/)([^/"]+)'
)
_EACH_ROLE = re.compile(r'^path "auth/approle/role/\+.+?^}\n', re.MULTILINE | re.DOTALL)


def policy_text(service: str, vault: VaultSettings, deployment: Deployment) -> str:
    """Return a service's policy, with the engines' paths and the deployment's names. Raises VaultError."""
    file = policies_dir() / f"{service}.hcl"
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise VaultError(f"the policy file {file} cannot be read: {error.strerror}") from error
    mounts = {"kv": vault.kv_mount, "database": vault.database_mount, "auth/approle": f"auth/{vault.approle_mount}"}

    def renamed(match: re.Match[str]) -> str:
        before, engine, kind, name = match.groups()
        name = name if engine == "kv" else deployment.own(name)
        return f"{before}{mounts.get(engine, engine)}/{kind}{name}"

    if deployment != BDLAB:  # `+` would be the AppRoles of all deployments
        text = _EACH_ROLE.sub(lambda block: "".join(block[0].replace("+", one) for one in IDENTITIES), text)
    return _PATH.sub(renamed, text)


def policy_entries(plan: Plan, services: Sequence[str]) -> Step:
    """Return the step that sets up the policies."""
    texts = {plan.deployment.own(name): policy_text(name, plan.vault, plan.deployment) for name in services}
    paths = {name: f"sys/policies/acl/{name}" for name in texts}
    return entries("policies", {name: Entry(path=paths[name], wanted={"policy": texts[name]}) for name in texts})


def approle_entries(plan: Plan, services: Sequence[str]) -> Step:
    """Return the step that sets up the AppRoles.

    If `.env` names networks, secret ids and tokens work only from there. A secret id can be used again, as a
    restart needs it; `rotate` replaces it.
    """
    return entries("identities", {service: _approle(plan, service) for service in services})


def _approle(plan: Plan, service: str) -> Entry:
    name, seeds = plan.deployment.own(service), plan.seeds
    wanted: dict[str, Any] = {
        "token_policies": [name],
        "token_no_default_policy": True,
        "token_type": "service",
        "bind_secret_id": True,
        "secret_id_num_uses": 0,
        "secret_id_ttl": 0,
    }
    defaults = {}
    if seeds and seeds.cidrs is not None:
        wanted |= {"secret_id_bound_cidrs": list(seeds.cidrs), "token_bound_cidrs": list(seeds.cidrs)}
    if service in {INSPECT, RECOVERY}:
        wanted |= {"token_ttl": _SHORT_TTL_S, "token_max_ttl": _SHORT_MAX_TTL_S}
    elif seeds and seeds.token_period_s is not None:
        wanted["token_period"] = seeds.token_period_s
    else:
        defaults["token_period"] = _PERIOD_S
    path = f"auth/{plan.vault.approle_mount}/role/{name}"
    return Entry(path=path, wanted=wanted, defaults=defaults)


def secret_ids(plan: Plan, anonymous: VaultClient, services: Sequence[str]) -> Step:
    """Return the step that gives each folder its role id, and a wrapped secret id if it has no valid one."""
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
