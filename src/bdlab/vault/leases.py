"""How long what Vault gave is good for, and when to see to it.

Times are seconds on a clock that also runs while the machine sleeps, since Vault's does.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from bdlab.credentials import DatabaseLogin
from bdlab.settings import Secret

#: A renewal that gives less than this part of the full time has met the lease's maximum: make a new one.
_ENOUGH = 0.7
_RENEW_AT = 2 / 3


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Term(msgspec.Struct, frozen=True):
    """A time-out that began at `since`: `ttl_s` now, of `full_s` at the beginning. A ttl of 0 never ends."""

    since: float
    ttl_s: float
    full_s: float
    renewable: bool = True

    @classmethod
    def begun(cls, since: float, ttl_s: float, *, renewable: bool = True) -> Term:
        """`since` is when it was asked for: Vault began to count after that."""
        return cls(since, ttl_s, ttl_s, renewable)

    def renewed(self, since: float, ttl_s: float) -> Term:
        return Term(since, ttl_s, self.full_s, self.renewable)

    @property
    def endless(self) -> bool:
        return self.ttl_s <= 0

    @property
    def left_s(self) -> float:
        return float("inf") if self.endless else self.since + self.ttl_s - now()

    @property
    def valid(self) -> bool:
        return self.left_s > 0

    @property
    def due_at(self) -> float:
        """When two thirds of it are over."""
        return float("inf") if self.endless else self.since + self.ttl_s * _RENEW_AT

    @property
    def capped(self) -> bool:
        """Whether the last renewal gave too little to go on with."""
        return not self.endless and self.ttl_s < _ENOUGH * self.full_s


class DatabaseLease(msgspec.Struct, frozen=True):
    login: DatabaseLogin
    term: Term


class TokenLease(msgspec.Struct, frozen=True):
    token: Secret
    term: Term


def lease_seconds(answer: dict[str, Any]) -> float:
    return float(answer.get("lease_duration") or 0)
