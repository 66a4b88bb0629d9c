"""Signing in at the identity provider of `http.jwt_issuer`: OpenID Connect, authorization code flow with PKCE."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec

from bdlab.access import secured
from bdlab.errors import BdlabError, SecretMissing, SettingsInvalid
from bdlab.settings import Settings
from bdlab.vault.session import VaultSession

_TIMEOUT_S = 5.0


class Provider:
    """The provider, for the client `console.oidc_client_id`, whose secret is read from Vault at each sign-in, if one is
    there. What fails raises BdlabError. Construction asks nobody."""

    def __init__(self, settings: Settings, session: VaultSession) -> None:
        """Raises SettingsInvalid if there is no issuer."""
        if not settings.http.jwt_issuer:
            raise SettingsInvalid("console.oidc_client_id is set, but not http.jwt_issuer, which knows the client")
        self.issuer, self._ca_file = settings.http.jwt_issuer, settings.http.jwt_ca_file
        self._console, self._session = settings.console, session

    async def begin(self, base_url: str) -> tuple[str, dict[str, str]]:
        """Return where the browser goes, and what its session keeps meanwhile. `base_url` is that of this console, if
        the settings do not say it."""
        kept = {name: secrets.token_urlsafe(32) for name in ("state", "nonce", "verifier")}
        kept["redirect_uri"] = f"{(self._console.public_url or base_url).rstrip('/')}/sign-in/back"
        challenge = base64.urlsafe_b64encode(hashlib.sha256(kept["verifier"].encode()).digest()).rstrip(b"=").decode()
        asked = {name: kept[name] for name in ("state", "nonce", "redirect_uri")}
        asked |= {"response_type": "code", "code_challenge": challenge, "code_challenge_method": "S256"}
        asked |= {"client_id": self._console.oidc_client_id, "scope": self._console.oidc_scopes}
        address = await self._address("authorization_endpoint")
        return f"{address}{'&' if '?' in address else '?'}{urlencode(asked)}", kept

    async def tokens(self, answer: Mapping[str, str], kept: Mapping[str, str]) -> list[str]:
        """Return the tokens (JWT) for the code in a provider's answer to what `kept` is of; who takes one checks it."""
        if not kept.get("state") or answer.get("state") != kept["state"]:
            raise BdlabError("this sign-in was not begun in this browser, or more than 10 minutes ago: begin again")
        if "code" not in answer:
            why = answer.get("error_description") or answer.get("error") or "it gives no code"
            raise BdlabError(f"{self.issuer} refuses the sign-in: {why[:200]}")
        client_id, secret = self._console.oidc_client_id, ""
        with suppress(SecretMissing):  # of a public client, which PKCE is for
            secret = (await asyncio.to_thread(self._session.read_secret, "oidc/console"))[0].get("client_secret", "")
        form = {"grant_type": "authorization_code", "code": answer["code"], "client_id": client_id}
        form |= {"redirect_uri": kept["redirect_uri"], "code_verifier": kept["verifier"]}
        login = (client_id, secret) if secret else None
        found = await self._ask("POST", await self._address("token_endpoint"), data=form, auth=login)
        try:  # it came from the provider itself, so that its signature proves nothing more (OpenID Core, 3.1.3.7)
            payload = base64.urlsafe_b64decode(found["id_token"].split(".")[1] + "==")
            claims = msgspec.json.decode(payload, type=dict[str, Any])
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise BdlabError(f"{self.issuer} gives no identity token") from error
        audience = claims.get("aud")
        if claims.get("nonce") != kept["nonce"] or client_id not in (
            audience if isinstance(audience, list) else [audience]
        ):
            raise BdlabError(f"the identity token of {self.issuer} is of another sign-in")
        return [token for name in ("access_token", "id_token") if (token := str(found.get(name))).count(".") == 2]

    async def _address(self, name: str) -> str:
        found = await self._ask("GET", f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        address = str(found.get(name))
        if found.get("issuer") != self.issuer or not secured(address):
            raise BdlabError(f"{self.issuer} calls itself {found.get('issuer')!r}, with the {name} {address!r}")
        return address

    async def _ask(self, method: str, url: str, **more: Any) -> dict[str, Any]:
        context = ssl.create_default_context()
        if self._ca_file:
            context.load_verify_locations(self._ca_file)
        try:
            async with httpx.AsyncClient(verify=context, trust_env=False, timeout=_TIMEOUT_S) as client:
                answer = await client.request(method, url, **more)
            found = msgspec.json.decode(answer.content, type=dict[str, Any])
        except (httpx.HTTPError, OSError, msgspec.DecodeError) as error:
            raise BdlabError(f"the identity provider does not answer as it should, at {url}: {error}") from error
        if answer.status_code != 200:
            why = found.get("error_description") or found.get("error") or f"HTTP {answer.status_code}"
            raise BdlabError(f"the identity provider does not answer as it should, at {url}: {str(why)[:200]}")
        return found
