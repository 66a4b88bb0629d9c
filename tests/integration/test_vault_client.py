"""The client before servers that are no healthy Vault."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest

from bdlab.errors import (
    SettingsInvalid,
    VaultUnavailable,
)
from bdlab.settings import VaultSettings
from bdlab.vault.client import VaultClient
from tests.fix_vault import VaultWorld


@contextlib.contextmanager
def answering(status: int, body: bytes) -> Iterator[VaultSettings]:
    """A server that answers every request like that."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield VaultSettings(address=f"http://127.0.0.1:{server.server_port}", timeout_s=2)
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
