"""`bdlab up` on Apache Kafka: secured from the start, and nothing lost when the broker is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bdlab.stack.servers import binaries, java
from tests.fix_servers import installed_or_skip
from tests.fix_up import Up, get, no_secret_is_shown, outlive, post, post_until_acknowledged, shell, wait_until_stored
from tests.waiting import until

pytestmark = pytest.mark.kafka

UP_WITHIN_S = 300.0
#: Long enough for a slow machine to have everything up before the first renewal.
CERTIFICATE_TTL_S = 75


@pytest.fixture(autouse=True)
def _installed() -> None:
    with installed_or_skip():
        java.kafka()
        binaries.java()


def port_of(up: Up, name: str) -> int:
    return int(json.loads((up.folder.path / "ports.json").read_text())[name])


@contextmanager
def connected(port: int, ca_file: Path) -> Iterator[ssl.SSLSocket]:
    """A connection to a server whose certificate is verified, by a client that has none."""
    context = ssl.create_default_context(cafile=str(ca_file))
    with (
        socket.create_connection(("127.0.0.1", port), 10) as connection,
        context.wrap_socket(connection, server_hostname="127.0.0.1") as secured,
    ):
        yield secured


def shown_certificate(port: int, ca_file: Path) -> str:
    with connected(port, ca_file) as secured:
        return ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True) or b"")


def shows_another(port: int, ca_file: Path, former: str) -> bool:
    """Whether a listener shows the newest certificate, and no former one."""
    shown = shown_certificate(port, ca_file)
    return shown != former and shown in (ca_file.parent / "server.pem").read_text()


def first_byte(port: int, ca_file: Path) -> bytes:
    with connected(port, ca_file) as secured:
        return secured.recv(1)


def test_secured_and_nothing_is_lost(tmp_path: Path, start_up: Callable[..., Up]) -> None:
    data_dir = tmp_path / "a stack"
    up = start_up(data_dir)
    evaluate = up.wait_for(r'^ +(eval "\$\(bdlab env .*\)")$', UP_WITHIN_S)[1]
    status, first = post(up.endpoint, {"text": "Terrible."})
    assert status == 200
    wait_until_stored(up.endpoint, first["id"])

    # Every listener speaks TLS with a certificate of Vault's authority, and to nobody who does not.
    ca_file = up.folder.tls / "kafka" / "ca.pem"
    client_port = port_of(up, "kafka")
    assert "BEGIN CERTIFICATE" in shown_certificate(client_port, ca_file)
    stranger = AdminClient(
        {"bootstrap.servers": f"127.0.0.1:{client_port}", "security.protocol": "PLAINTEXT", "log_level": 0}
    )
    with pytest.raises(KafkaException):
        stranger.list_topics(timeout=3)
    # Who has no certificate does not get to the administrators' listener.
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
        first_byte(port_of(up, "kafka-internal"), ca_file)
    no_secret_is_shown(up.folder)

    # kill -9 of the broker: what was acknowledged before and after is stored.
    pid = json.loads((up.folder.records / "kafka.json").read_text())["pid"]
    ids = [first["id"]]
    for _ in range(20):
        status, answer = post(up.endpoint, {"text": "Acknowledged before the kill."})
        assert status == 200
        ids.append(answer["id"])
    os.kill(pid, signal.SIGKILL)
    up.wait_for("restarted kafka", UP_WITHIN_S)
    answer = post_until_acknowledged(up.endpoint, {"text": "And after it."})
    for prediction_id in (*ids, answer["id"]):
        wait_until_stored(up.endpoint, prediction_id)
    verified = shell(f"{evaluate}\nbdlab verify --wait 60\nbdlab status")
    assert verified.returncode == 0, verified.stdout + verified.stderr

    # A second run finds log and rows, and needs no new certificate.
    before = (up.folder.tls / "kafka" / "server.pem").read_bytes()
    assert up.signal_and_wait(signal.SIGINT) == 0
    again = start_up(data_dir)
    again.wait_for("eval", UP_WITHIN_S)
    assert (up.folder.tls / "kafka" / "server.pem").read_bytes() == before
    kept = {row["id"] for row in get(again.endpoint, "/predictions?limit=100")}
    assert kept == {*ids, answer["id"]}
    verified = shell(f"{evaluate}\nbdlab verify --wait 60")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_certificates_are_renewed_and_the_broker_goes_on(tmp_path: Path, start_up: Callable[..., Up]) -> None:
    """Also: a folder that the broker in memory has used before, and was killed with."""
    data_dir = tmp_path / "stack"
    plain = start_up(data_dir, "--broker", "tansu")
    plain.wait_for("eval", UP_WITHIN_S)
    assert post(plain.endpoint, {"text": "Good."})[0] == 200
    plain.process.kill()
    plain.process.wait()
    up = start_up(data_dir, "--broker", "kafka", "--certificate-ttl", str(CERTIFICATE_TTL_S))
    up.wait_for("Apache Kafka from now on, which the folder keeps", UP_WITHIN_S)
    up.wait_for("started kafka", UP_WITHIN_S)
    ca_file, port = up.folder.tls / "kafka" / "ca.pem", port_of(up, "kafka")
    record = json.loads((ca_file.parent / "issued.json").read_text())
    pid = json.loads((up.folder.records / "kafka.json").read_text())["pid"]
    first = shown_certificate(port, ca_file)
    up.wait_for("broker-certificate: renewed, good until", UP_WITHIN_S)
    # The broker applies it a moment after it has taken the order.
    for each in (port, port_of(up, "kafka-controller")):
        until(partial(shows_another, each, ca_file, first), 20)
    # The first one's time is over, and everything still works, without a restart.
    outlive([record["ends_at"]])
    status, answer = post(up.endpoint, {"text": "Good."})
    assert status == 200
    wait_until_stored(up.endpoint, answer["id"])
    assert json.loads((up.folder.records / "kafka.json").read_text())["pid"] == pid
