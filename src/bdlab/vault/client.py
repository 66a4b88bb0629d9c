"""A thin client of Vault's HTTP API: every response that is no success becomes one of `bdlab.errors`."""

import copy
from collections.abc import Mapping
from typing import Any, Literal, Self

import hvac
import hvac.adapters
import msgspec
import requests

from bdlab.errors import (
    IdentityRefused,
    PolicyDenied,
    SecretMissing,
    SettingsInvalid,
    TokenRefused,
    VaultError,
    VaultUnavailable,
)
from bdlab.reachability import root_cause, wrong_scheme
from bdlab.settings import ProxyUrl, Secret, VaultSettings
from bdlab.vault.responses import TABLE, UNAVAILABLE, Health, Token, error_text, refusal

Method = Literal["get", "post", "put", "delete", "list"]
_LOOKUP_SELF = "auth/token/lookup-self"
_NOBODY = Secret("")


class VaultClient:
    """One server, one token. Construction does no I/O; safe to use from several threads. Every call raises
    VaultUnavailable (unreachable, sealed, not initialised, overloaded, failing), TokenRefused (the token is not valid),
    PolicyDenied (the token is valid and may not), SecretMissing (nothing is there), VaultError (another refusal, with
    Vault's reason) or SettingsInvalid (no usable address)."""

    def __init__(self, settings: VaultSettings, *, token: Secret | None = None) -> None:
        self.settings = settings
        self.address = settings.address
        self.token = token or _NOBODY
        namespace = settings.namespace.strip("/")
        self.namespace = "" if namespace == "root" else namespace
        self._proxy, no_proxy = settings.proxy, settings.no_proxy
        # An empty `no_proxy` would make this read the environment.
        if self._proxy.reveal() and no_proxy and requests.utils.should_bypass_proxies(self.address, no_proxy):
            self._proxy = ProxyUrl("")
        # A token or certificate of None would make hvac take one from the environment or from ~/.vault-token.
        self._hvac = hvac.Client(
            url=settings.address,
            token="",
            cert=(),
            verify=settings.ca_file or True,
            timeout=settings.timeout_s,
            proxies=dict.fromkeys(("http", "https"), proxy_url) if (proxy_url := self._proxy.reveal()) else {},
            adapter=hvac.adapters.RawAdapter,
        )
        # Take no proxy, authority or ~/.netrc password from the environment.
        self._hvac.adapter.session.trust_env = False

    def __str__(self) -> str:
        more = {"namespace": self.namespace, "through the proxy": self._proxy.shown}
        told = ", ".join(f"{what} {value}" for what, value in more.items() if value)
        return f"Vault at {self.address}" + (f" ({told})" if told else "")

    def with_token(self, token: Secret) -> Self:
        """Return this client, with its namespace and connections, with another token."""
        client = copy.copy(self)
        client.token = token
        return client

    def in_namespace(self, namespace: str) -> Self:
        """Return this client, with its token and connections, in another namespace; empty is the root one."""
        client = copy.copy(self)
        client.namespace = namespace
        return client

    def close(self) -> None:
        self._hvac.adapter.close()

    def request(
        self,
        method: Method,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        wrap_ttl_s: int | None = None,
    ) -> dict[str, Any]:
        """Make a request, and return the JSON object of the response, or an empty one. With `wrap_ttl_s` Vault wraps
        the response in a token that can be unwrapped once within that time."""
        return self._answer(method, path, self._send(method, path, body, timeout_s=timeout_s, wrap_ttl_s=wrap_ttl_s))

    def read(self, path: str) -> dict[str, Any]:
        """Return the `data` of the response to a GET. Raises SecretMissing if nothing is there."""
        return _data(self.request("get", path))

    def read_if_present(self, path: str) -> dict[str, Any] | None:
        """Return what `read` returns, or None if nothing is there."""
        try:
            return self.read(path)
        except SecretMissing:
            return None

    def write(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the `data` of the response to a POST; empty if there is none."""
        return _data(self.request("post", path, body or {}))

    def download(self, path: str) -> bytes:
        """Return the body of the response to a GET."""
        return self._checked("get", path, self._send("get", path)).content

    def upload(self, path: str, content: bytes, *, timeout_s: float) -> None:
        """POST `content` as it is."""
        self._checked("post", path, self._send("post", path, content=content, timeout_s=timeout_s))

    def health(self, *, timeout_s: float | None = None) -> Health:
        """Return the answer of `sys/health`. Raises VaultUnavailable if nothing answers, or no Vault."""
        response = self._send("get", "sys/health", timeout_s=timeout_s, token=_NOBODY)
        try:
            return msgspec.json.decode(response.content, type=Health)
        except msgspec.DecodeError as error:
            raise refusal(VaultUnavailable, "no_vault", client=self, response=response) from error

    def active(self) -> Health:
        """Return the answer of `sys/health`. Raises VaultUnavailable unless this is the active node."""
        if not (health := self.health()).active:
            raise VaultUnavailable(f"{self} is {health.state}", hint=health.advice)
        return health

    def audit_missing(self) -> str:
        """Return how to enable an audit log, which HashiCorp Vault has not by itself; empty if there is one, or if this
        token may not see it."""
        try:
            return "" if self.read("sys/audit") else str(TABLE["advice"]["audit"])
        except VaultError:
            return ""  # an older policy, or a token of a namespace

    def log_in(self, role_id: str, secret_id: Secret) -> Token:
        """Log in by AppRole. Raises IdentityRefused, with Vault's reason, if it refuses that."""
        path = f"auth/{self.settings.approle_mount}/login"
        response = self._send("post", path, {"role_id": role_id, "secret_id": secret_id.reveal()}, token=_NOBODY)
        if response.status_code in {400, 403, 404}:
            raise refusal(IdentityRefused, "log_in", client=self, path=path, reasons=error_text(response))
        return Token.of(self._answer("post", path, response))

    def own_token(self) -> dict[str, Any]:
        """Return what Vault knows of this client's token. Raises TokenRefused."""
        try:
            return self.read(_LOOKUP_SELF)
        except SecretMissing:
            if not self.namespace:
                raise
            return self.in_namespace("").read(_LOOKUP_SELF)  # the namespace does not exist yet

    def make_token(self, **values: Any) -> Secret:
        """Return a new token with these values, which does not end with this client's."""
        return Secret(str(self.request("post", "auth/token/create-orphan", values)["auth"]["client_token"]))

    def renew_self(self) -> Token:
        """Renew this client's token, and return it with its new TTL."""
        return Token.of(self.request("post", "auth/token/renew-self", {}))

    def revoke_self(self, *, timeout_s: float | None = None) -> None:
        """Revoke this client's token, and with it every lease made with it."""
        self.request("post", "auth/token/revoke-self", {}, timeout_s=timeout_s)
        self.token = _NOBODY

    def unwrap(self, wrapping_token: Secret) -> dict[str, Any]:
        """Return what is wrapped; this works once. Raises VaultError if it was unwrapped before, or is too old."""
        path = "sys/wrapping/unwrap"
        response = self._send("post", path, {}, token=wrapping_token)
        if response.status_code in {400, 403, 404}:
            raise VaultError(f"{self} does not unwrap: {error_text(response)}")
        return _data(self._answer("post", path, response))

    def wrapped_at(self, wrapping_token: Secret) -> str | None:
        """Return the path whose response is wrapped; None if it was unwrapped already, or is too old."""
        path = "sys/wrapping/lookup"
        response = self._send("post", path, {"token": wrapping_token.reveal()}, token=_NOBODY)
        if response.status_code in {400, 403, 404}:
            return None
        return str(_data(self._answer("post", path, response)).get("creation_path", ""))

    def read_kv(self, path: str) -> tuple[dict[str, str], int]:
        """Return the newest version of a secret, and its number. Raises SecretMissing, also if it was deleted."""
        mount = self.settings.kv_mount
        data = self.read(f"{mount}/data/{path}")
        if not isinstance(values := data.get("data"), dict):
            raise SecretMissing(f"{self} holds no current version of {mount}/{path}")
        return {str(name): str(value) for name, value in values.items()}, int(data["metadata"]["version"])

    def write_kv(self, path: str, values: Mapping[str, Any], *, cas: int | None = None) -> int:
        """Write a new version and return its number. `cas` is the version that has to be there now, 0 for none. Raises
        VaultError if it is another."""
        options = {} if cas is None else {"options": {"cas": cas}}
        return int(self.write(f"{self.settings.kv_mount}/data/{path}", {"data": values, **options})["version"])

    def _send(
        self,
        method: Method,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        wrap_ttl_s: int | None = None,
        token: Secret | None = None,
        content: bytes | None = None,
    ) -> requests.Response:
        # hvac would replace an empty address by its own default.
        if not self.address.startswith(("http://", "https://")):
            raise SettingsInvalid(f"setting vault.address: {self.address!r} is no http(s) URL")
        used = (self.token if token is None else token).reveal()
        headers = {"X-Vault-Token": used} if used else {}
        if self.namespace and not path.startswith(tuple(TABLE["whole_server"])):
            headers["X-Vault-Namespace"] = self.namespace
        try:
            response: requests.Response = self._hvac.adapter.request(
                method,
                f"/v1/{path}",
                headers=headers,
                json=body,
                data=content,
                raise_exception=False,
                wrap_ttl=wrap_ttl_s,
                timeout=timeout_s or self.settings.timeout_s,
            )
        except requests.exceptions.SSLError as error:
            self._refuse_scheme()
            raise refusal(VaultError, "certificate", client=self, cause=root_cause(error)) from error
        except requests.exceptions.InvalidURL as error:
            raise SettingsInvalid(f"setting vault.address: {self.address!r} is no valid URL") from error
        except requests.exceptions.RequestException as error:
            which = "proxy" if isinstance(error, requests.exceptions.ProxyError) else "unreachable"
            raise refusal(VaultUnavailable, which, client=self, cause=root_cause(error)) from error
        except OSError as error:
            raise SettingsInvalid(f"setting vault.ca_file: {error}") from error
        if response.status_code == 400 and b"HTTPS server" in response.content[:200]:
            self._refuse_scheme()
        return response

    def _refuse_scheme(self) -> None:
        if not self._proxy.reveal() and (why := wrong_scheme(self.address)):
            raise refusal(SettingsInvalid, "scheme", client=self, why=why)

    def _answer(self, method: Method, path: str, response: requests.Response) -> dict[str, Any]:
        try:
            found = msgspec.json.decode(self._checked(method, path, response).content or b"{}")
        except msgspec.DecodeError as error:
            raise VaultUnavailable(f"what answers at {self.address}/v1/{path} is no Vault") from error
        return found if isinstance(found, dict) else {}

    def _checked(self, method: Method, path: str, response: requests.Response) -> requests.Response:
        if not response.ok:
            raise self._error(response, method, path)
        return response

    def _error(self, response: requests.Response, method: Method, path: str) -> VaultError:
        status, reasons = response.status_code, error_text(response)
        if status == 403:
            return self._denied(method, path, reasons)
        about: dict[str, Any] = {"client": self, "path": path, "reasons": reasons}
        if status == 404:
            return refusal(SecretMissing, "nothing_there", **about)
        if status in UNAVAILABLE:
            what, advice = UNAVAILABLE[status]
            return VaultUnavailable(f"{self} {what}: {reasons} ({path})", hint=advice)
        if status >= 500:
            # Vault does not explain its own faults; the engine passes on what the database said.
            engine = path.startswith(f"{self.settings.database_mount}/") and "internal error" not in reasons
            return refusal(VaultUnavailable, "database_failed" if engine else "failed", **about)
        return VaultError(f"{self} refuses to {_verb(method)} {path}: {reasons}")

    def _denied(self, method: Method, path: str, reasons: str) -> VaultError:
        """Return TokenRefused or PolicyDenied for a 403, by asking Vault whether the token is valid."""
        if path != _LOOKUP_SELF:
            if (alive := self._send("get", _LOOKUP_SELF)).ok:
                own = _data(self._answer("get", _LOOKUP_SELF, alive))
                what = {"policies": ", ".join(own.get("policies") or ()) or "none", "verb": _verb(method)}
                return refusal(PolicyDenied, "policy", client=self, path=path, reasons=reasons, **what)
            if alive.status_code != 403:
                return self._error(alive, "get", _LOOKUP_SELF)
        return refusal(TokenRefused, "token", client=self, path=path, reasons=reasons)


def _data(answer: dict[str, Any]) -> dict[str, Any]:
    return data if isinstance(data := answer.get("data"), dict) else {}


def _verb(method: Method) -> str:
    return {"get": "read", "list": "list", "delete": "delete"}.get(method, "write")
