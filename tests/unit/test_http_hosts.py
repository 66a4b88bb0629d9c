"""Which Host a request may name, and what becomes of one that a web page of somebody else's sends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdlab.errors import SettingsInvalid
from bdlab.hosts import LOOPBACK, AllowedHosts, Host, is_this_machine, parse
from bdlab.serving.problems import PROBLEM_JSON
from bdlab.settings import HttpSettings, Settings
from tests.fix_api import MemoryApi, serving

ANYWHERE = "0.0.0.0"  # noqa: S104 - what the tests are about
OPEN = ("/health", "/health/live", "/health/ready", "/metrics")
GUARDED = ("/predictions", "/vault-status", "/kafka-status", "/docs", "/openapi.json", "/nothing")


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("localhost", Host("localhost", None)),
        ("LocalHost:8000", Host("localhost", 8000)),
        ("app.example.org.", Host("app.example.org", None)),
        ("app.example.org.:80", Host("app.example.org", 80)),
        ("my_app-1", Host("my_app-1", None)),
        ("127.0.0.1:1", Host("127.0.0.1", 1)),
        ("[::1]", Host("[::1]", None)),
        ("[0:0:0:0:0:0:0:1]:65535", Host("[::1]", 65535)),
        ("[FD00::5]", Host("[fd00::5]", None)),
    ],
)
def test_a_host_is_read_as_it_may_be_written(text: str, host: Host) -> None:
    assert parse(text) == host


@pytest.mark.parametrize(
    "text",
    ["", ".", "a..b", "a b", "localhost:", "localhost:0", "localhost:65536", "localhost:-1", "localhost:1:2",
     "http://localhost", "localhost/", "me@localhost", "::1", "[::1", "[localhost]", "[1.2.3]", "*",
     "*.example", "bücher.example", "localhost\n", "localhost,evil"],
)  # fmt: skip
def test_what_is_no_host_is_none(text: str) -> None:
    assert parse(text) is None
    if text not in ("", "*", "localhost,evil", "localhost\n"):
        with pytest.raises(SettingsInvalid, match=r"http\.allowed_hosts"):
            AllowedHosts(text, bound="127.0.0.1")


@given(st.sampled_from(LOOPBACK), st.sampled_from(["", "."]), st.none() | st.integers(1, 65535), st.booleans())
def test_this_machines_names_are_allowed_however_they_are_written(
    name: str, dot: str, port: int | None, upper: bool
) -> None:
    text = f"{name}{dot}" + (f":{port}" if port else "")
    host = parse(text.upper() if upper else text)
    assert host is not None
    assert host in AllowedHosts("", bound="127.0.0.1")


@given(st.text(st.sampled_from("localhst127.0[:]1eviExp-_8 \t@/\\,;é")))
def test_no_other_text_is_taken_for_this_machine(text: str) -> None:
    host = parse(text)
    if host is not None and host in AllowedHosts("", bound="127.0.0.1"):
        assert text.lower().removesuffix(f":{host.port}").removesuffix(".") in LOOPBACK


def test_an_entry_with_a_port_is_for_that_port_and_one_without_for_any() -> None:
    allowed = AllowedHosts(" App.Example.org:8000 , other ,[fd00::5]", bound=ANYWHERE)
    for inside in ("app.example.org:8000", "other", "other:9", "[FD00:0::5]:1"):
        assert parse(inside) in allowed
    for outside in ("app.example.org", "app.example.org:8001", "localhost", ANYWHERE, "x.other"):
        assert parse(outside) not in allowed
    assert parse("evil.example") in AllowedHosts("localhost,*", bound=ANYWHERE)


@pytest.mark.parametrize(
    ("bound", "inside"), [("127.0.0.2", "127.0.0.2"), ("::1", "[::1]"), ("lo.example", "lo.example")]
)
def test_the_address_that_it_listens_on_is_one_of_its_names(bound: str, inside: str) -> None:
    assert parse(inside) in AllowedHosts("", bound=bound)
    assert parse(inside) not in AllowedHosts("app", bound=bound)


# Over HTTP.


def ask(client: httpx.Client, *lines: str, target: str = "GET /predictions HTTP/1.1") -> tuple[int, bytes]:
    """Status and the whole answer to a head of these lines; the connection is closed by the server."""
    address = (client.base_url.host, client.base_url.port or 0)
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall("\r\n".join([target, *lines, "Connection: close", "", ""]).encode("latin-1"))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return int(answer.split(b" ", 2)[1]), answer


@pytest.mark.parametrize("path", GUARDED)
def test_a_host_that_is_none_of_its_own_is_421(api: httpx.Client, path: str) -> None:
    answer = api.get(path, headers={"Host": "evil.example"})
    assert (answer.status_code, answer.headers["content-type"]) == (421, PROBLEM_JSON)
    assert "http.allowed_hosts" in answer.json()["detail"]
    assert answer.json()["type"] == "urn:bdlab:problem:wrong-host"


@pytest.mark.parametrize("path", OPEN)
def test_probes_and_scrapes_may_name_any_host(api: httpx.Client, path: str) -> None:
    for host in ("10.1.2.3:8000", "evil.example"):
        assert api.get(path, headers={"Host": host}).status_code == 200
    assert ask(api, target=f"GET {path} HTTP/1.0")[0] == 200
    assert api.get(f"{path}/../predictions", headers={"Host": "evil.example"}).status_code in (404, 421)


def test_nothing_is_published_for_another_host(api: httpx.Client, memory_api: MemoryApi) -> None:
    for path, body in (("/predict", {"text": "good"}), ("/predict/batch", [{"text": "good"}])):
        assert api.post(path, json=body, headers={"Host": "evil.example"}).status_code == 421
        assert api.post(path, json=body, headers={"Host": "localhost"}).status_code == 200
    assert len(memory_api.records()) == 2
    assert 'route="unmatched",status="421"} 2.0' in api.get("/metrics").text


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((), 400),
        (("Host:",), 400),
        (("Host: localhost", "Host: localhost"), 400),
        (("Host: localhost", "Host: evil.example"), 400),
        (("Host: localhost@evil.example",), 400),
        (("Host: localhost.evil.example",), 421),
        (("Host: evil.example", "X-Forwarded-Host: localhost"), 421),
        (("host: LOCALHOST.:8000",), 200),
        (("Host: [::1]:8000",), 200),
    ],
)
def test_a_head_without_one_host_is_400(api: httpx.Client, lines: tuple[str, ...], status: int) -> None:
    found, answer = ask(api, *lines)
    assert found == status, answer
    if status == 400:
        assert b"urn:bdlab:problem:bad-host" in answer


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost/predictions", "localhost", 200),
        ("http://LOCALHOST:8000/predictions?limit=1", "evil.example", 200),
        ("http://evil.example/predictions", "localhost", 421),
        ("https://evil.example:443/predictions", "localhost", 421),
        ("http://me@localhost/predictions", "localhost", 400),
        ("http://evil.example/health", "evil.example", 200),
    ],
)
def test_of_a_target_that_is_a_whole_url_the_host_counts(
    api: httpx.Client, target: str, host: str, status: int
) -> None:
    found, answer = ask(api, f"Host: {host}", target=f"GET {target} HTTP/1.1")
    assert found == status, answer


def test_other_forms_of_a_target_are_no_way_in(api: httpx.Client) -> None:
    for target in ("OPTIONS *", "CONNECT localhost:8000", "GET evil.example/predictions", "GET http://[x/predictions"):
        assert ask(api, "Host: localhost", target=f"{target} HTTP/1.1")[0] in (400, 404, 405)
    assert ask(api, "Host: evil.example", target="GET //localhost/predictions HTTP/1.1")[0] in (400, 421)
    assert ask(api, target="GET http://localhost/predictions HTTP/1.1")[0] == 400


def test_two_hosts_and_what_is_none_are_refused_on_every_route(api: httpx.Client) -> None:
    for lines in (("Host: a", "Host: b"), ("Host: no host",)):
        assert ask(api, *lines, target="GET /health/live HTTP/1.1")[0] == 400


@pytest.fixture
def named_api() -> Iterator[httpx.Client]:
    http = HttpSettings(host=ANYWHERE, allowed_hosts="app.example.org,10.0.0.5:80", require_key="none")
    api = MemoryApi(Settings(http=http))
    with api.producer, serving(api.parts) as client:
        yield client


def test_the_setting_names_who_else_may_be_meant(named_api: httpx.Client) -> None:
    def status(host: str) -> int:
        return named_api.get("/predictions", headers={"Host": host}).status_code

    assert status("app.example.org:8443") == 200
    assert status("10.0.0.5") == 200  # http's own port
    assert status("10.0.0.5:8000") == 421
    assert status("localhost") == 421
    assert named_api.get("/health/live").status_code == 200


def test_a_star_takes_any_host_but_not_two() -> None:
    api = MemoryApi(Settings(http=HttpSettings(host=ANYWHERE, allowed_hosts="*", require_key="none")))
    with api.producer, serving(api.parts) as client:
        assert client.get("/predictions", headers={"Host": "evil.example"}).status_code == 200
        assert ask(client, "Host: a", "Host: b")[0] == 400


# What a page of another origin may send without asking first (the Fetch standard's simple requests).

NO_JSON = ("application/cloudevents+json", "application/json, text/plain")
SIMPLE = (None, "", "text/plain", "text/plain;charset=UTF-8", "text/plain; application/json",
          "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")  # fmt: skip


@pytest.mark.parametrize("content_type", [*SIMPLE, *NO_JSON])
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_body_that_is_not_said_to_be_json_is_never_stored(
    api: httpx.Client, memory_api: MemoryApi, path: str, content_type: str | None
) -> None:
    body = msgspec.json.encode([{"text": "good"}] if path.endswith("batch") else {"text": "good"})
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = api.post(path, content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (415, PROBLEM_JSON)
    assert "application/json" in answer.json()["detail"]
    assert memory_api.records() == []


def test_json_beside_another_content_type_is_415(api: httpx.Client) -> None:
    both = [("Content-Type", "application/json"), ("Content-Type", "text/plain")]
    assert api.post("/predict", content=b'{"text": "a"}', headers=both).status_code == 415


# At the start of `bdlab serve`.


def serve(*options: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BDLAB_", "VAULT_"))}
    return subprocess.run(
        [sys.executable, "-m", "bdlab_cli", "serve", "--port", "0", *options],
        env=kept | {"VAULT_ADDR": "http://127.0.0.1:1", "BDLAB_STARTUP_TIMEOUT": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_an_address_for_other_machines_needs_names() -> None:
    for options in (("--host", ANYWHERE), ("--host", ANYWHERE, "--allowed-hosts", " , "), ("--host", "::")):
        done = serve(*options)
        assert done.returncode == 2, done.stderr
        assert "http.allowed_hosts has to be set" in done.stderr
        assert "--allowed-hosts" in done.stderr
    done = serve("--allowed-hosts", "http://app.example.org")
    assert done.returncode == 2, done.stderr
    assert "'http://app.example.org' is neither a host name nor an address" in done.stderr


def test_with_names_it_goes_on_to_look_for_vault() -> None:
    for options in (("--host", ANYWHERE, "--allowed-hosts", "app"), ("--host", "127.0.0.2")):
        done = serve(*options)
        assert done.returncode == 1, done.stderr
        assert "Vault" in done.stderr


@pytest.mark.parametrize(
    ("name", "here"),
    [
        *((name, True) for name in ("localhost", "127.0.0.1", "127.8.9.1", "::1")),
        *((name, False) for name in ("", "0.0.0.0", "::", "localhost.example.org", "127.0.0.1.nip.io", "128.0.0.1")),  # noqa: S104
    ],
)
def test_what_can_only_be_this_machine(name: str, here: bool) -> None:
    assert is_this_machine(name) is here
