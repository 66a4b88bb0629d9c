"""Tokens (JWT) of an identity provider, checked with the keys that it publishes (OpenID Connect Discovery)."""

import asyncio
import hashlib
import re
import time
from collections.abc import Callable
from typing import Any

import jwt
import msgspec
import structlog

from bdlab.access import SCOPES, secured
from bdlab.health.remote import fetch
from bdlab.serving.access import Caller
from bdlab.serving.problems import Problem
from bdlab.settings import HttpSettings

log = structlog.get_logger()
#: Of public keys alone: what a provider publishes is never good for signing, and no token is good unsigned.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
CLOCK_SKEW_S = 30.0
SEEN_S, MAX_SEEN = 60.0, 4096  # how long, and how many, tokens that were checked need no other check
KEYS_LAST_S = 300.0  # then the provider is asked again, and its keys are used meanwhile
ASK_EVERY_S = 5.0  # at most, however many tokens name a key that is not known


class Tokens:
    """Checks the tokens of `http.jwt_issuer` for `http.jwt_audience`. For one event loop; construction asks nobody."""

    def __init__(self, http: HttpSettings, refusal: Callable[[str, str], Problem]) -> None:
        self._issuer, self._audience, self._ca_file = http.jwt_issuer, http.jwt_audience, http.jwt_ca_file
        self._refusal = refusal
        self._seen: dict[bytes, tuple[Caller, float]] = {}
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._problem = ""

    async def caller(self, token: str) -> Caller:
        """Return whom a token names: `jwt:` and its subject, with the scopes of its claim `scope`. Raises Problem: a
        refusal, or 503 if its key is not known and the provider does not answer."""
        digest = hashlib.sha256(token.encode()).digest()
        caller, until = self._seen.get(digest, (None, 0.0))
        if caller is not None and time.time() < until:
            return caller
        try:
            key = await self._key(jwt.get_unverified_header(token).get("kid"))
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self._audience,
                issuer=self._issuer,
                leeway=CLOCK_SKEW_S,
                options={"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
            )
        except (jwt.PyJWTError, RecursionError) as error:
            reason = "expired_key" if isinstance(error, jwt.ExpiredSignatureError) else "unknown_key"
            raise self._refusal(reason, f"As a token of {self._issuer} it is refused: {error}.") from None
        said = claims.get("scope", ())
        said = said.split() if isinstance(said, str) else said
        name = "jwt:" + re.sub(r"[^!-\[\]-~]", "?", claims["sub"])[:96]  # what an event's header may have
        caller = Caller(name, frozenset(one for one in SCOPES if isinstance(said, list) and one in said))
        if self._seen.pop(digest, None) is None and len(self._seen) >= MAX_SEEN:
            del self._seen[next(iter(self._seen))]
        self._seen[digest] = caller, min(time.time() + SEEN_S, int(claims["exp"]) + CLOCK_SKEW_S)
        return caller

    async def _key(self, kid: str | None) -> jwt.PyJWK:
        now = time.monotonic()
        if kid not in self._keys or now - self._fetched_at > KEYS_LAST_S:
            if self._asking is None and now - self._asked_at >= ASK_EVERY_S:
                self._asked_at = now
                self._asking = asyncio.create_task(self._ask())
            if kid not in self._keys and self._asking is not None:
                await asyncio.shield(self._asking)
        if kid in self._keys:
            return self._keys[kid]
        if not self._problem:
            raise jwt.InvalidKeyError("its issuer does not publish the key that signed it")
        raise Problem("provider-away", f"{self._problem}. Retry a little later.")

    async def _ask(self) -> None:
        """Fetch the provider's keys; if that fails, those of before stay."""
        before = self._problem
        try:
            self._keys = await asyncio.to_thread(self._fetch)
            self._problem, self._fetched_at = "", time.monotonic()
        except Exception as error:  # noqa: BLE001 - whatever a provider publishes, the next question may succeed
            self._problem = f"The identity provider gives no keys: {error}"
        self._asking = None
        if self._problem != before:
            log.warning("identity provider", problem=self._problem or "none any more")

    def _fetch(self) -> dict[str | None, jwt.PyJWK]:
        """Return the provider's keys by their ids, a single one also by None."""
        found = self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        address = str(found.get("jwks_uri"))
        if found.get("issuer") != self._issuer or not secured(address):
            raise ValueError(f"it calls itself {found.get('issuer')!r}, with keys at {address!r}")
        published = jwt.PyJWKSet.from_dict(self._get(address)).keys
        keys = {key.key_id: key for key in published if key.public_key_use in (None, "sig")}
        return keys | ({None: next(iter(keys.values()))} if len(keys) == 1 else {})

    def _get(self, url: str) -> dict[str, Any]:
        status, body, problem = fetch(url, self._ca_file)
        if problem or status != 200:
            raise ValueError(f"{url}: {problem or f'HTTP {status}'}")
        return msgspec.json.decode(body, type=dict[str, Any])
