"""The state of Vault as a service sees it, for /health, /vault-status and `bdlab status`."""

from typing import Any

import msgspec

from bdlab.errors import VaultError, VaultUnavailable
from bdlab.probes import VaultState
from bdlab.vault.audit import audit_missing
from bdlab.vault.client import VaultClient
from bdlab.vault.leases import DatabaseLease, Ttl

_TIMEOUT_S = 2.0


def probe_vault(
    client: VaultClient,
    *,
    kv_path: str,
    token: Ttl | None,
    lease: DatabaseLease | None,
    wants_lease: bool,
    audit: bool = False,
) -> VaultState:
    """Ask Vault, and read a real secret: with a full audit disk Vault calls itself healthy and serves
    nothing.

    `connected` is whether it answers requests; `authenticated` whether it accepts this session's token. With
    `audit` it is also asked whether it has an audit log.
    """
    state = VaultState(
        connected=False,
        token_ttl_s=max(0.0, token.remaining_s) if token else None,
        lease_ttl_s=max(0.0, lease.ttl.remaining_s) if lease else None,
        credentials_valid=bool(token and token.valid and (not wants_lease or (lease and lease.ttl.valid))),
    )

    def changed(**fields: Any) -> None:
        nonlocal state
        state = msgspec.structs.replace(state, **fields)

    try:
        health = client.health(timeout_s=_TIMEOUT_S)
    except VaultError as error:
        changed(problem=error.message, hint=error.hint)
        return state
    changed(connected=health.serves, sealed=health.sealed)
    if not health.serves:
        changed(problem=f"{client} is {health.state}", hint=health.advice)
        return state
    kv_mount = client.settings.kv_mount
    try:
        own = client.request("get", "auth/token/lookup-self", timeout_s=_TIMEOUT_S)["data"]
        changed(authenticated=True, policies=tuple(own.get("policies") or ()), token_ttl_s=float(own["ttl"]))
        client.request("get", f"{kv_mount}/data/{kv_path}", timeout_s=_TIMEOUT_S)
        changed(secrets_engine=f"kv v2 at {kv_mount}/", unaudited=audit_missing(client) if audit else "")
    except VaultError as error:
        connected = not isinstance(error, VaultUnavailable)
        changed(connected=connected, problem=error.message, hint=error.hint)
    return state
