"""The step that mounts the engines: key-value store, database engine, AppRole log-in."""

from typing import Any

import msgspec

from bdlab.errors import BdlabError, SettingsInvalid, VaultError, VaultUnavailable
from bdlab.retry import wait_for
from bdlab.vault.bootstrap.plan import Change, Plan, Step
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

    def make(self, writer: VaultClient) -> None:
        options = {"options": self.options} if self.options else {}
        writer.write(f"{self.listing}/{self.path}", {"type": self.kind, **options})
        if self.kind == "kv":
            # HashiCorp Vault answers 400 for a moment at a new KV v2 engine.
            wait_for("Vault", lambda: writer.read(f"{self.path}/config"), timeout_s=_READY_TIMEOUT_S, errors=_preparing)


def mounts(plan: Plan, *, log_in_only: bool = False) -> Step:
    """Return the step that mounts the engines, or only the log-in."""
    vault = plan.vault
    wanted = (
        _Mount(vault.kv_mount, "sys/mounts", "kv", {"version": "2"}),
        _Mount(vault.database_mount, "sys/mounts", "database"),
        _Mount(vault.approle_mount, "sys/auth", "approle"),
    )[-1 if log_in_only else 0 :]

    def missing(reader: VaultClient) -> dict[str, Change]:
        listed = {path: reader.request("get", path) for path in ("sys/mounts", "sys/auth")}
        return {mount.path: mount.make for mount in wanted if not mount.is_in(listed[mount.listing])}

    return Step(name="engines", missing=missing)


def _preparing(error: BdlabError) -> bool:
    return isinstance(error, VaultUnavailable) or type(error) is VaultError
