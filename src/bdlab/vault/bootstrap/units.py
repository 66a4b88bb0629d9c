"""What a step of the set-up is: look at what is, and change what is not as it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from bdlab.vault.client import VaultClient

T = TypeVar("T")

_AT_ONCE = 4


class Unit(Protocol):
    """One step. Both halves may be repeated at any time: a run that was killed is simply run again."""

    name: str

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        """What is missing or differs, by name; empty where all is well. Reads only."""
        ...

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        """Set up what is pending."""
        ...


def side_by_side(work: Callable[[T], object], items: Iterable[T]) -> None:
    """Do `work` for each item, a few at once: Vault makes what comes together last with one write to disk.

    What was begun is finished; then the first error is raised.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="vault-init") as pool:
        list(pool.map(work, items))


def differs(found: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    """Whether any wanted field has another value; lists are compared as sets, and None as an empty one."""
    if found is None:
        return True
    return any(_plain(found.get(name)) != _plain(value) for name, value in wanted.items())


def _plain(value: Any) -> Any:
    if value is None:
        return []
    return sorted(value) if isinstance(value, list | tuple) else value
