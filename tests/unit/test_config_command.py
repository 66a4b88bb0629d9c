"""`bdlab config` as a person calls it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bdlab.settings import FIELDS
from tests.json_results import as_documented

PASSWORD = "hunter2hunter2"
SETTINGS = f"""
deployment = "sales"
[http]
port = 8001
[vault]
proxy = "http://me:{PASSWORD}@127.0.0.1:1"
"""


def config(folder: Path, *arguments: str, toml: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "mine.toml").write_text(toml)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BDLAB_", "VAULT_"))}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "bdlab_cli", "config", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**clean, "BDLAB_CONFIG": "mine.toml", "BDLAB_VAULT_IDENTITY_DIR": str(folder), **environment},
    )


def test_each_setting_is_shown_with_its_layer_and_no_secret(tmp_path: Path) -> None:
    done = config(
        tmp_path, "show", "--no-vault", "--json", toml=SETTINGS, VAULT_CACERT="ca.pem", BDLAB_HTTP_PORT="8002"
    )
    assert done.returncode == 0, done.stderr
    settings = as_documented("config show", done.stdout)["settings"]
    found = {each["name"]: (each["value"], each["from"]) for each in settings}
    assert list(found) == list(FIELDS)
    assert found["http.port"] == (8002, "the environment (BDLAB_HTTP_PORT)")
    assert found["vault.ca_file"] == ("ca.pem", "the environment (VAULT_CACERT)")
    assert found["vault.proxy"] == ("***", "mine.toml, line 6")
    assert found["deployment"] == ("sales", "mine.toml, line 2")
    assert found["kafka.topic"] == ("sales-predictions", "default")
    assert found["startup_timeout_s"] == (60.0, "default")
    table = config(tmp_path, "show", "--no-vault", toml=SETTINGS)
    assert table.returncode == 0, table.stderr
    assert "sales-predictions" in table.stdout
    assert PASSWORD not in done.stdout + done.stderr + table.stdout + table.stderr


def test_a_vault_that_hangs_is_said_so_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        done = config(tmp_path, "show", "--json", VAULT_ADDR=f"http://127.0.0.1:{silent.getsockname()[1]}")
        took_s = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert "127.0.0.1" in json.loads(done.stdout)["vault_not_read"]
    assert took_s < 30  # 5 s, and the start of a process on a busy machine


@pytest.mark.parametrize(
    ("toml", "environment", "words"),
    [
        ("[http]\nprot = 1\n", {}, ["http.prot", "mine.toml, line 2", "did you mean http.port?"]),
        ("[kafak]\ntopic = 'a'\n", {}, ["kafak", "did you mean kafka?"]),
        (
            "[http]\nport = 0.5\nworkers = 0\n",
            {},
            ["http.port from mine.toml, line 2", "http.workers from mine.toml, line 3"],
        ),
        ("", {"BDLAB_HTTP_PROT": "1"}, ["BDLAB_HTTP_PROT", "did you mean BDLAB_HTTP_PORT?"]),
        ("", {"BDLAB_DLQ_LIMTI": "1"}, ["BDLAB_DLQ_LIMTI", "did you mean BDLAB_DLQ_LIMIT?"]),
        ("", {"BDLAB_QQ": ""}, ["BDLAB_QQ: no setting and no option has this variable"]),
        ("[http]\nca_file = 'none.pem'\n", {}, ["setting http.ca_file names none.pem", "No such file"]),
        ("[kafka]\nbootstrap_servers = 'kafka:ninety'\n", {}, ["kafka:ninety"]),
        ("[http]\ncors_origins = 'shop.example'\n", {}, ["http.cors_origins names 'shop.example'"]),
        ("[http]\nrequire_key = 'reed'\n", {}, ["reed in 'reed' is no scope"]),
        ("[http\n", {}, ["not valid TOML"]),
    ],
)
def test_faults_are_named_where_they_are(
    tmp_path: Path, toml: str, environment: dict[str, str], words: list[str]
) -> None:
    done = config(tmp_path, "check", "--no-vault", toml=toml, **environment)
    assert done.returncode == 2, done.stdout
    for word in words:
        assert word in done.stdout + done.stderr


def test_what_does_not_fit_is_a_warning_and_what_fits_is_nothing(tmp_path: Path) -> None:
    done = config(tmp_path, "check", "--no-vault", "--json", toml="[kafka]\nsession_timeout_s = 2\n")
    assert done.returncode == 0, done.stderr
    (found,) = as_documented("config check", done.stdout)["findings"]
    assert (found["gravity"], found["name"]) == ("warning", "kafka.session_timeout_s")
    done = config(
        tmp_path, "check", "--no-vault", BDLAB_DLQ_LIMIT="3", BDLAB_LEASE_TTL="1h", BDLAB_API_KEY="x", BDLAB_DEBUG="1"
    )
    assert (done.returncode, done.stdout) == (0, "Nothing was found to be wrong.\n"), done.stderr
