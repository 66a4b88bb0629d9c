"""The engines: key-value store, database engine, AppRole log-in."""

from __future__ import annotations

from typing import Any

from bdlab.errors import SettingsInvalid, VaultError, VaultUnavailable
from bdlab.vault.bootstrap.plan import Plan
from bdlab.vault.client import VaultClient
from bdlab.vault.waiting import wait_for

_READY_TIMEOUT_S = 15.0


class Mounts:
    name = "engines"

    def __init__(self, plan: Plan) -> None:
        vault = plan.vault
        #: path -> (where it is listed, where it is made, type, options)
        self._wanted: dict[str, tuple[str, str, str, dict[str, str] | None]] = {
            vault.kv_mount: ("sys/mounts", f"sys/mounts/{vault.kv_mount}", "kv", {"version": "2"}),
            vault.database_mount: ("sys/mounts", f"sys/mounts/{vault.database_mount}", "database", None),
            vault.approle_mount: ("sys/auth", f"sys/auth/{vault.approle_mount}", "approle", None),
        }
        self._kv_mount = vault.kv_mount

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        listed = {path: reader.request("get", path) for path in ("sys/mounts", "sys/auth")}
        return tuple(mount for mount, wanted in self._wanted.items() if not _is_there(listed, mount, wanted))

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        for mount in pending:
            _, path, kind, options = self._wanted[mount]
            body: dict[str, Any] = {"type": kind}
            if options:
                body["options"] = options
            writer.write(path, body)
        if self._kv_mount in pending:
            wait_for(
                lambda: writer.read(f"{self._kv_mount}/config"), timeout_s=_READY_TIMEOUT_S, retry=_preparing
            )


def _preparing(error: VaultError) -> bool:
    """A new KV v2 engine of HashiCorp Vault answers 400 for a moment."""
    return isinstance(error, VaultUnavailable) or type(error) is VaultError


def _is_there(
    listed: dict[str, dict[str, Any]], mount: str, wanted: tuple[str, str, str, dict[str, str] | None]
) -> bool:
    listing, _, kind, options = wanted
    found = listed[listing].get(f"{mount}/")
    if not isinstance(found, dict):
        return False
    has = {"type": kind, **{name: (found.get("options") or {}).get(name) for name in options or {}}}
    if found.get("type") != kind or has != {"type": kind, **(options or {})}:
        raise SettingsInvalid(
            f"{mount}/ in Vault is taken by something else: it is of type {found.get('type')!r} "
            f"(options {found.get('options') or {}}), and {kind!r} {options or ''} is needed there",
            hint="Choose another path: settings vault.kv_mount, vault.database_mount, vault.approle_mount.",
        )
    return True
