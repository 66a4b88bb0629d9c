"""The steps that set up a policy and an AppRole for each identity."""

import ipaddress
import re
from collections.abc import Sequence
from typing import Any

from bdlab.errors import VaultError
from bdlab.resources import policies_dir
from bdlab.services import BDLAB, IDENTITIES, INSPECT, RECOVERY, Deployment
from bdlab.settings import VaultSettings
from bdlab.vault.bootstrap.plan import Plan, differs, in_parallel
from bdlab.vault.client import VaultClient

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
    mounts = {
        "kv": vault.kv_mount,
        "database": vault.database_mount,
        "auth/approle": f"auth/{vault.approle_mount}",
    }

    def renamed(match: re.Match[str]) -> str:
        before, engine, kind, name = match.groups()
        name = name if engine == "kv" else deployment.own(name)
        return f"{before}{mounts.get(engine, engine)}/{kind}{name}"

    if deployment != BDLAB:  # `+` would be the AppRoles of all deployments
        text = _EACH_ROLE.sub(lambda block: "".join(block[0].replace("+", one) for one in IDENTITIES), text)
    return _PATH.sub(renamed, text)


class Policies:
    name = "policies"

    def __init__(self, plan: Plan, services: Sequence[str] = IDENTITIES) -> None:
        own = plan.deployment.own
        self._wanted = {own(name): policy_text(name, plan.vault, plan.deployment) for name in services}

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        return tuple(
            policy
            for policy, text in self._wanted.items()
            if differs(reader.read_if_present(f"sys/policies/acl/{policy}"), {"policy": text})
        )

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        def write(policy: str) -> None:
            writer.write(f"sys/policies/acl/{policy}", {"policy": self._wanted[policy]})

        in_parallel(write, pending)


class AppRoles:
    """Sets up the AppRoles. If `.env` names networks, secret ids and tokens work only from there.

    A secret id can be used again, as a restart needs it; `rotate` replaces it.
    """

    name = "identities"

    def __init__(self, plan: Plan, services: Sequence[str] = IDENTITIES) -> None:
        self._plan = plan
        self._services = services
        self._there: set[str] = set()

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        return tuple(service for service in self._services if self._differs(reader, service))

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        def write(service: str) -> None:
            new = service not in self._there and service not in {INSPECT, RECOVERY}
            defaults = {"token_period": _PERIOD_S} if new else {}
            writer.write(self._path(service), self._fixed(service) | defaults | self._chosen(service))

        in_parallel(write, pending)

    def _differs(self, reader: VaultClient, service: str) -> bool:
        found = reader.read_if_present(self._path(service))
        if found:
            self._there.add(service)
            for name in ("secret_id_bound_cidrs", "token_bound_cidrs"):
                found[name] = [
                    str(ipaddress.ip_network(cidr, strict=False)) for cidr in found.get(name) or ()
                ]
        return differs(found, self._fixed(service) | self._chosen(service))

    def _path(self, service: str) -> str:
        return f"auth/{self._plan.vault.approle_mount}/role/{self._plan.deployment.own(service)}"

    def _fixed(self, service: str) -> dict[str, Any]:
        common = {
            "token_policies": [self._plan.deployment.own(service)],
            "token_no_default_policy": True,
            "token_type": "service",
            "bind_secret_id": True,
            "secret_id_num_uses": 0,
            "secret_id_ttl": 0,
        }
        if service in {INSPECT, RECOVERY}:
            return common | {"token_ttl": _SHORT_TTL_S, "token_max_ttl": _SHORT_MAX_TTL_S}
        return common

    def _chosen(self, service: str) -> dict[str, Any]:
        """Return the values that `.env` sets."""
        seeds = self._plan.seeds
        chosen: dict[str, Any] = {}
        if seeds and seeds.cidrs is not None:
            chosen |= {"secret_id_bound_cidrs": list(seeds.cidrs), "token_bound_cidrs": list(seeds.cidrs)}
        if seeds and seeds.token_period_s is not None and service not in {INSPECT, RECOVERY}:
            chosen["token_period"] = seeds.token_period_s
        return chosen
