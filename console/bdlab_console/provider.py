"""Signing in at the identity provider of `http.jwt_issuer`: OpenID Connect, authorization code flow with PKCE.

The token that comes back is checked as any other that is presented. A library would bring as many lines of settings."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import msgspec

from bdlab.access import secured
from bdlab.errors import BdlabError, SecretMissing
from bdlab.health.remote import fetch
from bdlab.settings import Settings
from bdlab.vault.session import VaultSession

_SECRET_PATH = "oidc/console"  # noqa: S105 - of Vault's key-value engine


class Provider:
    """The provider, for the client `console.oidc_client_id`. A client secret is read from Vault, if one is there, at
    each sign-in. Construction asks nobody."""

    def __init__(self, settings: Settings, session: VaultSession) -> None:
        self.issuer, self._ca_file = settings.http.jwt_issuer, settings.http.jwt_ca_file
        self._console, self._session = settings.console, session

    async def begin(self, base_url: str) -> tuple[str, dict[str, str]]:
        """Return where the browser goes, and what its session keeps meanwhile. `base_url` is that of this console, if
        the settings do not say it. Raises BdlabError."""
        address = self._address(await asyncio.to_thread(self._metadata), "authorization_endpoint")
        kept = {name: secrets.token_urlsafe(32) for name in ("state", "nonce", "verifier")}
        kept["redirect_uri"] = f"{(self._console.public_url or base_url).rstrip('/')}/sign-in/back"
        digest = hashlib.sha256(kept["verifier"].encode()).digest()
        asked = {name: kept[name] for name in ("state", "nonce", "redirect_uri")} | {
            "response_type": "code",
            "client_id": self._console.oidc_client_id,
            "scope": self._console.oidc_scopes,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        return f"{address}{'&' if '?' in address else '?'}{urlencode(asked)}", kept

    async def tokens(self, answer: Mapping[str, str], kept: Mapping[str, str]) -> list[str]:
        """Return the tokens (JWT) for the code in a provider's answer, which `kept` belongs to. Raises BdlabError."""
        if not kept.get("state") or answer.get("state") != kept["state"]:
            raise BdlabError("this sign-in was not begun in this browser, or more than 10 minutes ago: begin again")
        if "code" not in answer:
            why = answer.get("error_description") or answer.get("error") or "it gives no code"
            raise BdlabError(f"{self.issuer} refuses the sign-in: {why[:200]}")
        return await asyncio.to_thread(self._exchange, answer["code"], kept)

    def _exchange(self, code: str, kept: Mapping[str, str]) -> list[str]:
        client_id, secret = self._console.oidc_client_id, ""
        with suppress(SecretMissing):  # of a public client, which PKCE is for
            secret = self._session.read_secret(_SECRET_PATH)[0].get("client_secret", "")
        form = {"grant_type": "authorization_code", "code": code, "client_id": client_id}
        form |= {"redirect_uri": kept["redirect_uri"], "code_verifier": kept["verifier"]}
        found = self._ask(
            self._address(self._metadata(), "token_endpoint"), form, (client_id, secret) if secret else None
        )
        try:  # it came from the provider itself (OpenID Core, 3.1.3.7); who takes it checks its signature
            payload = base64.urlsafe_b64decode(found["id_token"].split(".")[1] + "==")
            claims = msgspec.json.decode(payload, type=dict[str, Any])
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise BdlabError(f"{self.issuer} gives no identity token") from error
        audience = [claims["aud"]] if isinstance(claims.get("aud"), str) else claims.get("aud") or []
        if claims.get("nonce") != kept["nonce"] or client_id not in audience:
            raise BdlabError(f"the identity token of {self.issuer} is of another sign-in")
        given = (str(found.get(name, "")) for name in ("access_token", "id_token"))
        return [token for token in given if token.count(".") == 2]

    def _metadata(self) -> dict[str, Any]:
        return self._ask(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")

    def _address(self, metadata: Mapping[str, Any], name: str) -> str:
        address = str(metadata.get(name))
        if metadata.get("issuer") != self.issuer or not secured(address):
            raise BdlabError(f"{self.issuer} calls itself {metadata.get('issuer')!r}, with the {name} {address!r}")
        return address

    def _ask(
        self, url: str, form: Mapping[str, str] | None = None, login: tuple[str, str] | None = None
    ) -> dict[str, Any]:
        status, body, problem = fetch(url, self._ca_file, form=form, login=login)
        try:
            found = msgspec.json.decode(body or b"{}", type=dict[str, Any])
        except msgspec.DecodeError:
            found = {}
        if problem or status != 200:
            why = problem or found.get("error_description") or found.get("error") or f"HTTP {status}"
            raise BdlabError(f"the identity provider does not answer as it should, at {url}: {str(why)[:200]}")
        return found
