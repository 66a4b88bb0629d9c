"""Who may use the console: keys of a real Vault, tokens of its identity provider, sessions, and hostile browsers."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from bdlab.settings import Secret, VaultSettings
from bdlab.vault.client import VaultClient
from tests import tls
from tests.fix_console import Console, StartConsole, running_console
from tests.fix_pipeline import Pipeline
from tests.waiting import until

OIDC = "identity/oidc"
PROMOTE = "/models/reviews/1.1.0/promote"
NO_COOKIE = {"Cookie": ""}


class Provider:
    """The identity provider of the pipeline's Vault, the console's client there, and somebody who has an account."""

    def __init__(self, pipeline: Pipeline) -> None:
        address = pipeline.vault.address
        self.issuer = f"{address}/v1/{OIDC}/provider/console"
        with pipeline.root() as root:
            root.write(f"{OIDC}/key/console", {"allowed_client_ids": "*", "algorithm": "ES256"})
            root.write(f"{OIDC}/scope/bdlab", {"template": '{"scope": "read promote"}'})
            root.write(f"{OIDC}/client/console", self._client())
            found = root.read(f"{OIDC}/client/console")
            self.client_id, self.secret = str(found["client_id"]), str(found["client_secret"])
            provider = {"allowed_client_ids": "*", "scopes_supported": "bdlab", "issuer": address}
            root.write(f"{OIDC}/provider/console", provider)
            policy = f'path "{OIDC}/provider/console/authorize" {{ capabilities = ["read"] }}'
            root.write("sys/policies/acl/person", {"policy": policy})
            root.write("auth/approle/role/person", {"token_policies": "person"})
            role_id = str(root.read("auth/approle/role/person/role-id")["role_id"])
            secret_id = Secret(root.write("auth/approle/role/person/secret-id")["secret_id"])
            settings = VaultSettings(address=address, ca_file=pipeline.vault.ca_file, timeout_s=5)
        self._person = VaultClient(settings)
        self._token = self._person.log_in(role_id, secret_id).token
        self._http = httpx.Client(base_url=address, trust_env=False, verify=tls.VERIFY)

    @staticmethod
    def _client(*redirects: str) -> dict[str, Any]:
        return {"redirect_uris": redirects, "assignments": "allow_all", "key": "console", "id_token_ttl": "10m"}

    def settings(self, ca_file: str) -> dict[str, str]:
        return {
            "BDLAB_HTTP_JWT_ISSUER": self.issuer,
            "BDLAB_HTTP_JWT_AUDIENCE": self.client_id,
            "BDLAB_HTTP_JWT_CA_FILE": ca_file,
            "BDLAB_CONSOLE_OIDC_CLIENT_ID": self.client_id,
            "BDLAB_CONSOLE_OIDC_SCOPES": "openid bdlab",
        }

    def answers(self, pipeline: Pipeline, address: str) -> dict[str, str]:
        """What somebody who signs in there brings back from `address`, as the provider's own page does."""
        asked = dict(parse_qsl(urlsplit(address).query))
        with pipeline.root() as root:
            root.write(f"{OIDC}/client/console", self._client(asked["redirect_uri"]))
        headers = {"X-Vault-Token": self._token.reveal()}
        answer = self._http.get(f"/v1/{OIDC}/provider/console/authorize", params=asked, headers=headers)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def close(self) -> None:
        self._person.close()
        self._http.close()

    def keep_secret(self, pipeline: Pipeline) -> None:
        with pipeline.root() as root:
            root.write_kv("oidc/console", {"client_secret": self.secret})


@pytest.fixture(scope="module")
def provider(_shared_pipeline: Pipeline) -> Iterator[Provider]:
    with closing(Provider(_shared_pipeline)) as found:
        yield found


@pytest.fixture(scope="module")
def guarded(
    _shared_pipeline: Pipeline, provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Console]:
    """A console that asks for a sign-in to look, and to promote."""
    settings: dict[str, Any] = {"BDLAB_CONSOLE_REQUIRE_KEY": "read,promote", "BDLAB_MODEL_REGISTRY": "/nowhere"}
    settings |= provider.settings(_shared_pipeline.vault.ca_file)
    with running_console(_shared_pipeline, tmp_path_factory.mktemp("guarded"), **settings) as console:
        yield console
        assert not re.search(r"bdlab_[a-z-]+_\w|eyJ", "\n".join(console.daemon.lines)), "the log has a credential"


def key_of(pipeline: Pipeline, console: Console, name: str, scopes: str, *options: str) -> str:
    """A new key that the console knows."""
    made = pipeline.run("api-key", "create", name, "--scope", scopes, *options)
    assert made.returncode == 0, made.stderr
    headers = {"X-API-Key": made.stdout.strip()}
    until(lambda: "signed in as" in console.browser().get("/sign-in", headers=headers).text)
    return headers["X-API-Key"]


def is_in(browser: httpx.Client) -> bool:
    """Whether it is shown a page, and not sent to sign in."""
    answer = browser.get("/models")
    assert answer.status_code in (200, 303), answer.text
    return answer.status_code == 200


def test_on_loopback_nobody_has_to_sign_in_and_every_answer_is_guarded(console: Console) -> None:
    assert console.client.get("/").headers["location"] == "/try"
    for path in ("/models", "/sign-in", "/nothing", "/quality?last=x"):
        answer = console.browser().get(path)
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
    for method in ("HEAD", "PUT", "DELETE", "PATCH"):
        token = console.client.cookies["bdlab-csrf"]
        assert console.client.request(method, "/models", headers={"x-csrftoken": token}).status_code == 405
    assert console.client.options("/models").status_code == 204
    assert "set-cookie" not in console.browser().get("/static/console.css").headers


def test_a_key_lets_in_until_it_is_revoked_or_ends(pipeline: Pipeline, guarded: Console) -> None:
    key = key_of(pipeline, guarded, "looker", "read")
    ending = key_of(pipeline, guarded, "ending", "read", "--expires", "9s")
    browser = guarded.browser()
    asked = browser.get("/models/compare?a=1&b=2")
    assert (asked.status_code, asked.headers["location"]) == (303, "/sign-in?then=/models/compare%3Fa%3D1%26b%3D2")
    assert browser.get("/models", headers={"HX-Current-URL": f"{guarded.url}/models"}).headers["hx-redirect"]
    guarded.sign_in(key[:-1] + ("A" if key[-1] != "A" else "B"), code=401)
    shown = guarded.sign_in(key, then="/models?x=1")
    assert str(shown.url) == f"{guarded.url}/models?x=1"
    assert "signed in as <bdi>looker</bdi>" in shown.text
    cookie = guarded.client.cookies["bdlab-session"]
    assert key.encode() not in base64.b64decode(cookie + "==")
    names = {
        (each["event"], each.get("key")) for each in map(json.loads, guarded.daemon.lines) if "sign" in each["event"]
    }
    assert {("signed in", "looker"), ("sign-in refused", "looker")} <= names
    other = guarded.browser()
    other.cookies.update(guarded.client.cookies)
    assert is_in(other)
    other.headers["x-api-key"] = ending
    assert "signed in as <bdi>ending</bdi>" in other.get("/models").text
    pipeline.run("api-key", "revoke", "looker")
    begun = time.monotonic()
    until(lambda: not is_in(guarded.client), timeout_s=5)
    assert time.monotonic() - begun < 5
    assert "bdlab-session" not in guarded.client.cookies
    until(lambda: other.get("/models").status_code == 401, timeout_s=12)
    assert "ended at" in other.get("/models").text


def test_a_cookie_that_was_made_up_or_is_of_another_process_is_no_session(
    pipeline: Pipeline, guarded: Console, start_console: StartConsole
) -> None:
    key = key_of(pipeline, guarded, "cook", "read")
    guarded.sign_in(key)
    cookie, csrf = guarded.client.cookies["bdlab-session"], guarded.client.cookies["bdlab-csrf"]
    set_by = guarded.browser().get("/sign-in").headers["set-cookie"]
    for flag in ("HttpOnly", "SameSite=lax"):
        assert flag in set_by
    raw = base64.b64decode(cookie)
    until_then = re.sub(rb'"expires_at":\d+', b'"expires_at":9999999999', raw)
    changed = [bytes([raw[0] ^ 1]) + raw[1:], raw[:20] + bytes([raw[20] ^ 1]) + raw[21:], until_then, raw[:-3], b""]
    odd = [b"x" * 40 + b"additional_data=" + end for end in (b"junk", b"[]", b'{"expires_at": 9999999999}', b"\xff")]
    for made_up in [*(base64.b64encode(one).decode() for one in [*changed, *odd]), "%%%", "null", "é", "A" * 3000]:
        headers = {b"Cookie": f"bdlab-session={made_up}".encode("latin-1")}
        assert httpx.get(f"{guarded.url}/models", headers=headers, trust_env=False).status_code == 303
    again = start_console(identities=(), BDLAB_CONSOLE_REQUIRE_KEY="all", BDLAB_CONSOLE_TLS_CERT_FILE="")
    for name, value in (("bdlab-session", cookie), ("bdlab-csrf", csrf)):
        again.client.cookies.set(name, value, domain="127.0.0.1")
    assert not is_in(again.client)
    until(lambda: "signed in as" in again.browser().get("/sign-in", headers={"X-API-Key": key}).text)
    again.sign_in(key)  # with another CSRF cookie than the one of before
    assert is_in(again.client)
    assert "This console has no registry" in again.get("/models").text
    again.post("/sign-out", form="/models")
    assert not is_in(again.client)


def test_what_a_key_may_not_do_is_said_with_what_to_do(pipeline: Pipeline, guarded: Console) -> None:
    guarded.sign_in(key_of(pipeline, guarded, "reader", "read"))
    refused = guarded.get(PROMOTE, code=403).text
    assert "reader has the scopes: read. This needs promote." in refused
    assert "bdlab api-key create NAME --scope read,promote" in refused
    assert "This needs read" in guarded.sign_in(key_of(pipeline, guarded, "poster", "predict"), code=403).text
    guarded.sign_in(key_of(pipeline, guarded, "promoter", "read,promote"))
    assert guarded.client.get(PROMOTE).status_code != 403
    browser = guarded.browser(headers={"Authorization": f"Bearer {key_of(pipeline, guarded, 'proxied', 'read')}"})
    assert is_in(browser)
    assert browser.get(PROMOTE).status_code == 403
    browser.headers["Authorization"] = "Bearer bdlab_nobody_" + "x" * 43
    assert browser.get("/models").status_code == 401
    assert browser.get("/models", headers={"Authorization": "Basic YTpi"}).status_code == 303


@pytest.mark.parametrize(
    "then", ["//evil", "/\\evil", "\\\\evil", "/\t/evil", "/\n/evil", "https://evil", "/x\r\nA: b", "é", "//["]
)
def test_nobody_is_sent_to_another_host(pipeline: Pipeline, guarded: Console, then: str) -> None:
    global _THEN_KEY  # noqa: PLW0603 - one key for all
    _THEN_KEY = _THEN_KEY or key_of(pipeline, guarded, "then", "read")
    page = guarded.get("/sign-in").text
    token = re.search(r'name="_csrf_token" value="(\w+)"', page)
    assert token
    answer = guarded.client.post("/sign-in", data={"credential": _THEN_KEY, "then": then, "_csrf_token": token[1]})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


_THEN_KEY = ""


def test_a_form_of_another_site_changes_nothing(pipeline: Pipeline, guarded: Console) -> None:
    key = key_of(pipeline, guarded, "forged", "read")
    browser = guarded.browser()
    browser.get("/sign-in")
    token = browser.cookies["bdlab-csrf"]
    forms: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({}, {}),
        ({"_csrf_token": "x"}, {}),
        ({"_csrf_token": "é" * 128}, {}),
        ({"_csrf_token": "0" * 128}, {}),
        ({"_csrf_token": token}, {"Origin": "http://evil.example"}),
        ({"_csrf_token": token}, {"Origin": "http://127.0.0.1:1"}),
        ({"_csrf_token": token}, {"Origin": "null"}),
    ]
    for form, headers in forms:
        answer = browser.post("/sign-in", data={"credential": key, **form}, headers=headers)
        assert answer.status_code == 403
        assert "nothing was changed" in answer.text
    answer = browser.post("/sign-in", data={"credential": key, "_csrf_token": token}, headers={"Origin": guarded.url})
    assert answer.status_code == 303


def test_a_flood_of_wrong_keys_fills_no_log_and_keeps_nobody_out(pipeline: Pipeline, guarded: Console) -> None:
    key = key_of(pipeline, guarded, "patient", "read")
    before = len(guarded.daemon.lines)
    browser = guarded.browser()
    browser.get("/sign-in")
    form = {"_csrf_token": browser.cookies["bdlab-csrf"], "credential": "bdlab_admin_" + "x" * 43}
    begun = time.monotonic()
    codes = [browser.post("/sign-in", data=form).status_code for _ in range(60)]
    assert set(codes) == {401, 429}
    assert len(guarded.daemon.lines) - before <= 6 + 6 * (time.monotonic() - begun)
    assert browser.post("/sign-in", data={**form, "credential": key}).status_code == 303


def test_somebody_signs_in_at_the_identity_provider(pipeline: Pipeline, guarded: Console, provider: Provider) -> None:
    browser = guarded.browser()
    assert provider.issuer in browser.get("/sign-in").text
    leave = browser.get("/sign-in/provider?then=/quality").headers["location"]
    asked = dict(parse_qsl(urlsplit(leave).query))
    assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
    assert asked["redirect_uri"] == f"{guarded.url}/sign-in/back"
    back = provider.answers(pipeline, leave)
    # Without the client's secret the provider gives no token, and nobody else can use the answer.
    assert guarded.browser().get("/sign-in/back", params=back).status_code == 401
    refused = browser.get("/sign-in/back", params=back)
    assert refused.status_code == 401
    assert "client" in refused.text.partition("does not answer as it should")[2].partition("</p>")[0]
    assert not is_in(browser)
    provider.keep_secret(pipeline)
    back = provider.answers(pipeline, browser.get("/sign-in/provider?then=/quality").headers["location"])
    assert browser.get("/sign-in/back", params=back | {"state": "another"}).status_code == 401
    assert "begin again" in browser.get("/sign-in/back", params=back).text  # each is good for one answer
    back = provider.answers(pipeline, browser.get("/sign-in/provider?then=/quality").headers["location"])
    answer = browser.get("/sign-in/back", params=back)
    assert (answer.status_code, answer.headers["location"]) == (303, "/quality")
    assert "signed in as <bdi>jwt:" in browser.get("/models").text
    assert browser.get(PROMOTE).status_code != 403
    told = browser.get("/sign-in/back", params={"error": "access_denied", "error_description": "<b>no</b>"}).text
    assert "<b>no</b>" not in told


def test_a_setting_that_is_no_scope_is_named_as_the_console_has_it(pipeline: Pipeline) -> None:
    done = pipeline.run("console", "--port", "0", BDLAB_CONSOLE_REQUIRE_KEY="reed")
    assert done.returncode == 2
    assert "console.require_key: reed in 'reed' is no scope" in done.stderr
    done = pipeline.run("console", "--port", "0", BDLAB_CONSOLE_OIDC_CLIENT_ID="x")
    assert "http.jwt_issuer" in done.stderr
