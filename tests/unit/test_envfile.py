"""`.env`: what is read, and what is refused, with the line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdlab import resources
from bdlab.errors import InvalidInput
from bdlab.services import Deployment
from bdlab.stack import DataFolder
from bdlab.vault.bootstrap.plan import NAMES, read_env

GOOD = {
    "POSTGRES_USER": "postgres",
    "POSTGRES_PASSWORD": "'p@ss #word'",
    "BDLAB_POSTGRES_HOST": "db.example",
    "BDLAB_KAFKA_BOOTSTRAP_SERVERS": "one:9092,two:9092",
}


def write(folder: Path, **values: str) -> Path:
    path = folder / ".env"
    path.write_text("".join(f"{name}={value}\n" for name, value in (GOOD | values).items()), "utf-8")
    return path


def test_the_least_that_has_to_be_there(tmp_path: Path) -> None:
    seeds = read_env(write(tmp_path))
    assert seeds.administrator.password.reveal() == "p@ss #word"
    assert "p@ss" not in repr(seeds)
    server = seeds.administrator.server
    assert (server.host, server.port, server.dbname) == ("db.example", 5432, "bdlab")
    assert seeds.kafka.server.bootstrap_servers == "one:9092,two:9092"
    assert (seeds.cidrs, seeds.token_period_s, seeds.lease_ttl_s) == (None, None, None)
    assert read_env(tmp_path / ".env", Deployment("sales")).administrator.server.dbname == "sales_bdlab"
    named = write(tmp_path, BDLAB_POSTGRES_DBNAME="mine")
    assert read_env(named, Deployment("sales")).administrator.server.dbname == "mine"


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    pem = tmp_path / "ca.pem"
    pem.write_text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
    seeds = read_env(
        write(
            tmp_path,
            BDLAB_POSTGRES_PORT="6543",
            BDLAB_POSTGRES_SSLMODE="verify-full",
            BDLAB_POSTGRES_CA_FILE=str(pem),
            BDLAB_KAFKA_SECURITY_PROTOCOL="SASL_SSL",
            BDLAB_KAFKA_USERNAME="shared",
            BDLAB_KAFKA_PASSWORD="secret",
            BDLAB_SECRET_ID_CIDRS="10.0.0.0/8, 127.0.0.1",
            BDLAB_TOKEN_PERIOD="30m",
            BDLAB_LEASE_TTL="90s",
            BDLAB_LEASE_MAX_TTL="1d",
        )
    )
    assert (seeds.administrator.server.port, seeds.administrator.server.sslmode) == (6543, "verify-full")
    assert seeds.postgres_ca_pem == pem.read_text()
    assert (seeds.kafka.server.security_protocol, seeds.kafka.username) == ("SASL_SSL", "shared")
    assert seeds.cidrs == ("10.0.0.0/8", "127.0.0.1/32")
    assert (seeds.token_period_s, seeds.lease_ttl_s, seeds.lease_max_ttl_s) == (1800, 90, 86400)


def test_the_administrator_may_know_the_server_by_an_authority_of_its_own(tmp_path: Path) -> None:
    pem = tmp_path / "ca.pem"
    pem.write_text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
    secured = {"BDLAB_POSTGRES_SSLMODE": "verify-full", "BDLAB_POSTGRES_CA_FILE": "vault"}
    seeds = read_env(write(tmp_path, **secured, POSTGRES_CA_FILE=str(pem)))
    assert (seeds.administrator.server.ca_file, seeds.postgres_ca_pem) == (str(pem), "")
    assert seeds.postgres_authority
    with pytest.raises(InvalidInput, match="POSTGRES_CA_FILE is missing"):
        read_env(write(tmp_path, **secured))


def test_the_example_names_every_setting_and_only_the_password_is_left_to_fill_in(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / ".env.example"
    lines = [line for line in example.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    assert {line.partition("=")[0] for line in lines} == NAMES
    path = tmp_path / ".env"
    path.write_text("\n".join(lines))
    with pytest.raises(InvalidInput, match="POSTGRES_PASSWORD is missing"):
        read_env(path)
    path.write_text("\n".join(lines).replace("POSTGRES_PASSWORD=", "POSTGRES_PASSWORD=x"))
    assert read_env(path).administrator.password.reveal() == "x"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"BDLAB_POSTGRES_HOST": ""}, r"line 3: BDLAB_POSTGRES_HOST is missing"),
        ({"BDLAB_POSTGRES_PORT": "70000"}, r"line 5: BDLAB_POSTGRES_PORT is not valid: expected `int` <= 65535"),
        ({"BDLAB_POSTGRES_PORT": "five"}, r"line 5: BDLAB_POSTGRES_PORT is not valid: expected `int`"),
        ({"BDLAB_POSTGRES_SSLMODE": "maybe"}, r"line 5: BDLAB_POSTGRES_SSLMODE is not valid"),
        ({"BDLAB_KAFKA_SECURITY_PROTOCOL": "TLS"}, r"line 5: BDLAB_KAFKA_SECURITY_PROTOCOL is not valid"),
        ({"BDLAB_KAFKA_USERNAME": "u"}, r"BDLAB_KAFKA_PASSWORD is missing beside the other"),
        ({"BDLAB_SECRET_ID_CIDRS": "10.0.0.1/8"}, r"line 5: BDLAB_SECRET_ID_CIDRS .*host bits set"),
        ({"BDLAB_TOKEN_PERIOD": "soon"}, r"line 5: BDLAB_TOKEN_PERIOD is no duration: 'soon'"),
        ({"BDLAB_LEASE_TTL": "0"}, r"line 5: BDLAB_LEASE_TTL is no duration"),
        ({"BDLAB_LEASE_TTL": "2h", "BDLAB_LEASE_MAX_TTL": "1h"}, r"line 5: BDLAB_LEASE_TTL is longer \(7200 s\)"),
        ({"BDLAB_KAFKA_CA_FILE": "/absent.pem"}, r"line 5: BDLAB_KAFKA_CA_FILE names /absent.pem, which cannot"),
        ({"BDLAB_KAFKA_CA_FILE": resources.__file__}, r"BDLAB_KAFKA_CA_FILE .* holds no certificate"),
        ({"POSTGRES_CA_FILE": "/absent.pem"}, r"line 5: POSTGRES_CA_FILE names /absent.pem, which cannot"),
        ({"BDLAB_POSTGRES_HOTS": "x"}, r"line 5: there is no setting BDLAB_POSTGRES_HOTS"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(InvalidInput, match=said) as refused:
        read_env(path)
    assert str(path) in refused.value.message
    assert "p@ss" not in refused.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("POSTGRES_USER=a\n\nPOSTGRES_USER=b\n", r"line 3: POSTGRES_USER stands on line 1 already"),
        ("# a\nPOSTGRES_USER\n", r"line 2: this is no NAME=value"),
        ("POSTGRES_USER=a\nPOSTGRES_PASSWORD='open\n", r"line 2: this is no NAME=value"),
        ("", r"POSTGRES_USER is missing"),
    ],
)
def test_a_file_that_is_no_env_file(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / ".env"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=said):
        read_env(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no file"):
        read_env(tmp_path / "absent")
    with pytest.raises(InvalidInput, match="Is a directory"):
        read_env(tmp_path)
    path = tmp_path / ".env"
    path.write_bytes(b"POSTGRES_USER=\xff\n")
    with pytest.raises(InvalidInput, match="not UTF-8"):
        read_env(path)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1))
def test_whatever_a_stack_writes_is_read_back(value: str) -> None:
    """A password, or a path with ` #` in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = DataFolder(Path(name))
        folder.write_env(
            {
                "POSTGRES_USER": "postgres",
                "POSTGRES_PASSWORD": value,
                "BDLAB_POSTGRES_HOST": f"/tmp/a #b/{value}",
                "BDLAB_KAFKA_BOOTSTRAP_SERVERS": "localhost:9092",
            }
        )
        seeds = read_env(folder.env_file)
    assert seeds.administrator.password.reveal() == value
    assert seeds.administrator.server.host == f"/tmp/a #b/{value}"


@pytest.mark.parametrize("servers", ["kafka://broker:9092", "broker:ninety", "broker:99999"])
def test_a_broker_address_that_is_none_is_refused(tmp_path: Path, servers: str) -> None:
    path = write(tmp_path, BDLAB_KAFKA_BOOTSTRAP_SERVERS=servers, BDLAB_KAFKA_SECURITY_PROTOCOL="PLAINTEXT")
    with pytest.raises(InvalidInput, match=r"line \d+: BDLAB_KAFKA_BOOTSTRAP_SERVERS is not valid"):
        read_env(path)
