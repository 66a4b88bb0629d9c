"""Addresses that are wrong in the usual ways, and the message that says in which."""

from __future__ import annotations

import gc
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bdlab.credentials import KafkaLogin
from bdlab.errors import BrokerUnavailable, SettingsInvalid
from bdlab.health.remote import api_check
from bdlab.kafka.connection import client_config, unreachable_hint
from bdlab.kafka.log_reader import TopicIds
from bdlab.reachability import wrong_scheme
from bdlab.settings import KafkaSettings, Secret, SecurityProtocol, VaultSettings
from bdlab.stack.tls import TlsFolder
from bdlab.vault.client import VaultClient


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that does `answer` with each connection; its port."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    answer(connection)
                except OSError:
                    continue

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def plain_http(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def plain_kafka(connection: socket.socket) -> None:
    """As Kafka does with a request that is no request: it closes the connection."""
    connection.recv(65536)


@pytest.fixture
def secured(tmp_path: Path) -> Callable[[socket.socket], None]:
    """TLS, and in it what Go's servers say to plain HTTP."""
    folder = TlsFolder(tmp_path)
    folder.prepare()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder.files("vault").server_file)

    def answer(connection: socket.socket) -> None:
        if connection.recv(1, socket.MSG_PEEK) != b"\x16":
            connection.recv(65536)
            said = b"Client sent an HTTP request to an HTTPS server.\n"
            connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n" + said)
            return
        with context.wrap_socket(connection, server_side=True) as opened:
            opened.recv(65536)

    return answer


def test_http_and_https_confused_are_named(secured: Callable[[socket.socket], None]) -> None:
    for answer, written, meant in ((plain_http, "https", "http"), (secured, "http", "https")):
        with listening(answer) as port:
            url = f"{written}://127.0.0.1:{port}"
            assert f"write {meant}:// in its address" in wrong_scheme(url)
            assert wrong_scheme(f"{meant}://127.0.0.1:{port}") == ""
            with pytest.raises(SettingsInvalid, match=f"setting vault.address: .*write {meant}://"):
                VaultClient(VaultSettings(address=url)).read("sys/mounts")
            if written == "https":
                assert f"write {meant}://" in api_check(url).message


def test_nobody_there_is_no_wrong_scheme() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert wrong_scheme(f"https://127.0.0.1:{port}") == ""
    assert unreachable_hint(KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}")) == ""


def test_a_wrong_security_protocol_is_named(secured: Callable[[socket.socket], None]) -> None:
    protocol: SecurityProtocol
    for answer, protocol, spoken in (
        (plain_kafka, "SASL_SSL", "no TLS"),
        (plain_kafka, "PLAINTEXT", ""),
        (secured, "SASL_PLAINTEXT", "TLS"),
        (secured, "SSL", ""),
    ):
        with listening(answer) as port:
            servers = f"127.0.0.1:{port}"
            why = unreachable_hint(KafkaSettings(bootstrap_servers=servers, security_protocol=protocol))
        assert why == (f"{servers} speaks {spoken}, and kafka.security_protocol is {protocol}." if spoken else "")


def test_a_name_that_cannot_be_resolved_is_named() -> None:
    why = unreachable_hint(KafkaSettings(bootstrap_servers="no-such-host.invalid:9092"))
    assert why == "The name no-such-host.invalid cannot be resolved: check kafka.bootstrap_servers."


def test_a_broker_address_with_a_scheme_is_named() -> None:
    login = KafkaLogin(server=KafkaSettings(bootstrap_servers="kafka://broker:9092"), username="", password=Secret(""))
    with pytest.raises(BrokerUnavailable, match="brokers have no kafka:// address") as caught:
        client_config(login, client_id="x")
    assert "Write host:port alone" in caught.value.hint


def test_clients_of_a_broker_that_is_away_end_with_their_requests() -> None:
    """Each has some threads. A running command seldom looks for garbage, so that none may be left to that."""

    def threads() -> int:
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208

    login = KafkaLogin(server=KafkaSettings(bootstrap_servers="127.0.0.1:9"), username="", password=Secret(""))
    ids = TopicIds(login, client_id="test")
    gc.disable()
    try:
        counts = []
        for _ in range(4):
            with pytest.raises(BrokerUnavailable):
                ids.ask(0.5)
            counts.append(threads())
    finally:
        gc.enable()
    assert counts[-1] <= counts[0]
