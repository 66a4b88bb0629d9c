"""`bdlab up --tls`: nothing but verified TLS, and certificates that are renewed while everything runs."""

from __future__ import annotations

import json
import shlex
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest

from bdlab.health.remote import shown_certificate
from bdlab.stack import DataFolder
from bdlab.stack.tls import SERVERS, TlsFolder, temporary_certificates
from tests.fix_database import HOSTILE_LIBPQ
from tests.fix_up import Up, no_secret_is_shown, outlive, shell
from tests.waiting import until

#: Short, and long enough for a slow machine to renew in its last third, though not to start Kafka, too.
TTL_S = 60
REVIEW = {"text": "Great taste."}


def ports(up: Up) -> dict[str, int]:
    found: dict[str, int] = json.loads((up.folder.path / "ports.json").read_text())
    return found


def predict(up: Up, ca_file: Path) -> Any:
    """One prediction over a connection of its own. Raises httpx.HTTPError."""
    context = ssl.create_default_context(cafile=str(ca_file))
    url = f"{up.folder.running().http_url}/predict"
    answer = httpx.post(url, json=REVIEW, verify=context, timeout=20, trust_env=False)
    return answer.raise_for_status().json()


@contextmanager
def load(up: Up, ca_file: Path) -> Iterator[list[object]]:
    """Predictions without a pause, each over a new connection, while the block runs; what each came to."""
    results: list[object] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.02):
            try:
                results.append(predict(up, ca_file)["id"])
            except httpx.HTTPError as error:
                results.append(error)

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(run) for _ in range(2)]
        try:
            yield results
        finally:
            stop.set()
            for each in running:
                each.result()


def pids(folder: DataFolder) -> dict[str, int]:
    return {
        name: json.loads((folder.records / f"{name}.json").read_text())["pid"]
        for name in ("openbao", "postgres", "serve", "consume-1", "console")
    }


@pytest.mark.long
def test_verified_renewed_and_nothing_else(tmp_path: Path, start_up: Callable[..., Up]) -> None:
    data_dir = tmp_path / "a stack"
    options = ("--broker", "tansu", "--tls", "--certificate-ttl", str(TTL_S))
    up = start_up(data_dir, *options, **HOSTILE_LIBPQ)
    curl = up.wait_for(r"^ +(curl --cacert .*)$")[1]
    evaluate = up.wait_for(r'^ +(eval "\$\(bdlab env .*\)")$')[1]
    ca_file, port = up.folder.tls / "ca.pem", ports(up)
    done = shell(curl.replace("curl ", "curl -sS --fail ", 1))
    assert done.returncode == 0, done.stderr

    # Plaintext is refused by all of them.
    for name in ("http", "openbao", "consume-1", "console"):
        with socket.create_connection(("127.0.0.1", port[name]), 10) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            with suppress(ConnectionResetError):
                answer = plain.recv(1000)
            assert b"200" not in answer.split(b"\r\n")[0], name
    with pytest.raises(psycopg2.OperationalError, match="no encryption"):
        psycopg2.connect(host="127.0.0.1", port=port["postgres"], user="postgres", sslmode="disable")

    # Another authority is not taken for theirs.
    other = tmp_path / "other.pem"
    other.write_text(temporary_certificates(("other",), ttl_s=60)["other"].ca_pem)
    for name in ("http", "openbao", "postgres", "consume-1", "console"):
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
            shown_certificate("127.0.0.1", port[name], ca_file=str(other), postgres=name == "postgres")
    for variable, command in (("VAULT_CACERT", "predict Good."), ("BDLAB_VAULT_CA_FILE", "verify")):
        refused = shell(f"{evaluate}\nexport {variable}={shlex.quote(str(other))}\nbdlab {command}")
        assert refused.returncode == 1
        assert "TLS certificate of Vault" in refused.stderr
    no_secret_is_shown(up.folder)

    # A renewal under load: nothing fails, and no process is another one.
    before = pids(up.folder)
    with load(up, ca_file) as results:
        first = {name: shown(up, name) for name in ("http", "openbao", "postgres", "consume-1", "console")}
        until(lambda: all(shown(up, name).der != first[name].der for name in first), 3 * TTL_S)
        # The first ones are over.
        outlive(each.ends_at for each in first.values())
    failed = [each for each in results if not isinstance(each, str)]
    assert (failed, len(results) > 20) == ([], True)
    assert pids(up.folder) == before

    # The other terminal, after that: everything is stored, and status tells until when the new ones are good.
    done = shell(f"{evaluate}\nbdlab predict Good.\nbdlab verify --wait 60\nbdlab status --json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout.splitlines()[-1])["checks"]}
    assert found["consumer"]["message"].startswith("alive at https://")
    for name in ("vault.certificate", "postgres.certificate", "api.certificate"):
        assert found[name]["state"] in ("healthy", "degraded"), found[name]
        assert 0 < found[name]["detail"]["left_s"] <= TTL_S


def shown(up: Up, name: str) -> Any:
    ca_file = str(up.folder.tls / "ca.pem")
    return shown_certificate("127.0.0.1", ports(up)[name], ca_file=ca_file, postgres=name == "postgres")


@pytest.mark.long
def test_a_second_run_after_all_certificates_ran_out(tmp_path: Path, start_up: Callable[..., Up]) -> None:
    data_dir = tmp_path / "stack"
    up = start_up(data_dir, "--tls")
    up.wait_for("eval")
    prediction = predict(up, up.folder.tls / "ca.pem")
    up.process.kill()
    up.process.wait()
    tls = TlsFolder(up.folder.tls)
    for name, issued in temporary_certificates(SERVERS, ttl_s=1).items():
        tls.files(name).write(issued, (), ttl_s=1)
    outlive(tls.files(name).ends_at for name in SERVERS)
    # The folder keeps to TLS by itself, and refuses the other way.
    refused = shell(f"bdlab up --no-tls --data-dir {shlex.quote(str(data_dir))}")
    assert refused.returncode == 1
    assert "was set up with TLS" in refused.stderr
    again = start_up(data_dir)
    evaluate = again.wait_for(r'^ +(eval "\$\(bdlab env .*\)")$')[1]
    assert shown(again, "openbao").ends_at > time.time() + 86400
    assert predict(again, up.folder.tls / "ca.pem")["id"] != prediction["id"]
    done = shell(f"{evaluate}\nbdlab verify --wait 60")
    assert done.returncode == 0, done.stdout + done.stderr
