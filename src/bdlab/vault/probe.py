"""The state of Vault as a service sees it, for /health, /vault-status and `bdlab status`."""

from typing import Any

from bdlab.errors import VaultError, VaultUnavailable
from bdlab.probes import VaultState
from bdlab.vault.client import VaultClient
from bdlab.vault.logins import LeasedDatabaseLogin, LeasedToken
from bdlab.vault.responses import TABLE


def probe_vault(token: LeasedToken, database: LeasedDatabaseLogin, *, kv_path: str, audit: bool = False) -> VaultState:
    """Ask Vault, and read a real secret: with a full audit disk Vault calls itself healthy and serves nothing. With
    `audit` it is also asked whether it has an audit log."""
    client, lease = token.client, database.lease
    found: dict[str, Any] = {
        "connected": False,
        "token_ttl_s": max(0.0, token.ttl.remaining_s) if token.ttl else None,
        "lease_ttl_s": max(0.0, lease.ttl.remaining_s) if lease else None,
        "credentials_valid": token.valid and (database.valid or not database.role),
    }
    kv_mount, at_most = client.settings.kv_mount, 2.0
    try:
        health = client.health(timeout_s=at_most)
        found["sealed"] = health.sealed
        if not health.serves:
            raise VaultUnavailable(f"{client} is {health.state}", hint=health.advice)
        found["connected"] = True
        own = client.request("get", "auth/token/lookup-self", timeout_s=at_most)["data"]
        policies = tuple(own.get("policies") or ())
        found |= {"authenticated": True, "policies": policies, "token_ttl_s": float(own["ttl"])}
        client.request("get", f"{kv_mount}/data/{kv_path}", timeout_s=at_most)
        found["secrets_engine"] = f"kv v2 at {kv_mount}/"
        found["unaudited"] = audit_missing(client) if audit else ""
    except VaultError as error:
        found |= {"problem": error.message, "hint": error.hint}
        found["connected"] &= not isinstance(error, VaultUnavailable)
    return VaultState(**found)


def audit_missing(client: VaultClient) -> str:
    """Return how to enable an audit log; empty if there is one, or if this token may not see it. HashiCorp Vault has
    none until somebody enables it."""
    try:
        return "" if client.read("sys/audit") else TABLE["advice"]["audit"]
    except VaultError:
        return ""  # an older policy, or a token of a namespace
