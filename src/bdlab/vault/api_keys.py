"""API keys in Vault, a secret each at `api-keys/<name>`, and the ring of those that a running service knows.

A list of names would not show that a key was revoked and another made under its name between two looks. So each change
writes its key's name into `api-keys/_changes`, whose versions tell a service what to read again."""

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec
import structlog

from bdlab.access import NAME_FORM, ApiKey
from bdlab.errors import InvalidInput, PolicyDenied, SecretMissing, VaultError, VaultUnavailable
from bdlab.vault.client import VaultClient
from bdlab.vault.logins import now
from bdlab.vault.responses import refusal

_FOLDER, _CHANGES = "api-keys", "_changes"
#: The versions that Vault keeps by default; and how many known keys are read again with each look, as somebody may
#: have changed one by other means.
_KEPT, _READ_AGAIN = 10, 5
_log = structlog.get_logger()


def stored(client: VaultClient) -> dict[str, ApiKey | str]:
    """Return each name's key, or why what is stored there is none. Raises VaultError."""
    return {name: found for name in _names(client) if (found := _read(client, name)[0])}


def create(client: VaultClient, key: ApiKey) -> None:
    """Store a new key, or one in place of a key of its name that has expired. Raises InvalidInput if there is another
    one of that name, also if it came at the same time, and VaultError."""
    taken = refusal(InvalidInput, "key_taken", key=key)
    before, version = _read(client, key.name)
    if isinstance(before, str) or (before and not before.expired(datetime.now(UTC))):
        raise taken
    values = {field: value for field, value in msgspec.to_builtins(key).items() if field != "name"}
    try:
        client.write_kv(f"{_FOLDER}/{key.name}", values, cas=version)
    except VaultError as error:
        if "check-and-set" in error.message:
            raise taken from error
        raise
    client.write_kv(f"{_FOLDER}/{_CHANGES}", {"name": key.name})


def revoke(client: VaultClient, name: str) -> None:
    """Delete a key, with all versions of it. Raises InvalidInput if there is none, and VaultError."""
    if not NAME_FORM.fullmatch(name) or name not in _names(client):
        raise InvalidInput(f"there is no API key {name!r}", hint="bdlab api-key list shows those that there are.")
    client.request("delete", f"{client.settings.kv_mount}/metadata/{_FOLDER}/{name}")
    client.write_kv(f"{_FOLDER}/{_CHANGES}", {"name": name})


class KeyRing:
    """The keys that a running service knows; `keys` may be read from any thread. Construction does no I/O."""

    def __init__(self, client: VaultClient) -> None:
        self.keys: Mapping[str, ApiKey] = {}
        self._client, self._seen, self._denied = client, 0, False
        self._known: dict[str, ApiKey | str] = {}  # what was read last comes last

    def keep(self) -> float:
        """Read what has changed; return when that is due again. What was read before an error counts. Raises
        VaultError, but not if the policy is of a version without API keys: that is logged once."""
        try:
            self._look()
            self._denied = False
        except PolicyDenied as error:
            if not self._denied:
                what = "API keys cannot be read from Vault, and none is accepted but those known: run bdlab vault-init"
                _log.warning(what, known=len(self._known), problem=error.message)
            self._denied = True
        finally:
            self.keys = {name: found for name, found in self._known.items() if isinstance(found, ApiKey)}
        return now() + self._client.settings.poll_s

    def _look(self) -> None:
        # First: a change that comes after this is seen at the next look.
        last = _get(self._client, _CHANGES)
        newest = last["metadata"]["version"] if last else 0
        names = _names(self._client)
        for gone in self._known.keys() - set(names):
            del self._known[gone]
        versions = range(self._seen + 1, newest + 1)
        changes = [_get(self._client, _CHANGES, version) for version in versions[:_KEPT]]
        changed = {change["data"].get("name") for change in changes if change}
        if newest < self._seen or len(versions) > _KEPT or not all(changes):
            changed = set(names)
        due = [name for name in names if name not in self._known or name in changed]
        for name in dict.fromkeys([*due, *islice(self._known, _READ_AGAIN)]):
            before, (found, _) = self._known.get(name), _read(self._client, name)
            self._known.pop(name, None)
            if found:
                self._known[name] = found
            if isinstance(found, str) and found != before:
                # Somebody may have taken the key itself for a name: what follows its first underscore is not shown.
                shown = name.partition("_")[0]
                _log.warning("an entry in Vault is no valid API key, and lets nobody in", name=shown, problem=found)
        self._seen = newest


def _names(client: VaultClient) -> list[str]:
    try:
        found = client.request("list", f"{client.settings.kv_mount}/metadata/{_FOLDER}")["data"]["keys"]
    except SecretMissing as error:
        if "no handler" in error.message:  # there is no engine, which says nothing of the keys in it
            raise VaultUnavailable(error.message, hint=error.hint) from error
        return []
    return [name for name in found if name != _CHANGES]


def _get(client: VaultClient, name: str, version: int = 0) -> dict[str, Any] | None:
    """Return a version of a secret, 0 for the newest, with its metadata; None if it is not there."""
    return client.read_if_present(f"{client.settings.kv_mount}/data/{_FOLDER}/{name}?version={version}")


def _read(client: VaultClient, name: str) -> tuple[ApiKey | str | None, int]:
    """Return the key, or why what is stored there is none, with its version; None and 0 if nothing is."""
    if not NAME_FORM.fullmatch(name):
        return "this is no name of a key", 0
    if not (found := _get(client, name)):
        return None, 0
    try:
        return msgspec.convert({**found["data"], "name": name}, ApiKey), found["metadata"]["version"]
    except msgspec.ValidationError as error:
        return str(error), found["metadata"]["version"]
