"""Layers, their order, and what a wrong value is answered with."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdlab import settings
from bdlab.errors import SettingsInvalid
from bdlab.settings import KafkaSettings, ProxyUrl, Secret


def _load(tmp_path: Path, toml: str = "", **environ: str) -> settings.Layers:
    file = tmp_path / "bdlab.toml"
    file.write_text(toml, "utf-8")
    return settings.load(config=file, environ=environ)


def test_the_last_layer_that_names_a_field_wins(tmp_path: Path) -> None:
    file = tmp_path / "bdlab.toml"
    file.write_text('[http]\nhost = "file"\n[kafka]\ntopic = "file"\ngroup = "file"\n[postgres]\nhost = "file"\n')
    layers = settings.load(
        config=file,
        environ={"BDLAB_KAFKA_GROUP": "environment", "BDLAB_POSTGRES_HOST": "environment"},
        command_line={"postgres": {"host": "command line"}},
    )
    vault = {"kafka": {"topic": "vault", "group": "vault"}, "postgres": {"host": "vault"}}
    found = layers.settings(vault)
    assert found.http.host == "file"
    assert found.kafka.topic == "vault"
    assert found.kafka.group == "environment"
    assert found.postgres.host == "command line"
    assert found.http.port == 8000


def test_a_deployment_has_names_of_its_own_unless_they_are_set(tmp_path: Path) -> None:
    def names(layers: settings.Layers, vault: settings.Values | None = None) -> tuple[str, ...]:
        found = layers.settings(vault)
        return found.kafka.topic, found.kafka.group, found.postgres.dbname, found.vault.kv_mount

    bdlab = ("predictions", "bdlab-db-consumer", "bdlab", "kv")
    assert names(_load(tmp_path)) == names(_load(tmp_path, BDLAB_DEPLOYMENT="bdlab")) == bdlab
    sales = ("sales-predictions", "sales-db-consumer", "sales_bdlab", "sales-kv")
    assert names(_load(tmp_path, 'deployment = "sales"\n')) == sales
    assert names(_load(tmp_path, 'deployment = "bdlab"\n', BDLAB_DEPLOYMENT="sales")) == sales
    toml = 'deployment = "sales"\n[kafka]\ntopic = "mine"\n[postgres]\nport = 1\n[vault]\nkv_mount = "secret"\n'
    layers = _load(tmp_path, toml, BDLAB_KAFKA_GROUP="ours")
    assert names(layers, {"postgres": {"dbname": "from_vault"}}) == ("mine", "ours", "from_vault", "secret")


def test_vault_can_be_laid_between_the_other_layers_again(tmp_path: Path) -> None:
    layers = _load(tmp_path)
    assert layers.settings({"kafka": {"bootstrap_servers": "one:1"}}).kafka.bootstrap_servers == "one:1"
    assert layers.settings({"kafka": {"bootstrap_servers": "two:2"}}).kafka.bootstrap_servers == "two:2"


def test_the_servers_own_environment_names_are_understood_and_bdlabs_win(tmp_path: Path) -> None:
    assert _load(tmp_path, VAULT_ADDR="http://a:1").settings().vault.address == "http://a:1"
    both = _load(tmp_path, VAULT_ADDR="http://a:1", BDLAB_VAULT_ADDRESS="http://b:2")
    assert both.settings().vault.address == "http://b:2"


@pytest.mark.parametrize(
    ("toml", "environ", "words"),
    [
        ("", {"BDLAB_HTTP_PORT": "eighty"}, ["http.port", "the environment", "int"]),
        ("", {"BDLAB_HTTP_PORT": "70000"}, ["http.port", "the environment", "65535"]),
        ("", {"BDLAB_STARTUP_TIMEOUT": "soon"}, ["startup_timeout_s", "the environment"]),
        ("[http]\nprot = 1\n", {}, ["http.prot", "bdlab.toml", "no such setting"]),
        ("[http]\nprot = 1\n", {}, ["bdlab.toml, line 2", "did you mean http.port?"]),
        ("[htpp]\nport = 1\n", {}, ["htpp", "bdlab.toml, line 2", "no such setting", "did you mean http?"]),
        ("[htpp]\n", {}, ["htpp", "bdlab.toml, line 1", "no such setting"]),
        ('"http.port" = 1\n', {}, ["http.port", "bdlab.toml", "no such setting"]),
        ("http = 1\n", {"BDLAB_HTTP_PORT": "2"}, ["http", "bdlab.toml, line 1", "object"]),
        ('[kafka]\ntopic = "a b"\n', {}, ["kafka.topic", "bdlab.toml"]),
        ('[kafka]\npassword = "x"\n', {}, ["kafka.password", "no such setting"]),
        ("[http\n", {}, ["bdlab.toml", "not valid TOML"]),
        ("", {"BDLAB_VAULT_PROXY": "proxy:3128"}, ["vault.proxy from the environment", "no http(s) URL"]),
        ("[vault]\nproxy = 3128\n", {}, ["vault.proxy", "bdlab.toml", "no http(s) URL"]),
        ("", {"BDLAB_DEPLOYMENT": "Sales"}, ["deployment from the environment", "'Sales'", "a-z", "20 of"]),
        ('deployment = "a-b"\n', {}, ["deployment from", "bdlab.toml", "'a-b'", "a-z"]),
        ("", {"BDLAB_DEPLOYMENT": "a" * 22}, ["deployment", "20 of"]),
        ("", {"BDLAB_DEPLOYMENT": "pg"}, ["deployment", "PostgreSQL", "pg_"]),
    ],
)
def test_a_wrong_value_names_the_setting_and_its_layer(
    tmp_path: Path, toml: str, environ: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        _load(tmp_path, toml, **environ)
    for word in words:
        assert word in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("", ()),
        ("*", ("*",)),
        ("https://shop.example, http://localhost:3000", ("https://shop.example", "http://localhost:3000")),
    ],
)
def test_origins_are_read(listed: str, found: tuple[str, ...]) -> None:
    assert settings.HttpSettings(cors_origins=listed).origins() == found


@pytest.mark.parametrize(
    "wrong",
    ["shop.example", "https://shop.example/", "https://*.shop.example", "HTTPS://shop.example", "null", "ftp://a"],
)
def test_what_is_no_origin_is_named(wrong: str) -> None:
    with pytest.raises(SettingsInvalid, match=re.escape(f"http.cors_origins names {wrong!r}")):
        settings.HttpSettings(cors_origins=f"https://shop.example,{wrong}").origins()


def test_a_named_settings_file_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"nowhere\.toml cannot be read"):
        settings.load(config=tmp_path / "nowhere.toml", environ={})


def test_every_setting_has_an_environment_twin() -> None:
    assert settings.environment_layer(
        {"BDLAB_SINK_BATCH_WAIT_S": "1", "BDLAB_MODEL_PATH": "m", "BDLAB_HTTP_PORT": "", "OTHER": "x"}
    ) == {"sink": {"batch_wait_s": "1"}, "model": {"path": "m"}}


def test_a_secret_never_shows_itself() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]} {secret.__dict__ if hasattr(secret, '__dict__') else ''}"
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2")
    assert secret != Secret("hunter3")


@pytest.mark.parametrize(
    ("listed", "servers"),
    [
        ("", ()),
        ("kafka", (("kafka", 9092),)),
        ("one:9093, two:9094,", (("one", 9093), ("two", 9094))),
        ("SASL_SSL://kafka:9095,[::1]:9096", (("kafka", 9095), ("::1", 9096))),
    ],
)
def test_bootstrap_servers_are_read_as_the_client_library_does(
    listed: str, servers: tuple[tuple[str, int], ...]
) -> None:
    assert KafkaSettings(bootstrap_servers=listed).servers() == servers


def test_a_bootstrap_server_whose_port_is_no_number_is_named() -> None:
    with pytest.raises(SettingsInvalid, match="kafka:ninety"):
        KafkaSettings(bootstrap_servers="kafka:ninety").servers()


def test_a_proxy_shows_neither_user_nor_password(tmp_path: Path) -> None:
    found = _load(tmp_path, BDLAB_VAULT_PROXY="https://me:hunter2@proxy:3128").settings().vault
    assert found.proxy.reveal() == "https://me:hunter2@proxy:3128"
    assert found.proxy.shown == "https://proxy:3128"
    assert "hunter2" not in repr(found)
    with pytest.raises(SettingsInvalid) as refused:
        _load(tmp_path, BDLAB_VAULT_PROXY="socks5://me:hunter2@proxy:1080")
    assert "hunter2" not in refused.value.message


@given(scheme=st.sampled_from(["http", "https", "socks5", ""]), rest=st.text(max_size=20))
def test_whatever_is_said_of_a_proxy_its_password_is_not_repeated(scheme: str, rest: str) -> None:
    value = f"{scheme}://me:hunter2{quote(rest, safe=':[]/?#')}@proxy:3128"
    try:
        url = ProxyUrl(value)
        told = f"{url} {url!r} {url.shown}"
    except ValueError as refused:
        told = str(refused)
    assert "hunter2" not in told


def test_where_a_proxy_is_not_used_has_the_names_that_others_read(tmp_path: Path) -> None:
    assert _load(tmp_path, NO_PROXY="a,b").settings().vault.no_proxy == "a,b"
    assert _load(tmp_path, NO_PROXY="a", no_proxy="b").settings().vault.no_proxy == "b"
    assert _load(tmp_path, no_proxy="b", BDLAB_VAULT_NO_PROXY="c").settings().vault.no_proxy == "c"
