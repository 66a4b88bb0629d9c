"""The step that mounts the engines: key-value store, database engine, AppRole log-in."""

from typing import Any

import msgspec

from bdlab.errors import BdlabError, SettingsInvalid, VaultError, VaultUnavailable
from bdlab.retry import wait_for
from bdlab.vault.bootstrap.plan import Plan
from bdlab.vault.client import VaultClient

_READY_TIMEOUT_S = 15.0


class _Mount(msgspec.Struct, frozen=True):
    """`listing` is the path where such mounts are listed, and under which one is made."""

    path: str
    listing: str
    kind: str
    options: dict[str, str] = {}

    def is_in(self, listed: dict[str, Any]) -> bool:
        """Return whether it is mounted. Raises SettingsInvalid if something else is there."""
        found = listed.get(f"{self.path}/")
        if not isinstance(found, dict):
            return False
        options = found.get("options") or {}
        if found.get("type") == self.kind and {**options, **self.options} == options:
            return True
        raise SettingsInvalid(
            f"{self.path}/ in Vault is taken by something else: it is of type {found.get('type')!r} "
            f"(options {options}), and {self.kind!r} {self.options or ''} is needed there",
            hint="Choose another path: settings vault.kv_mount, vault.database_mount, vault.approle_mount.",
        )


class Mounts:
    name = "engines"

    def __init__(self, plan: Plan, *, log_in_only: bool = False) -> None:
        vault = plan.vault
        self._kv_mount = vault.kv_mount
        log_in = _Mount(vault.approle_mount, "sys/auth", "approle")
        engines = (
            _Mount(vault.kv_mount, "sys/mounts", "kv", {"version": "2"}),
            _Mount(vault.database_mount, "sys/mounts", "database"),
        )
        self._wanted = (log_in,) if log_in_only else (*engines, log_in)

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        listed = {path: reader.request("get", path) for path in ("sys/mounts", "sys/auth")}
        return tuple(mount.path for mount in self._wanted if not mount.is_in(listed[mount.listing]))

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        for mount in self._wanted:
            if mount.path in pending:
                options = {"options": mount.options} if mount.options else {}
                writer.write(f"{mount.listing}/{mount.path}", {"type": mount.kind, **options})
        if self._kv_mount in pending:
            # HashiCorp Vault answers 400 for a moment at a new KV v2 engine.
            wait_for(
                "Vault",
                lambda: writer.read(f"{self._kv_mount}/config"),
                timeout_s=_READY_TIMEOUT_S,
                errors=_preparing,
            )


def _preparing(error: BdlabError) -> bool:
    return isinstance(error, VaultUnavailable) or type(error) is VaultError
