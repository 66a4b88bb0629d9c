"""Certificates for Kafka from a real Vault: who may become what, and that a second run changes nothing."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bdlab.credentials import ADMIN_NAME, BROKER_NAME
from bdlab.errors import VaultError
from bdlab.stack import OpenBao
from bdlab.vault import pki
from bdlab.vault.client import VaultClient
from tests.fix_apache import prepare_authority, root_client
from tests.fix_servers import start_or_skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultClient]:
    server = start_or_skip(OpenBao(tmp_path_factory.mktemp("pki")))
    try:
        made = root_client(server)
        assert prepare_authority(made) == [
            "secrets engine pki-kafka",
            "certificate authority for Kafka",
            "certificate role broker",
            "certificate role admin",
        ]
        yield made
        made.close()
    finally:
        server.stop()


def decoded(pem: str, folder: Path) -> dict[str, Any]:
    file = folder / "certificate.pem"
    file.write_text(pem)
    found: dict[str, Any] = ssl._ssl._test_decode_cert(str(file))  # type: ignore[attr-defined]
    return found


def test_a_second_run_changes_nothing_and_hosts_are_added(client: VaultClient) -> None:
    assert prepare_authority(client) == []
    with pytest.raises(VaultError, match="kafka-7"):
        pki.issue(client, pki.BROKER_ROLE, hosts=["kafka-7"])
    assert prepare_authority(client, hosts=["kafka-7"]) == ["certificate role broker"]
    assert prepare_authority(client, hosts=["kafka-8"]) == ["certificate role broker"]
    assert prepare_authority(client) == []
    pki.issue(client, pki.BROKER_ROLE, hosts=["kafka-7", "kafka-8"])
    assert len(client.request("list", f"{pki.KAFKA.mount}/issuers")["data"]["keys"]) == 1


def test_a_brokers_certificate_names_its_hosts_and_fits_its_key(client: VaultClient, tmp_path: Path) -> None:
    issued = pki.issue(client, pki.BROKER_ROLE, ttl_s=3600)
    found = decoded(issued.pem, tmp_path)
    assert found["subject"] == ((("commonName", BROKER_NAME),),)
    assert set(found["subjectAltName"]) == {("DNS", "localhost"), ("IP Address", "127.0.0.1")}
    assert expires_within(found, timedelta(hours=1, minutes=5))
    chain = tmp_path / "chain.pem"
    chain.write_text(f"{issued.key.reveal()}\n{issued.pem}")
    # Raises where key and certificate do not belong together.
    ssl.create_default_context(cadata=issued.ca_pem).load_cert_chain(chain)
    assert "BEGIN PRIVATE KEY" in issued.key.reveal()
    assert issued.key.reveal() not in repr(issued)


def test_an_administrators_certificate_is_short_lived_and_names_no_host(client: VaultClient, tmp_path: Path) -> None:
    found = decoded(pki.issue(client, pki.ADMIN_ROLE).pem, tmp_path)
    assert found["subject"] == ((("commonName", ADMIN_NAME),),)
    assert "subjectAltName" not in found
    assert expires_within(found, timedelta(hours=1, minutes=5))
    too_long = pki.issue(client, pki.ADMIN_ROLE, ttl_s=30 * 86400)
    assert expires_within(decoded(too_long.pem, tmp_path), timedelta(hours=1, minutes=5))


@pytest.mark.parametrize(
    ("role", "name"), [(pki.BROKER_ROLE, ADMIN_NAME), (pki.ADMIN_ROLE, BROKER_NAME), (pki.ADMIN_ROLE, "localhost")]
)
def test_no_role_gives_out_the_other_ones_name(client: VaultClient, role: str, name: str) -> None:
    with pytest.raises(VaultError, match="not allowed by this role"):
        client.write(f"{pki.KAFKA.mount}/issue/{role}", {"common_name": name})


def expires_within(found: dict[str, Any], limit: timedelta) -> bool:
    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(found["notAfter"]), UTC)
    return end < datetime.now(UTC) + limit
