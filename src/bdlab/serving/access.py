"""Who asks: the API key or token that a request presents, what it may be used for, and how much of it."""

import hmac
import math
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from litestar.types import Send

from bdlab.access import KEY_FORM, ApiKey, ApiKeys, hash_of, required_scopes
from bdlab.serving.problems import REFUSALS, Problem
from bdlab.settings import HttpSettings

MAX_CREDENTIAL_BYTES = 8 << 10
Need = tuple[str, bool]  # the scope of a route, and whether a request without a key is refused
NEED, CALLER = "need", "bdlab.caller"
"""The keys of a Need in a route's `opt`, without which it is open, and of the Caller in an admitted request's scope."""
GIVEN = "bdlab.credentials"
_FORM = re.compile(rb"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, 2.1
_NO_HASH = hash_of("")
ADVICE = "Send one as `Authorization: Bearer KEY` or `X-API-Key: KEY`; `bdlab api-key create` makes it."


class RateLimit:
    """Lets `rate` predictions a second through, and as many at once, but at least one (GCRA)."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.most, self._clock, self._full_at = rate, max(1, int(rate)), clock, 0.0
        self._policy = b'"default";q=%d;w=%d' % (self.most, math.ceil(self.most / rate))

    def take(self, count: int) -> float:
        """Take `count` predictions and return 0; if there are not so many, take none and return when, in seconds."""
        now = self._clock()
        full_at = max(self._full_at, now) + count / self.rate
        wait_s = full_at - now - self.most / self.rate
        if wait_s <= 1e-9:
            self._full_at, wait_s = full_at, 0.0
        return wait_s

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers, from version 08 on)."""
        used_s = max(0.0, self._full_at - self._clock())
        left = int(self.most - used_s * self.rate + 1e-6)
        return [(b"ratelimit-policy", self._policy), (b"ratelimit", b'"default";r=%d;t=%d' % (left, math.ceil(used_s)))]


class Caller(msgspec.Struct, frozen=True):
    """Who asks, by a valid key or token. `name` is what the event keeps."""

    name: str
    scopes: frozenset[str]
    limit: RateLimit | None = None
    key: ApiKey | None = None


def receive_credentials(scope: Any, send: Send) -> Send:
    """Note what a request presents, and return the `send` that tells a limited caller its limit. Another scheme of
    `Authorization` than Bearer is for somebody else, such as a proxy in front."""
    given = []
    for name, value in scope["headers"]:
        if name == b"x-api-key" or (name == b"authorization" and value[:6].lower() == b"bearer"):
            given.append(value if name == b"x-api-key" else value[6:])
    if not given:
        return send
    scope[GIVEN] = given

    async def telling(message: Any) -> None:
        caller = scope.get(CALLER)
        if caller is not None and caller.limit and message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *caller.limit.headers()]}
        await send(message)

    return telling


class Gate:
    """Admits requests; `count_refusal` gets the reason of each that it refuses. Who presents a key or token believes to
    be somebody: one that is not valid is refused also where none is required. A key is looked up each time, so that it
    ends as soon as this process knows that it is revoked."""

    def __init__(
        self, keys: ApiKeys, http: HttpSettings, count_refusal: Callable[[str], None], section: str = "http"
    ) -> None:
        """Raises SettingsInvalid for require_key of the `section` or an issuer that are not valid."""
        self._keys, self._required, self._count_refusal = keys, required_scopes(http, section), count_refusal
        self._section = section
        self._callers: dict[str, Caller] = {}  # by the names of keys that were presented
        self._tokens = None
        if http.jwt_issuer:
            from bdlab.serving.tokens import Tokens  # noqa: PLC0415 - its libraries take long, and few need them

            self._tokens = Tokens(http, self._refusal)

    def need(self, scope: str) -> Need:
        return scope, scope in self._required

    async def admit(self, scope: Any, need: Need | None) -> None:
        """Note who asks. Raises Problem: one of REFUSALS, or 503 if the identity provider is away."""
        given, (wanted, required) = scope.get(GIVEN), need or ("", False)
        if required and not given:
            raise self._refusal(
                "no_key", f"It needs the scope {wanted} (setting {self._section}.require_key). {ADVICE}"
            )
        if need is None or not given:
            return
        caller = await self._caller(given)
        if required and wanted not in caller.scopes:
            why = f"{caller.name} has the scopes: {', '.join(sorted(caller.scopes)) or 'none'}. This needs {wanted}."
            raise self._refusal("scope", why, scope=wanted)
        scope[CALLER] = caller

    def spend(self, scope: Any, count: int) -> None:
        """Count predictions that are about to be made. Raises Problem if they are too many."""
        caller = scope.get(CALLER)
        if caller and (limit := caller.limit) and (wait_s := limit.take(count)):
            reason, then = "rate", "send it again after `Retry-After` seconds"
            if count > limit.most:
                reason, then, wait_s = "batch", f"send lists of up to {limit.most}", 0.0
            why = f"{caller.name} may make {limit.rate:g} predictions a second, and {limit.most} at once."
            raise self._refusal(reason, f"{why} Nothing was published: {then}.", wait_s=wait_s)

    def _refusal(self, reason: str, detail: str, *, scope: str = "", wait_s: float = 0.0) -> Problem:
        """Count a refusal for one of REFUSALS, and return it."""
        self._count_refusal(reason)
        status, title, code = REFUSALS[reason]
        found = Problem(reason.replace("_", "-"), detail, status, title)
        if status in (400, 401, 403):
            said = ['realm="bdlab"', code, scope and f'scope="{scope}"']
            found.headers["WWW-Authenticate"] = "Bearer " + ", ".join(filter(None, said))
        found.headers.update({"Retry-After": str(math.ceil(wait_s))} if wait_s else {})
        return found

    async def _caller(self, given: list[bytes]) -> Caller:
        if len(given) > 1:
            raise self._refusal("many_keys", ADVICE)
        found = given[0].strip(b" ")
        if len(found) > MAX_CREDENTIAL_BYTES or not _FORM.fullmatch(found):
            why = f"It has other characters than a key, or more than {MAX_CREDENTIAL_BYTES}."
            raise self._refusal("unknown_key", why)
        text = found.decode("ascii")
        if self._tokens is not None and not text.startswith("bdlab_"):
            return await self._tokens.caller(text)
        form = KEY_FORM.fullmatch(text)
        key = self._keys.api_keys().get(form["name"]) if form else None
        # Compared also if there is no such name: the time tells nobody which names there are.
        same = hmac.compare_digest(hash_of(form["secret"] if form else text), key.hash if key else _NO_HASH)
        if key is None or not same:
            raise self._refusal("unknown_key", f"It is not known, or was revoked. {ADVICE}")
        if key.expired(datetime.now(UTC)):
            raise self._refusal("expired_key", f"{key.name} ended at {key.expires_at}. {ADVICE}")
        caller = self._callers.get(key.name)
        if caller is None or caller.key is not key:
            limit = caller.limit if caller else None  # goes on if the key was only read again
            if (limit and limit.rate) != key.rate:
                limit = RateLimit(key.rate) if key.rate else None
            caller = self._callers[key.name] = Caller(key.name, key.scopes, limit, key)
        return caller
