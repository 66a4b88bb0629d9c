"""What `vault-init` is given, what its steps are, and what they report."""

import ipaddress
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from bdlab.credentials import DatabaseLogin, KafkaLogin
from bdlab.services import BDLAB, Deployment
from bdlab.settings import Secret, VaultSettings
from bdlab.vault.client import VaultClient

T = TypeVar("T")

_AT_ONCE = 4

StepOutcome = Literal["done", "unchanged", "would do"]


class StepResult(msgspec.Struct, frozen=True):
    """The result of one step; `details` names what was changed, or would be."""

    name: str
    outcome: StepOutcome
    details: tuple[str, ...] = ()


class Seeds(msgspec.Struct, frozen=True, kw_only=True):
    """The values of `.env`, with PostgreSQL's `administrator`. Times are in seconds; None: not set.

    The user of `kafka` is empty if each service gets generated users of its own. `kafka_authority` and
    `postgres_authority` are set if Vault itself is to sign the certificates of that server.
    """

    administrator: DatabaseLogin
    postgres_ca_pem: str = ""
    postgres_authority: bool = False
    kafka: KafkaLogin
    kafka_authority: bool = False
    cidrs: tuple[str, ...] | None = None
    token_period_s: int | None = None
    lease_ttl_s: int | None = None
    lease_max_ttl_s: int | None = None


class DatabaseManager(Protocol):
    """Sets up the database role through which Vault makes users; the set-up itself never connects there."""

    def exists(self) -> bool:
        """Return whether the role exists. Reads only."""

    def missing(self) -> tuple[str, ...]:
        """Return a line for each change that `prepare` would make, except the password. Reads only."""

    def prepare(self, password: Secret | None) -> str:
        """Make what is missing, set the role's password if one is given, and return the role's name."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of `vault-init` is to reach, and what it may use for it.

    - `token`: an administrator's token, for a Vault that was initialised elsewhere. It is not revoked.
    - `seeds`, `manager`: from `.env`; None if that is gone. They are needed until the database engine and the
      key-value engine are set up.
    - `ask_key`: is given the number of a key share and returns it; None if nobody can be asked.
    - `timeout_s`: how long to wait for a Vault that is unreachable or sealed.
    - `wrap_ttl_s`: how long a wrapped secret id can be unwrapped.
    - `certificate_authorities`: names of `pki.CERTIFICATE_AUTHORITIES` to set up, beside those of `.env`.
    - `renew`: identities that get another secret id even if theirs is valid; the former ones are destroyed.
    - `broker_folder`: where the certificate of a broker on this machine is written, if none is there; it is
      valid for `broker_ttl_s` seconds (None: one year).
    """

    vault: VaultSettings
    deployment: Deployment = BDLAB
    keys_file: Path
    seeds: Seeds | None = None
    manager: DatabaseManager | None = None
    token: Secret | None = None
    shares: int = 1
    threshold: int = 1
    ask_key: Callable[[int], Secret | None] | None = None
    timeout_s: float = 60.0
    wrap_ttl_s: int = 24 * 3600
    certificate_authorities: tuple[str, ...] = ()
    renew: tuple[str, ...] = ()
    broker_folder: Path | None = None
    broker_ttl_s: int | None = None
    dry_run: bool = False


Change = Callable[[VaultClient], object]
"""Puts one thing right in Vault."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the set-up. It can be repeated at any time, as after a run that was killed.

    - `missing`: returns by name what is missing or differs, with the change that puts it right. Reads only.
    - `at_once`: whether the changes are independent of each other; otherwise they are made in order.
    - `finish`: is called after the changes with their names.
    """

    name: str
    missing: Callable[[VaultClient], dict[str, Change]]
    at_once: bool = False
    finish: Callable[[Collection[str]], None] = lambda _names: None

    def apply(self, writer: VaultClient, changes: dict[str, Change]) -> None:
        if self.at_once:
            in_parallel(lambda change: change(writer), changes.values())
        else:
            for change in changes.values():
                change(writer)
        self.finish(changes)


def in_parallel(work: Callable[[T], object], items: Iterable[T]) -> None:
    """Do `work` for each item, a few at once, as Vault puts concurrent requests into one write to its disk.

    All are finished before the first error is raised.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="vault-init") as pool:
        list(pool.map(work, items))


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be at `path` in Vault: the fields `wanted`, and `defaults` if nothing is there yet."""

    path: str
    wanted: dict[str, Any]
    defaults: dict[str, Any] = {}

    def missing(self, reader: VaultClient) -> Change | None:
        """Return the change that writes it; None if no wanted field differs."""
        found = reader.read_if_present(self.path)
        if not _differs(found, self.wanted):
            return None
        kept = {field: (found or {}).get(field, default) for field, default in self.defaults.items()}
        return partial(VaultClient.write, path=self.path, body=kept | self.wanted)


def entries(name: str, wanted: dict[str, Entry]) -> Step:
    """Return the step that writes those of the entries, each with a name, of which a wanted field differs."""

    def missing(reader: VaultClient) -> dict[str, Change]:
        found = {each: entry.missing(reader) for each, entry in wanted.items()}
        return {each: change for each, change in found.items() if change}

    return Step(name=name, missing=missing, at_once=True)


def _differs(found: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    """Return whether any wanted field has another value; lists are compared as sets, None is empty."""
    if found is None:
        return True
    return any(_plain(name, found.get(name)) != _plain(name, value) for name, value in wanted.items())


def _plain(name: str, value: Any) -> Any:
    if name.endswith("_bound_cidrs"):
        return sorted(str(ipaddress.ip_network(cidr, strict=False)) for cidr in value or ())
    if value is None:
        return []
    return sorted(value) if isinstance(value, list | tuple) else value
