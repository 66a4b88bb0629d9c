"""What Vault's responses mean, and why a request got none."""

import tomllib
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
from requests import Response

from bdlab.errors import BdlabError
from bdlab.settings import Secret

_Error = TypeVar("_Error", bound=BdlabError)
TABLE: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
_ADVICE: dict[str, str] = TABLE["advice"]
#: HTTP status: the state of Vault that it stands for, and what to do.
UNAVAILABLE = {int(status): (state, _ADVICE.get(name, "")) for status, (state, name) in TABLE["unavailable"].items()}


class Health(msgspec.Struct, frozen=True):
    """The answer of `sys/health`. A `standby` will become active, or another node is active. `replication_dr_mode` is
    "secondary" in a cluster for disaster recovery, whose nodes serve no requests."""

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
            return _ADVICE["initialise"]
        return _ADVICE["unseal" if self.sealed else "active_node"]


class Token(msgspec.Struct, frozen=True):
    """A token from a log-in or a renewal; `ttl_s` is in seconds, 0 if it never ends."""

    token: Secret
    ttl_s: float

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Self:
        return cls(Secret(answer["auth"]["client_token"]), float(answer["auth"]["lease_duration"]))


def refusal(kind: type[_Error], name: str, **values: object) -> _Error:
    """Return an error with the text and the advice of this name, in which `values` are filled in."""
    text: dict[str, str] = TABLE["refusals"][name]
    return kind(text["what"].format(**values), hint=text["hint"].format(**values))


def error_text(response: Response) -> str:
    """Return Vault's error messages on one line; they hold no secret."""
    try:
        errors = msgspec.json.decode(response.content).get("errors")
    except (msgspec.DecodeError, AttributeError):
        errors = None
    words = "; ".join(" ".join(str(error).split()) for error in errors or ())
    return words or f"HTTP {response.status_code}"
