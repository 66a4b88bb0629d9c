"""Named checks and their results, shared by the HTTP API and `bdlab status`, and what they add up to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from bdlab.health.cached_probe import CachedProbe, at_once

__all__ = ["CachedProbe", "at_once"]

State = Literal["healthy", "degraded", "unhealthy", "unknown"]

#: From the best to the worst; `unknown`: the check could not be made.
ORDER: tuple[State, ...] = ("healthy", "degraded", "unknown", "unhealthy")
_TABLE = msgspec.json.decode(Path(__file__).with_name("checks.json").read_bytes(), type=dict[str, dict[str, str]])
#: Group -> its checks, in the order in which they are shown.
CHECKS = {group: tuple(checks) for group, checks in _TABLE.items()}
#: What to do about a check that is not well.
HINTS = {name: hint for checks in _TABLE.values() for name, hint in checks.items()}


class CheckResult(msgspec.Struct, frozen=True):
    """One named check: `message` says in a line what was found, `hint` what to do if it is not healthy. `detail` holds
    the figures behind the message, each with its unit in its name."""

    name: str
    state: State
    message: str = ""
    hint: str = ""
    detail: Mapping[str, Any] = {}


def healthy(name: str, message: str, /, **detail: Any) -> CheckResult:
    """Return a check that found nothing wrong."""
    return CheckResult(name, "healthy", message, detail=detail)


def unhealthy(name: str, message: str, hint: str = "", /, **detail: Any) -> CheckResult:
    """Return a check that found something wrong; without a hint it has that of checks.json."""
    return CheckResult(name, "unhealthy", message, hint or HINTS[name], detail)


def not_made(name: str, why: str, hint: str = "") -> CheckResult:
    """Return a check that could not be made."""
    return CheckResult(name, "unknown", why, hint)


class Report(msgspec.Struct, frozen=True):
    """The results of several checks."""

    checks: tuple[CheckResult, ...]

    @property
    def state(self) -> State:
        """Return the worst of the checks' states; unknown without any check."""
        return max((check.state for check in self.checks), key=ORDER.index, default="unknown")

    @property
    def healthy(self) -> bool:
        """Whether nothing is unhealthy, and everything could be checked."""
        return self.state in ("healthy", "degraded")
