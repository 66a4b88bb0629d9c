"""HashiCorp Vault for tests: what its documentation says it answers, or a real one where somebody has it.

Its licence keeps the program out of the package indexes that the suite installs from. So a relay stands in
front of an OpenBao that also serves the paths of before the two parted, and answers where they differ.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from bdlab.stack.servers.openbao import OpenBao
from tests.fix_vault import ShamirOpenBao, UnauthedOpenBao
from tests.relay import Answer, Relay

#: A `vault` (or another server that answers as it does) to run the same tests on.
BINARY = os.environ.get("BDLAB_VAULT_BINARY", "")

_OPENBAO_ONLY = re.compile(r"/v1/sys/(generate-root-token|rotate/(root|recovery))(/|$)")
_KEY_PATHS = re.compile(r"/v1/sys/(generate-root|rekey|rekey-recovery-key)/")
_NEEDED = {"GET": {"read"}, "POST": {"create", "update"}, "PUT": {"create", "update"}, "DELETE": {"delete"}}


def _refusal(status: int, *reasons: str) -> Answer:
    return status, json.dumps({"errors": list(reasons)}).encode()


_DENIED = _refusal(403, "1 error occurred:\n\t* permission denied\n\n")


class Dialect(Relay):
    """Community edition of `version` ("1.21.0", "2.0.0").

    * No path that OpenBao has added. No namespaces: the header is taken no notice of.
    * To cancel new keys takes a body with the nonce of the attempt.
    * From 2.0 on making a root token and new keys takes a token whose policy allows it.
    """

    def __init__(self, target: str, version: str) -> None:
        super().__init__(target)
        self.version = version
        self._root = ""

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes, netloc: str = "") -> Answer:
        headers.pop("X-Vault-Namespace", None)
        token = headers.get("X-Vault-Token", "")
        if _OPENBAO_ONLY.match(path):
            return _refusal(404, "unsupported path") if token else _DENIED
        if _KEY_PATHS.match(path):
            if self._authenticated and not self._may(token, method, path):
                return _DENIED
            if method == "DELETE" and "/rekey" in path and (refused := self._nonce_refused(path, body)):
                return refused
        if path == "/v1/auth/token/revoke-self" and token == self._root:
            # The relay goes on asking what a policy allows.
            made = self._ask("/v1/auth/token/create-orphan", {"policies": ["root"], "display_name": "relay"})
            self._root = str(made["auth"]["client_token"])
        status, content = super().answer(method, path, headers, body)
        if path == "/v1/sys/init" and method == "PUT" and status == 200:
            self._root = str(json.loads(content)["root_token"])
        if path == "/v1/sys/health":
            content = json.dumps(json.loads(content) | {"version": self.version}).encode()
        return status, content

    @property
    def _authenticated(self) -> bool:
        return not self.version.startswith("1.")

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"X-Vault-Token": self._root}
        _, answer = super().answer("POST", path, headers, json.dumps(body).encode())
        return dict(json.loads(answer))

    def _may(self, token: str, method: str, path: str) -> bool:
        place = path.removeprefix("/v1/")
        found = self._ask("/v1/sys/capabilities", {"token": token, "paths": [place]})
        return bool({"root", *_NEEDED[method]} & set(found.get(place, ())))

    def _nonce_refused(self, path: str, body: bytes) -> Answer | None:
        if not body:
            return _refusal(400, "EOF")
        _, now = super().answer("GET", path, {}, b"")
        if json.loads(body).get("nonce") != json.loads(now).get("nonce"):
            return _refusal(400, "invalid request: nonce does not match")
        return None


class _Unaudited(ShamirOpenBao):
    """No `audit` and no `seal "static"` stanza, neither of which HashiCorp Vault knows."""

    def _configure(self, port: int) -> Sequence[str]:
        arguments = super()._configure(port)
        config = Path(arguments[-1])
        text = re.sub(r'audit "file".*?\n}\n', "", config.read_text("utf-8"), flags=re.DOTALL)
        config.write_text(text, "utf-8")
        return arguments


class Vault1(UnauthedOpenBao, _Unaudited):
    """Answers as HashiCorp Vault of `version` does."""

    version: ClassVar[str] = "1.21.0"
    relay: Dialect | None = None

    @property
    def address(self) -> str:
        return self.relay.url if self.relay else super().address

    def _configure(self, port: int) -> Sequence[str]:
        arguments = super()._configure(port)
        if self.relay is None:
            self.relay = Dialect(f"127.0.0.1:{port}", self.version).__enter__()
        return arguments

    def stop(self, timeout_s: float = 15.0) -> None:
        super().stop(timeout_s)
        if self.relay:
            self.relay.__exit__()
            self.relay = None


class Vault2(Vault1):
    version = "2.0.0"


class RealVault(_Unaudited):
    """The program that BDLAB_VAULT_BINARY names."""

    def _configure(self, port: int) -> Sequence[str]:
        _, *arguments = super()._configure(port)
        config = Path(arguments[-1])
        config.write_text(f"disable_mlock = true\n{config.read_text('utf-8')}", "utf-8")
        return [BINARY, *arguments]


KINDS: tuple[type[OpenBao], ...] = (Vault1, Vault2, *((RealVault,) if BINARY else ()))
