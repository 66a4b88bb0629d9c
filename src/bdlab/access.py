"""API keys as Vault keeps them, and the Protocol of those who know which there are."""

import hashlib
import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal, Protocol, get_args
from urllib.parse import urlsplit

import msgspec

from bdlab.errors import SettingsInvalid
from bdlab.hosts import is_this_machine
from bdlab.settings import HttpSettings

Scope = Literal["predict", "feedback", "read", "metrics", "replay", "promote"]
SCOPES: tuple[Scope, ...] = get_args(Scope)  # what a key may be for
_NAME = "[a-z][a-z0-9-]{0,39}"
NAME_FORM = re.compile(_NAME)
#: A whole key, for `fullmatch`. A name has no underscore, so there is one way to split it.
KEY_FORM = re.compile(f"bdlab_(?P<name>{_NAME})_(?P<secret>[A-Za-z0-9_-]{{43}})")
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a key, which is never the key itself: `hash` is that of its secret part (see `hash_of`). `rate`
    is in predictions per second, None is without a limit; no `expires_at` is without an end. `msgspec.convert` refuses
    a field that is missing, unknown or wrong, so that no slip in a stored entry widens what a key may do."""

    name: Annotated[str, msgspec.Meta(pattern=rf"\A{_NAME}\Z")]
    hash: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    scopes: frozenset[Scope]
    created_at: _Moment
    expires_at: _Moment | None
    rate: Annotated[float, msgspec.Meta(gt=0)] | None

    def expired(self, at: datetime) -> bool:
        """Return whether it has ended at the moment `at`, which has a time zone."""
        return self.expires_at is not None and self.expires_at <= at


class ApiKeys(Protocol):
    def api_keys(self) -> Mapping[str, ApiKey]:
        """Return the keys that are known now, by their names, expired ones too. Never blocks, never raises."""


def new_secret() -> str:
    """Return the secret part of a new key: 32 random bytes in base64url, without padding."""
    return secrets.token_urlsafe(32)


def hash_of(secret: str) -> str:
    """Return the SHA-256 of a key's secret part, in hexadecimal; one of 256 random bits needs no salt."""
    return hashlib.sha256(secret.encode()).hexdigest()


def required_scopes(http: HttpSettings, section: str = "http") -> frozenset[str]:
    """Return the scopes of `http.require_key`, whose routes need a key; if it is empty, none for an API that only this
    machine reaches, else `read`. `section` is where the setting stands. Raises SettingsInvalid, also for an issuer of
    tokens that could not be trusted."""
    if http.jwt_issuer and not (http.jwt_audience and secured(http.jwt_issuer)):
        hint = "The audience is what the provider puts into tokens for this API. http is for this machine only."
        why = f"http.jwt_issuer is {http.jwt_issuer!r}: it has to be an https URL, and http.jwt_audience has to be set"
        raise SettingsInvalid(why, hint=hint)
    listed = {each.strip() for each in http.require_key.split(",")} - {""}
    if not listed:
        return frozenset(() if is_this_machine(http.host) else ("read",))
    if unknown := sorted(listed - {"none", "all", *SCOPES}) or (len(listed) > 1 and listed & {"none", "all"}):
        hint = f"Name some of {', '.join(SCOPES)}, with commas; or none, or all, alone."
        raise SettingsInvalid(
            f"{section}.require_key: {', '.join(unknown)} in {http.require_key!r} is no scope", hint=hint
        )
    return frozenset(SCOPES) if "all" in listed else frozenset(listed - {"none"})


def secured(url: str) -> bool:
    """Return whether nobody on the way can change what `url` answers: it is https, or of this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_this_machine(parts.hostname or ""))
