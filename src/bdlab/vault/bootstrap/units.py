"""What a step of the set-up is: look at what is, and change what is not as it should be."""

from __future__ import annotations

from typing import Any, Protocol

from bdlab.vault.client import VaultClient


class Unit(Protocol):
    """One step. Both halves may be repeated at any time: a run that was killed is simply run again."""

    name: str

    def pending(self, reader: VaultClient) -> tuple[str, ...]:
        """What is missing or differs, by name; empty where all is well. Reads only."""
        ...

    def apply(self, writer: VaultClient, pending: tuple[str, ...]) -> None:
        """Set up what is pending."""
        ...


def differs(found: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    """Whether any wanted field has another value; lists are compared as sets, and None as an empty one."""
    if found is None:
        return True
    return any(_plain(found.get(name)) != _plain(value) for name, value in wanted.items())


def _plain(value: Any) -> Any:
    if value is None:
        return []
    return sorted(value) if isinstance(value, list | tuple) else value
