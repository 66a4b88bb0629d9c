"""What Vault's responses mean, and why a request got none."""

from typing import Any, Self

import msgspec
from requests import Response

from bdlab.settings import Secret

_UNSEAL = (
    "Unseal it: `bao operator unseal`, or `bdlab vault-init` if that has the keys; one with an automatic "
    "seal opens when it is restarted."
)
_INITIALISE = "Run `bdlab vault-init`."
_ACTIVE_NODE = "Point vault.address (VAULT_ADDR) at the active node, or at a balancer that finds it."
_QUOTA = "Wait, or raise the quota that it ran into (sys/quotas/rate-limit)."

#: HTTP status: the state of Vault that it stands for, and what to do.
UNAVAILABLE = {
    412: ("is behind its cluster", ""),
    429: ("answers too many requests, or is a standby", _QUOTA),
    472: ("is a disaster-recovery standby", _ACTIVE_NODE),
    473: ("is a performance standby", _ACTIVE_NODE),
    474: ("is a standby that does not reach its active node", _ACTIVE_NODE),
    501: ("is not initialised", _INITIALISE),
    502: ("is behind a gateway that does not reach it", ""),
    503: ("is sealed or in maintenance", _UNSEAL),
    504: ("is behind a gateway that does not reach it", ""),
    530: ("was removed from its cluster", _ACTIVE_NODE),
}


class Health(msgspec.Struct, frozen=True):
    """The answer of `sys/health`. A `standby` will become active, or another node is active.

    `replication_dr_mode` is "secondary" in a cluster for disaster recovery, whose nodes serve no requests.
    """

    initialized: bool
    sealed: bool
    standby: bool = False
    replication_dr_mode: str = ""
    version: str = ""
    cluster_id: str = ""

    @property
    def active(self) -> bool:
        return self.serves and not self.standby

    @property
    def serves(self) -> bool:
        """Whether it takes requests; a standby forwards those that it cannot serve to the active node."""
        return self.initialized and not self.sealed and self.replication_dr_mode != "secondary"

    @property
    def state(self) -> str:
        if not self.initialized:
            return "not initialised"
        if self.sealed:
            return "sealed"
        if not self.serves:
            return "in a cluster for disaster recovery"
        return "a standby" if self.standby else "active"

    @property
    def advice(self) -> str:
        """What to do if it is not active."""
        if not self.initialized:
            return _INITIALISE
        return _UNSEAL if self.sealed else _ACTIVE_NODE


class Token(msgspec.Struct, frozen=True):
    """A token from a log-in or a renewal; `ttl_s` is in seconds, 0 if it never ends."""

    token: Secret
    ttl_s: float

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Self:
        return cls(Secret(answer["auth"]["client_token"]), float(answer["auth"]["lease_duration"]))


def error_text(response: Response) -> str:
    """Return Vault's error messages on one line; they hold no secret."""
    try:
        errors = msgspec.json.decode(response.content).get("errors")
    except (msgspec.DecodeError, AttributeError):
        errors = None
    words = "; ".join(" ".join(str(error).split()) for error in errors or ())
    return words or f"HTTP {response.status_code}"
