"""Who may ask the API: keys, tokens, scopes and limits, as a client sees them."""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdlab.access import SCOPES, required_scopes, secured
from bdlab.errors import BdlabError, SettingsInvalid
from bdlab.events import read_headers
from bdlab.load import LoadGenerator
from bdlab.serving.access import MAX_CREDENTIAL_BYTES, RateLimit
from bdlab.serving.problems import PROBLEM_JSON
from bdlab.settings import HttpSettings, KafkaSettings, Settings
from tests.fix_api import MemoryApi, serving

OPEN = ("/health", "/health/live", "/health/ready", "/vault-status", "/kafka-status", "/docs", "/openapi.json",
        "/docs/swagger-ui.css")  # fmt: skip
ID = "/predictions/00000000-0000-8000-8000-000000000000"
REVIEW = {"text": "Great taste."}
NO_SECRET = "A" * 43


@contextmanager
def api_with(**http: Any) -> Iterator[tuple[MemoryApi, httpx.Client]]:
    memory = MemoryApi(Settings(http=HttpSettings(**http), kafka=KafkaSettings(delivery_timeout_s=5)))
    with memory.producer, serving(memory.parts) as client:
        yield memory, client


@pytest.fixture(scope="module")
def all_needed() -> Iterator[tuple[MemoryApi, httpx.Client]]:
    with api_with(require_key="all", cors_origins="https://shop.example") as both:
        yield both


@pytest.fixture
def memory(all_needed: tuple[MemoryApi, httpx.Client]) -> MemoryApi:
    all_needed[0].keys.known.clear()
    return all_needed[0]


@pytest.fixture
def client(all_needed: tuple[MemoryApi, httpx.Client]) -> httpx.Client:
    return all_needed[1]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def kind(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == PROBLEM_JSON, answer.text
    return str(answer.json()["type"]).removeprefix("urn:bdlab:problem:")


# The settings.


@pytest.mark.parametrize(
    ("listed", "host", "scopes"),
    [
        ("", "127.0.0.1", ""),
        ("", "::1", ""),
        ("", "localhost", ""),
        ("", "0.0.0.0", "read"),  # noqa: S104
        ("", "api.example.org", "read"),
        ("none", "10.0.0.5", ""),
        ("predict, read", "127.0.0.1", "predict read"),
        ("all", "127.0.0.1", " ".join(SCOPES)),
    ],
)
def test_the_scopes_that_need_a_key(listed: str, host: str, scopes: str) -> None:
    assert required_scopes(HttpSettings(require_key=listed, host=host)) == set(scopes.split())


@pytest.mark.parametrize("listed", ["reed", "none,read", "all,read", "READ", "read;predict"])
def test_what_is_no_scope_is_refused_by_name(listed: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"http\.require_key"):
        required_scopes(HttpSettings(require_key=listed))


@pytest.mark.parametrize(
    ("issuer", "audience", "why"),
    [
        ("https://id.example", "", "jwt_audience"),
        ("http://id.example", "bdlab", "https URL"),
        ("id.example", "bdlab", "https URL"),
        ("ftp://127.0.0.1", "bdlab", "https URL"),
        ("http://127.0.0.1.example", "bdlab", "https URL"),
    ],
)
def test_an_issuer_that_could_not_be_trusted_is_refused(issuer: str, audience: str, why: str) -> None:
    with pytest.raises(SettingsInvalid, match=why):
        required_scopes(HttpSettings(jwt_issuer=issuer, jwt_audience=audience))


def test_an_issuer_over_https_or_on_this_machine_is_taken() -> None:
    required_scopes(HttpSettings())
    for issuer in ("https://id.example/realms/shop", "http://127.0.0.1:8200/v1/identity/oidc", "http://[::1]:1"):
        required_scopes(HttpSettings(jwt_issuer=issuer, jwt_audience="bdlab"))
        assert secured(issuer)


# Who is admitted.


def test_without_a_key_everything_but_health_and_documents_is_401(memory: MemoryApi, client: httpx.Client) -> None:
    for path in OPEN:
        assert client.get(path).status_code == 200, path
        assert client.get(path, headers=bearer("nonsense")).status_code == 200, path
    before = len(memory.records())
    asked = [("GET", "/predictions"), ("GET", "/predictions/"), ("GET", "//predictions"), ("HEAD", "/predictions"),
             ("GET", "/predictions?limit=1"), ("GET", "/predictions?nonsense"), ("GET", ID), ("GET", "/metrics"),
             ("POST", "/predict"), ("POST", "/predict/"), ("POST", "/predict/batch")]  # fmt: skip
    for method, path in asked:
        answer = client.request(method, path, json=REVIEW if method == "POST" else None)
        assert answer.status_code in (401, 404), (method, path)  # 404: another spelling is no route
        if answer.status_code == 401:
            assert answer.headers["www-authenticate"] == 'Bearer realm="bdlab"'
        if answer.status_code == 401 and method != "HEAD":
            assert kind(answer) == "no-key"
            assert "http.require_key" in answer.json()["detail"]
    assert len(memory.records()) == before


def test_a_refusal_comes_before_the_body_is_read(memory: MemoryApi, client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{")
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_a_key_opens_what_its_scopes_say(memory: MemoryApi, client: httpx.Client) -> None:
    predict, read = memory.keys.add("shop", "predict"), memory.keys.add("reader", "read", "metrics")
    assert client.post("/predict", json=REVIEW, headers=bearer(predict)).status_code == 200
    assert client.post("/predict/batch", json=[REVIEW], headers={"X-API-Key": predict}).status_code == 200
    assert {read_headers(record.headers)[2] for record in memory.records()[-2:]} == {b"shop"}
    assert client.post("/predict?", json=REVIEW, headers={"Authorization": f"bEARER  {predict}"}).status_code == 200
    assert client.get("/predictions", headers=bearer(read)).status_code == 200
    assert client.head("/predictions", headers=bearer(read)).status_code == 200
    assert client.get(ID, headers=bearer(read)).status_code == 404
    for method, path, key, scope in (
        ("POST", "/predict", read, "predict"),
        ("GET", "/predictions", predict, "read"),
        ("GET", "/metrics", predict, "metrics"),
    ):
        answer = client.request(method, path, json=REVIEW, headers=bearer(key))
        assert (answer.status_code, kind(answer)) == (403, "scope")
        assert (
            answer.headers["www-authenticate"] == f'Bearer realm="bdlab", error="insufficient_scope", scope="{scope}"'
        )
    assert 'bdlab_http_refusals_total{reason="scope"}' in client.get("/metrics", headers=bearer(read)).text


def test_a_key_that_is_wrong_expired_or_revoked_is_401(memory: MemoryApi, client: httpx.Client) -> None:
    key = memory.keys.add("shop", "predict")
    old = memory.keys.add("old", "predict", expires_in_s=-1)
    for wrong, found in (
        (old, "expired-key"),
        (f"bdlab_shop_{NO_SECRET}", "unknown-key"),
        (f"bdlab_old_{NO_SECRET}", "unknown-key"),  # nobody learns that there is such a name
        (f"bdlab_nobody_{NO_SECRET}", "unknown-key"),
        (key[:-1], "unknown-key"),
        (key.replace("shop", "old"), "unknown-key"),
        ("bdlab_", "unknown-key"),
        ("eyJhbGciOiJub25lIn0.e30.", "unknown-key"),
    ):
        answer = client.post("/predict", json=REVIEW, headers=bearer(wrong))
        assert (answer.status_code, kind(answer)) == (401, found)
        assert answer.headers["www-authenticate"] == 'Bearer realm="bdlab", error="invalid_token"'
        assert wrong not in answer.text
    assert client.post("/predict", json=REVIEW, headers=bearer(key)).status_code == 200
    del memory.keys.known["shop"]
    assert client.post("/predict", json=REVIEW, headers=bearer(key)).status_code == 401
    again = memory.keys.add("shop", "predict")
    assert client.post("/predict", json=REVIEW, headers=bearer(key)).status_code == 401
    assert client.post("/predict", json=REVIEW, headers=bearer(again)).status_code == 200


def test_a_wrong_key_is_refused_also_where_none_is_needed() -> None:
    with api_with() as (memory, client):
        assert client.post("/predict", json=REVIEW).status_code == 200
        assert client.post("/predict", json=REVIEW, headers={"Authorization": "Basic YTpi"}).status_code == 200
        assert client.get("/metrics", headers=bearer("wrong")).status_code == 200
        for path in ("/predictions", ID):
            assert client.get(path, headers=bearer("wrong")).status_code == 401
        assert client.post("/predict", json=REVIEW, headers={"X-API-Key": "wrong"}).status_code == 401
        # Without need of one, its scopes do not matter.
        assert client.get("/predictions", headers=bearer(memory.keys.add("shop", "predict"))).status_code == 200


def test_a_key_in_the_query_is_not_taken(memory: MemoryApi, client: httpx.Client) -> None:
    key = memory.keys.add("shop", "read")
    for name in ("api_key", "access_token", "key", "X-API-Key"):
        assert client.get("/predictions", params={name: key}).status_code == 401
        both = client.get("/predictions", params={name: key}, headers=bearer(key))
        assert both.status_code == 422
        assert key not in both.text


# What is presented.


def head(client: httpx.Client, *lines: bytes, target: bytes = b"GET /predictions HTTP/1.1") -> int:
    """The status of an answer to a head of these lines."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20) as connection:
        connection.sendall(b"\r\n".join([target, b"Host: localhost", *lines, b"Connection: close", b"", b""]))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return int(answer.split(b" ", 2)[1])


def test_more_than_one_key_is_400_even_if_they_are_the_same(memory: MemoryApi, client: httpx.Client) -> None:
    key = memory.keys.add("shop", "read").encode()
    by_bearer, by_name = b"Authorization: Bearer " + key, b"X-API-Key: " + key
    assert head(client, by_bearer) == head(client, by_name) == 200
    for lines in ((by_bearer, by_name), (by_bearer, by_bearer), (by_name, by_name), (by_name, b"X-API-Key: x")):
        assert head(client, *lines) == 400
    assert head(client, by_name, b"Authorization: Basic YTpi") == 200


@pytest.mark.parametrize(
    "value",
    [b"", b" ", b"Bearer", b"Bearer ", b"Bearer \xc3\xa4", b"Bearer a b", b"Bearer a,b", b'Bearer "a"', b"Bearer\ta",
     b"Bearer =", b"Bearer a=b", b"Bearer \xff", b"Bearerbdlab_shop_x", b"Bearer Bearer x",
     b"Bearer " + b"a" * (MAX_CREDENTIAL_BYTES + 1), b"Token x", b"Bearer \x00", b"Bearer a\x00"],
)  # fmt: skip
def test_what_is_no_key_is_a_refusal_and_never_a_failure(memory: MemoryApi, client: httpx.Client, value: bytes) -> None:
    memory.keys.add("shop", "read")
    for name in (b"Authorization: ", b"X-API-Key: "):
        expected = 400 if b"\x00" in value else 401  # no valid HTTP
        assert head(client, name + value) == expected
    assert client.get("/health/live").status_code == 200


def test_a_head_of_one_huge_key_is_431(client: httpx.Client) -> None:
    assert head(client, b"Authorization: Bearer " + b"a" * (40 << 10)) == 431


@given(value=st.binary(max_size=60).filter(lambda value: not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value)))
def test_no_bytes_are_taken_for_a_key(all_needed: tuple[MemoryApi, httpx.Client], value: bytes) -> None:
    client = all_needed[1]
    assert head(client, b"Authorization: Bearer " + value) in (400, 401)
    assert head(client, b"X-API-Key: " + value) in (400, 401)


@given(name=st.from_regex(r"[a-z][a-z0-9-]{0,39}", fullmatch=True), spaces=st.integers(1, 9), api_key=st.booleans())
def test_every_key_is_read_as_it_was_made(
    all_needed: tuple[MemoryApi, httpx.Client], name: str, spaces: int, api_key: bool
) -> None:
    memory, client = all_needed
    key = memory.keys.add(name, "read").encode()
    way = b"X-API-Key:" if api_key else b"Authorization: Bearer"
    assert head(client, way + b" " * spaces + key) == 200
    memory.keys.known.clear()


def test_a_page_of_another_origin_may_send_a_key(memory: MemoryApi, client: httpx.Client) -> None:
    origin = {"Origin": "https://shop.example"}
    preflight = client.options(
        "/predict",
        headers=origin
        | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, x-api-key"},
    )
    assert preflight.status_code == 204, preflight.text
    allowed = preflight.headers["access-control-allow-headers"].lower()
    assert "authorization" in allowed
    assert "x-api-key" in allowed
    refused = client.post("/predict", json=REVIEW, headers=origin)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://shop.example")
    key = memory.keys.add("page", "predict", rate=5)
    answer = client.post("/predict", json=REVIEW, headers=origin | bearer(key))
    assert answer.status_code == 200
    assert {"RateLimit", "RateLimit-Policy"} <= set(answer.headers["access-control-expose-headers"].split(", "))
    assert answer.headers["ratelimit-policy"] == '"default";q=5;w=1'


def test_a_load_presents_its_key(memory: MemoryApi, client: httpx.Client) -> None:
    url, key = str(client.base_url), memory.keys.add("drill", "predict")
    with LoadGenerator(url, [b'{"text": "a"}'], requests_per_second=100, key=key) as load:
        assert load.stop().failed == 0
    with pytest.raises(BdlabError, match="HTTP 401"):
        LoadGenerator(url, [b'{"text": "a"}'], requests_per_second=100).start()


# How much.


def test_a_limit_counts_predictions_and_says_what_is_left(memory: MemoryApi, client: httpx.Client) -> None:
    headers = bearer(memory.keys.add("slow", "predict", "read", rate=0.001))
    before = len(memory.records())
    first = client.post("/predict", json=REVIEW, headers=headers)
    assert first.status_code == 200
    assert first.headers["ratelimit-policy"] == '"default";q=1;w=1000'
    assert re.fullmatch(r'"default";r=0;t=(1000|9\d\d)', first.headers["ratelimit"])
    second = client.post("/predict", json=REVIEW, headers=headers)
    assert (second.status_code, kind(second)) == (429, "rate")
    assert 900 < int(second.headers["retry-after"]) <= 1000
    assert second.headers["ratelimit"].startswith('"default";r=0;t=')
    batch = client.post("/predict/batch", json=[REVIEW] * 2, headers=headers)
    assert (batch.status_code, kind(batch)) == (422, "batch")
    assert "lists of up to 1" in batch.json()["detail"]
    assert len(memory.records()) == before + 1
    # Every answer tells it, and reading costs nothing; another key has its own.
    for method, path, body, status in (
        ("GET", "/predictions", None, 200), ("GET", ID, None, 404), ("GET", "/predictions?x=1", None, 422),
        ("POST", "/predict", {"text": 5}, 422), ("GET", "/metrics", None, 403),
    ):  # fmt: skip
        answer = client.request(method, path, json=body, headers=headers)
        assert answer.status_code == status, answer.text
        assert ("ratelimit" in answer.headers) is (status != 403)
    other = bearer(memory.keys.add("other", "predict"))
    answer = client.post("/predict", json=REVIEW, headers=other)
    assert (answer.status_code, answer.headers.get("ratelimit")) == (200, None)


def test_a_batch_costs_its_length(memory: MemoryApi, client: httpx.Client) -> None:
    headers = bearer(memory.keys.add("batches", "predict", rate=0.9999 * 50))
    assert client.post("/predict/batch", json=[REVIEW] * 50, headers=headers).status_code == 422
    answer = client.post("/predict/batch", json=[REVIEW] * 49, headers=headers)
    assert answer.status_code == 200
    assert int(answer.headers["ratelimit"].split(";")[1][2:]) <= 49
    assert client.post("/predict/batch", json=[REVIEW] * 49, headers=headers).status_code in (200, 429)


@given(rate=st.floats(0.001, 5000), steps=st.lists(st.tuples(st.floats(0, 10), st.integers(1, 5000))))
def test_a_limit_never_gives_more_than_its_rate(rate: float, steps: list[tuple[float, int]]) -> None:
    now = 1_000_000.0
    limit = RateLimit(rate, clock=lambda: now)
    taken, began = 0, now
    for passed_s, count in steps:
        now += passed_s
        wait_s = limit.take(count)
        if wait_s == 0:
            taken += count
        elif count <= limit.most:
            now += wait_s + 1e-6
            assert limit.take(count) == 0
            taken += count
        assert taken <= limit.most + rate * (now - began) * (1 + 1e-6) + 1e-3
        left, until = map(int, re.findall(rb";[rt]=(\d+)", limit.headers()[1][1]))
        assert 0 <= left <= limit.most
        assert until <= math.ceil(limit.most / rate)


# The document.


def test_the_document_says_which_key_a_route_needs(client: httpx.Client, api: httpx.Client) -> None:
    for found, anonymous in ((client, list[Any]()), (api, [{}])):
        document = found.get("/openapi.json").json()
        schemes = document["components"]["securitySchemes"]
        assert schemes["bearer"]["scheme"] == "bearer"
        assert (schemes["apiKey"]["in"], schemes["apiKey"]["name"]) == ("header", "X-API-Key")
        needs = {
            (path, method): operation.get("security")
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        }
        routes = {
            (path, "post"): path.split("/")[1]
            for path in ("/predict", "/predict/batch", "/feedback", "/feedback/batch")
        }
        routes |= {("/predictions", "get"): "read", ("/predictions/{prediction_id}", "get"): "read"}
        for route, scope in routes.items():
            assert needs.pop(route) == [*anonymous, {"bearer": [scope]}, {"apiKey": [scope]}]
            assert {"401", "403"} <= set(document["paths"][route[0]][route[1]]["responses"])
        metrics = needs.pop(("/metrics", "get"))
        assert metrics == (None if anonymous else [{"bearer": ["metrics"]}, {"apiKey": ["metrics"]}])
        assert set(needs.values()) == {None}
        assert {path for path, _ in needs} < set(OPEN)
        assert "429" in document["paths"]["/predict"]["post"]["responses"]
