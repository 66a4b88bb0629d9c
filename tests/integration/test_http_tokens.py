"""Tokens of an identity provider: OpenBao's identity engine issues them, and the API takes them or not."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from bdlab.events import read_headers
from bdlab.serving import tokens
from bdlab.settings import HttpSettings, Secret, Settings
from bdlab.vault.client import VaultClient
from tests.chaos.vault_faults import VaultProxy
from tests.fix_api import MemoryApi, serving
from tests.fix_vault import VaultWorld
from tests.waiting import until

pytestmark = [pytest.mark.once, pytest.mark.plaintext("the provider is behind a proxy that cuts it off")]

REVIEW = {"text": "Great taste."}
PATH = "identity/oidc"
POLICY = f'path "{PATH}/token/*" {{ capabilities = ["read"] }}'


class Provider:
    """The identity engine of a Vault, and somebody (an entity) who may ask it for tokens."""

    def __init__(self, world: VaultWorld, root: VaultClient, proxy: VaultProxy) -> None:
        self.proxy, self._root, self._client = proxy, root, world.client()
        self.issuer = f"{proxy.address}/v1/{PATH}"
        root.write(f"{PATH}/config", {"issuer": proxy.address})
        root.write("sys/policies/acl/ask-tokens", {"policy": POLICY})
        root.write("auth/approle/role/ask-tokens", {"token_policies": "ask-tokens"})
        role_id = root.read("auth/approle/role/ask-tokens/role-id")["role_id"]
        secret_id = root.write("auth/approle/role/ask-tokens/secret-id")["secret_id"]
        self._client.token = self._client.log_in(role_id, Secret(secret_id)).token
        self.key("orders")
        self.role("orders", '{"scope": "predict openid"}')

    def key(self, name: str, algorithm: str = "ES256") -> None:
        self._root.write(f"{PATH}/key/{name}", {"allowed_client_ids": "*", "algorithm": algorithm})

    def rotate(self, name: str) -> None:
        self._root.write(f"{PATH}/key/{name}/rotate", {"verification_ttl": "0"})

    def role(self, name: str, template: str, *, key: str = "orders", audience: str = "bdlab", ttl: str = "1h") -> None:
        values = {"key": key, "client_id": audience, "template": template, "ttl": ttl}
        self._root.write(f"{PATH}/role/{name}", values)

    def token(self, role: str = "orders") -> str:
        return str(self._client.read(f"{PATH}/token/{role}")["token"])

    def asked(self) -> int:
        """How often it was asked for its keys."""
        return sum(b'"kty"' in answer for answer in self.proxy.answers)


@pytest.fixture(scope="module")
def provider(vault_world: VaultWorld) -> Iterator[Provider]:
    with VaultProxy(vault_world.openbao.address) as proxy, vault_world.root() as root:
        yield Provider(vault_world, root, proxy)


@contextmanager
def api_of(provider: Provider) -> Iterator[tuple[MemoryApi, httpx.Client]]:
    http = HttpSettings(require_key="all", jwt_issuer=provider.issuer, jwt_audience="bdlab")
    memory = MemoryApi(Settings(http=http))
    with memory.producer, serving(memory.parts) as client:
        yield memory, client


def predict(client: httpx.Client, token: str) -> httpx.Response:
    return client.post("/predict", json=REVIEW, headers={"Authorization": f"Bearer {token}"})


def refused(client: httpx.Client, token: str, why: str) -> None:
    answer = predict(client, token)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (
        401,
        'Bearer realm="bdlab", error="invalid_token"',
    )
    assert why in answer.json()["detail"]
    assert token not in answer.text


def claims_of(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


def test_a_good_token_is_taken_with_its_scopes_and_beside_keys(provider: Provider) -> None:
    provider.role("list", '{"scope": ["read", "metrics"]}')
    provider.role("bare", "{}")
    provider.role("odd", '{"scope": {"predict": true} }')
    with api_of(provider) as (memory, client):
        token = provider.token()
        for _ in range(2):
            assert predict(client, token).status_code == 200
        names = {read_headers(record.headers)[2] for record in memory.records()}
        assert names == {f"jwt:{claims_of(token)['sub']}".encode()}
        assert client.post("/predict", json=REVIEW, headers={"X-API-Key": token}).status_code == 200
        assert client.get("/predictions", headers={"Authorization": f"Bearer {token}"}).status_code == 403
        reader = {"Authorization": f"Bearer {provider.token('list')}"}
        assert client.get("/predictions", headers=reader).status_code == 200
        assert client.get("/metrics", headers=reader).status_code == 200
        for role in ("bare", "odd", "list"):
            assert predict(client, provider.token(role)).status_code == 403
        assert predict(client, memory.keys.add("shop", "predict")).status_code == 200


@pytest.mark.parametrize("algorithm", ["RS256", "ES512", "EdDSA"])
def test_a_token_of_each_kind_of_key(provider: Provider, algorithm: str) -> None:
    provider.key(algorithm.lower(), algorithm)
    provider.role("kind", '{"scope": "predict"}', key=algorithm.lower())
    with api_of(provider) as (_, client):
        assert predict(client, provider.token("kind")).status_code == 200


def test_a_token_for_somebody_else_or_by_somebody_else_is_401(provider: Provider) -> None:
    provider.role("other", '{"scope": "predict"}', audience="another-api")
    good = provider.token()
    kid, claims = jwt.get_unverified_header(good)["kid"], claims_of(good)
    own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    head, body, signature = good.split(".")
    with api_of(provider) as (memory, client):
        refused(client, provider.token("other"), "Audience doesn't match")
        refused(client, jwt.encode(claims, own, "RS256", {"kid": kid}), "does not match the key's")
        refused(client, jwt.encode(claims, own, "RS256", {"kid": "of-nobody"}), "does not publish the key")
        refused(client, jwt.encode(claims, own, "RS256"), "does not publish the key")
        refused(client, jwt.encode(claims, "", "none", {"kid": kid}), "alg")
        refused(client, jwt.encode(claims, "A" * 64, "HS256", {"kid": kid}), "alg")
        refused(client, f"{head}.{body}.{signature[:-4]}AAAA", "Signature verification failed")
        changed = base64.urlsafe_b64encode(json.dumps(claims | {"scope": "read"}).encode()).rstrip(b"=").decode()
        refused(client, f"{head}.{changed}.{signature}", "Signature verification failed")
        deep = base64.urlsafe_b64encode(b'{"a":' + b"[" * 5000).rstrip(b"=").decode()
        for hostile in (
            f"{deep}.{body}.{signature}",
            f"{head}.{body}",
            f"{head}..",
            "..",
            "a.b.c",
            good[:-1],
            "e30.e30.",
        ):
            refused(client, hostile, "it is refused")
        assert memory.records() == []


def test_a_token_ends_when_it_says_although_it_was_seen(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "CLOCK_SKEW_S", 0.0)
    provider.role("short", '{"scope": "predict"}', ttl="2s")
    with api_of(provider) as (_, client):
        token = provider.token("short")
        ends = claims_of(token)["exp"]
        assert predict(client, token).status_code == 200
        until(lambda: predict(client, token).status_code == 401)
        assert ends <= time.time() < ends + 5
        assert predict(client, token).json()["type"].endswith(":expired-key")


def test_after_a_rotation_the_new_key_is_fetched_but_not_for_every_token(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api_of(provider) as (_, client):
        token = provider.token()
        assert predict(client, token).status_code == 200
        asked = provider.asked()
        own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        for number in range(20):
            refused(client, jwt.encode({"a": 1}, own, "RS256", {"kid": f"made-up-{number}"}), "does not publish")
        assert provider.asked() == asked
        monkeypatch.setattr(tokens, "ASK_EVERY_S", 0.0)
        for _ in range(2):  # the next key is published before it is used
            provider.rotate("orders")
        assert predict(client, provider.token()).status_code == 200
        assert provider.asked() == asked + 1
        # The keys are asked for again in time: a token that was not seen before is what looks at them.
        monkeypatch.setattr(tokens, "KEYS_LAST_S", 0.0)
        until(lambda: predict(client, provider.token()).status_code == 200 and provider.asked() > asked + 1)


def test_a_provider_that_is_away_stops_only_tokens_of_keys_that_are_not_known(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.key("later")
    provider.role("later", '{"scope": "predict"}', key="later")
    known, seen = provider.token(), provider.token()
    with api_of(provider) as (memory, client):
        provider.proxy.answer(503)
        try:
            answer = predict(client, known)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            assert "HTTP 503" in answer.json()["detail"]
            assert predict(client, memory.keys.add("shop", "predict")).status_code == 200
            monkeypatch.setattr(tokens, "ASK_EVERY_S", 0.0)
            for body in (b"<html>", b"[]", b'{"issuer": 5}'):
                provider.proxy.answer(200, body)
                assert predict(client, known).status_code == 503
            provider.proxy.heal()
            assert predict(client, seen).status_code == 200
            provider.proxy.answer(503)
            monkeypatch.setattr(tokens, "KEYS_LAST_S", 0.0)
            monkeypatch.setattr(tokens, "SEEN_S", 0.0)
            for token in (known, seen):
                assert predict(client, token).status_code == 200
        finally:
            provider.proxy.heal()


def test_an_issuer_that_calls_itself_otherwise_gives_no_keys(provider: Provider) -> None:
    http = HttpSettings(
        require_key="all", jwt_issuer=provider.issuer.replace("127.0.0.1", "localhost"), jwt_audience="bdlab"
    )
    memory = MemoryApi(Settings(http=http))
    with memory.producer, serving(memory.parts) as client:
        answer = predict(client, provider.token())
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:bdlab:problem:provider-away")
        assert "calls itself" in answer.json()["detail"]
