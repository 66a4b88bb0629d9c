"""How long a token or a lease of Vault is valid, and when to renew it.

Times are seconds on a clock that also runs while the machine sleeps, as Vault's does."""

import math
import time
from typing import Self

import msgspec

from bdlab.credentials import DatabaseLogin


def now() -> float:
    """Return the seconds since the machine was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Ttl(msgspec.Struct, frozen=True):
    """A time to live of `ttl_s` seconds from `since` on; it was `initial_s` when first granted. `since` is when Vault
    was asked, as its own clock started later."""

    since: float
    ttl_s: float
    initial_s: float
    renewable: bool = True

    @classmethod
    def granted(cls, since: float, ttl_s: float | None, *, renewable: bool = True) -> Self:
        """Return that which Vault grants with `ttl_s` seconds; with 0 or None it never ends."""
        return cls(since, ttl_s or math.inf, ttl_s or math.inf, renewable)

    def renewed(self, since: float, ttl_s: float | None) -> Self:
        return type(self)(since, ttl_s or math.inf, self.initial_s, self.renewable)

    @property
    def remaining_s(self) -> float:
        return self.since + self.ttl_s - now()

    @property
    def valid(self) -> bool:
        return self.remaining_s > 0

    @property
    def due_at(self) -> float:
        """When to renew: after two thirds of the time."""
        return self.since + self.ttl_s * 2 / 3

    @property
    def capped(self) -> bool:
        """Whether the last renewal was cut short by the lease's maximum, so that a new one is to be got."""
        return self.ttl_s < 0.7 * self.initial_s


class DatabaseLease(msgspec.Struct, frozen=True):
    login: DatabaseLogin
    ttl: Ttl
