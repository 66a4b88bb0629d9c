"""The client before servers that are no healthy Vault."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hvac.v1
import msgspec
import pytest

from bdlab.errors import SettingsInvalid, VaultError, VaultUnavailable
from bdlab.settings import ProxyUrl, VaultSettings
from bdlab.stack import TlsFolder
from bdlab.vault.client import VaultClient
from tests.fix_pipeline import Pipeline
from tests.fix_vault import VaultWorld
from tests.relay import Relay


@contextlib.contextmanager
def answering(
    status: int, body: bytes, *, tls: TlsFolder | None = None, heard: list[str] | None = None
) -> Iterator[VaultSettings]:
    """A server that answers every request like that; `heard` gets the heads of the requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if heard is not None:
                heard.append(str(self.headers))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.files("vault").server_file)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield VaultSettings(address=f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}", timeout_s=2)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (412, "behind its cluster"),
        (429, "too many requests"),
        (472, "disaster-recovery standby"),
        (473, "performance standby"),
        (500, "failed at kv/data/x: disk full"),
        (501, "not initialised"),
        (502, "gateway"),
        (503, "sealed"),
        (504, "gateway"),
    ],
)
def test_answers_that_pass(status: int, said: str) -> None:
    with answering(status, b'{"errors": ["disk full"]}') as vault:
        client = VaultClient(vault)
        with pytest.raises(VaultUnavailable, match=said) as raised:
            client.read("kv/data/x")
        client.close()
    assert vault.address in raised.value.message


def test_something_else_than_vault_answers() -> None:
    with answering(200, b"<html>welcome</html>") as vault:
        client = VaultClient(vault)
        for ask in (client.health, lambda: client.read("kv/data/x")):
            with pytest.raises(VaultUnavailable, match="is no Vault"):
                ask()
        client.close()


def test_a_server_that_never_answers_is_given_up() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        vault = VaultSettings(address=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.3)
        client = VaultClient(vault)
        began = time.monotonic()
        with pytest.raises(VaultUnavailable, match="timed out"):
            client.health()
        client.close()
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("address", ["", "localhost:8200", "ftp://localhost", "http://"])
def test_an_address_that_is_no_url(address: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"vault\.address"):
        VaultClient(VaultSettings(address=address)).health()


def test_an_authority_file_that_is_missing(vault_world: VaultWorld) -> None:
    vault = msgspec.structs.replace(
        vault_world.vault, address=vault_world.vault.address.replace("http:", "https:"), ca_file="/absent.pem"
    )
    with pytest.raises(SettingsInvalid, match=r"vault\.ca_file: .*/absent\.pem"):
        VaultClient(vault).health()


_HEALTH = b'{"initialized": true, "sealed": false}'
#: Where a client library would find a proxy, from which all that it sends is seen.
PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def named_everywhere(url: str) -> dict[str, str]:
    return dict.fromkeys(PROXIES, url) | {"NO_PROXY": "", "no_proxy": ""}


def test_nothing_of_the_environment_reaches_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("VAULT_TOKEN", "hunter2")
    monkeypatch.setenv("NETRC", str(netrc))
    heard: list[str] = []
    with Relay() as proxy, answering(200, _HEALTH, heard=heard) as vault:
        for name, value in named_everywhere(proxy.url).items():
            monkeypatch.setenv(name, value)
        with contextlib.closing(VaultClient(vault)) as client:
            assert client.health().active
    assert proxy.seen == []
    [head] = heard
    assert "uthorization" not in head
    assert "X-Vault-Token" not in head


def test_an_authority_counts_only_where_the_settings_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted = TlsFolder(tmp_path)
    trusted.prepare()
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(trusted.ca_file))
    with answering(200, _HEALTH, tls=trusted) as vault:
        with (
            contextlib.closing(VaultClient(vault)) as client,
            pytest.raises(VaultError, match=r"certificate of Vault .* is not accepted"),
        ):
            client.health()
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, "/absent.pem")
        # The library reads these when it is imported.
        monkeypatch.setattr(hvac.v1, "VAULT_CLIENT_CERT", "/absent.pem")
        monkeypatch.setattr(hvac.v1, "VAULT_CAPATH", "/absent")
        named = msgspec.structs.replace(vault, ca_file=str(trusted.ca_file))
        with contextlib.closing(VaultClient(named)) as client:
            assert client.health().active
        with Relay() as proxy:
            tunnelled = msgspec.structs.replace(named, proxy=ProxyUrl(proxy.url))
            with contextlib.closing(VaultClient(tunnelled)) as client:
                assert client.health().active
        assert proxy.seen == [("CONNECT", vault.address.removeprefix("https://"))]


@pytest.mark.parametrize(
    ("no_proxy", "passes"),
    [("", True), ("elsewhere.example", True), ("127.0.0.1", False), ("127.0.0.0/8", False), ("*", False)],
)
def test_a_proxy_that_is_named_is_used_and_told(monkeypatch: pytest.MonkeyPatch, no_proxy: str, passes: bool) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # has its say through the settings only
    with answering(200, _HEALTH) as vault, Relay() as proxy:
        url = ProxyUrl(proxy.url.replace("//", "//me:hunter2@"))
        with contextlib.closing(VaultClient(msgspec.structs.replace(vault, proxy=url, no_proxy=no_proxy))) as client:
            assert client.health().active
            assert (f"(through the proxy {proxy.url})" in str(client)) is passes
            assert "hunter2" not in str(client)
    assert bool(proxy.seen) is passes


def test_a_proxy_that_is_away_is_what_the_message_is_about() -> None:
    with answering(200, _HEALTH) as vault:
        with Relay() as gone:
            url = ProxyUrl(gone.url.replace("//", "//me:hunter2@"))
        client = VaultClient(msgspec.structs.replace(vault, proxy=url))
        with contextlib.closing(client), pytest.raises(VaultUnavailable) as refused:
            client.health()
    assert f"through the proxy {gone.url}" in refused.value.message
    assert "vault.proxy" in refused.value.hint
    assert "hunter2" not in f"{refused.value.message} {refused.value!r}"


@pytest.mark.once
@pytest.mark.plaintext("a tunnel's content would not be seen")
@pytest.mark.parametrize(
    "command", [("status", "--json"), ("predict", "--json", "Tasty."), ("vault-init",), ("vault-token", "--", "true")]
)
def test_no_command_tells_a_proxy_of_the_environment_anything(pipeline: Pipeline, command: tuple[str, ...]) -> None:
    """Neither one that listens, nor one that is dead; the one that is named hears all."""
    said = {pipeline.run(*command).returncode}
    with Relay() as proxy:
        said.add(pipeline.run(*command, **named_everywhere(proxy.url)).returncode)
        assert proxy.seen == []
    said.add(pipeline.run(*command, **named_everywhere(proxy.url)).returncode)
    with Relay() as proxy:
        said.add(pipeline.run(*command, BDLAB_VAULT_PROXY=proxy.url, NO_PROXY="").returncode)
        assert ("POST", f"{pipeline.vault.address}/v1/auth/approle/login") in proxy.seen
    assert len(said) == 1
