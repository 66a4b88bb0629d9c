"""The state of Vault as a service sees it, for /health, /vault-status and `bdlab status`."""

from __future__ import annotations

from bdlab.errors import VaultError, VaultUnavailable
from bdlab.probes import VaultState
from bdlab.vault.audit import audit_missing
from bdlab.vault.client import VaultClient
from bdlab.vault.leases import DatabaseLease, TokenLease

_TIMEOUT_S = 2.0


def probe_vault(
    client: VaultClient,
    *,
    kv_mount: str,
    kv_path: str,
    token: TokenLease | None,
    lease: DatabaseLease | None,
    wants_lease: bool,
    audit: bool = False,
) -> VaultState:
    """Ask, and read a real secret: a Vault with a full audit disk calls itself well, and answers nothing.

    `connected` is whether it answers questions; `authenticated` whether it takes this session's token. With
    `audit` it is also asked whether it keeps an audit log.
    """
    lease_ttl_s = max(0.0, lease.ttl.remaining_s) if lease else None
    token_ttl_s = max(0.0, token.ttl.remaining_s) if token else None
    held = bool(token and token.ttl.valid and (not wants_lease or (lease and lease.ttl.valid)))
    try:
        health = client.health(timeout_s=_TIMEOUT_S)
    except VaultError as error:
        return VaultState(
            connected=False,
            token_ttl_s=token_ttl_s,
            lease_ttl_s=lease_ttl_s,
            held_valid=held,
            problem=error.message,
            hint=error.hint,
        )
    connected, authenticated, problem, hint, engine = health.serves, False, "", "", ""
    policies: tuple[str, ...] = ()
    unaudited = ""
    if not health.serves:
        problem, hint = f"{client} is {health.in_words}", health.advice
    else:
        try:
            own = client.request("get", "auth/token/lookup-self", timeout_s=_TIMEOUT_S)["data"]
            authenticated = True
            policies = tuple(own.get("policies") or ())
            token_ttl_s = float(own["ttl"])
            client.request("get", f"{kv_mount}/data/{kv_path}", timeout_s=_TIMEOUT_S)
            engine = f"kv v2 at {kv_mount}/"
            unaudited = audit_missing(client) if audit else ""
        except VaultError as error:
            problem, hint = error.message, error.hint
            connected = not isinstance(error, VaultUnavailable)
    return VaultState(
        connected=connected,
        authenticated=authenticated,
        sealed=health.sealed,
        secrets_engine=engine,
        unaudited=unaudited,
        token_ttl_s=token_ttl_s,
        policies=policies,
        lease_ttl_s=lease_ttl_s,
        held_valid=held,
        problem=problem,
        hint=hint,
    )
