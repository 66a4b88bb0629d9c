"""`bdlab serve` as a process, over real servers that come and go."""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from bdlab.contract import review_contract
from bdlab.events import Record
from bdlab.health.remote import shown_certificate
from bdlab.kafka.consumer import Consumer
from bdlab.model import load_scorer
from bdlab.stack.tls import temporary_certificates
from tests import tls
from tests.fix_kafka import Bookmarks, kafka_login, place, read_until
from tests.fix_pipeline import IMPATIENT, IMPATIENT_S, Pipeline
from tests.static_credentials import StaticCredentials
from tests.waiting import until

REVIEW = {"text": "This product is terrible!", "summary": "Product review"}


def on_topic(pipeline: Pipeline, wanted: set[str]) -> list[Record]:
    """What is on the pipeline's topic, read until all of `wanted` ids are among it; each record once."""
    credentials = StaticCredentials(kafka=kafka_login(pipeline.broker.bootstrap_servers))
    with Consumer(credentials, positions=Bookmarks()) as consumer:
        found = read_until(
            consumer.poll, lambda records: wanted <= {(record.key or b"").decode() for record in records}
        )
    # A reader that stood still for longer than its session lasts has read some again.
    return list({place(record): record for record in found}.values())


def predict(client: httpx.Client) -> int:
    return client.post("/predict", json=REVIEW).status_code


@pytest.mark.with_tls
def test_the_reference_request_by_curl(pipeline: Pipeline) -> None:
    with pipeline.serve() as (daemon, client):
        done = subprocess.run(
            [
                "curl", "-s", "-w", "\n%{http_code}", "-X", "POST", f"{client.base_url}/predict",
                "-H", "Content-Type: application/json",
                "-d", '{"text": "This product is terrible!", "summary": "Product review"}',
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )  # fmt: skip
        body, status = done.stdout.rsplit("\n", 1)
        assert status == "200", body
        prediction_id = httpx.Response(200, text=body).json()["id"]
        assert [(record.key or b"").decode() for record in on_topic(pipeline, {prediction_id})].count(prediction_id)
        published = daemon.wait_for(prediction_id)
        assert '"event": "published"' in published
        assert daemon.stop() == 0


def test_everything_is_described_over_real_servers(pipeline: Pipeline) -> None:
    with pipeline.serve() as (_, client):
        until(lambda: client.get("/health").json()["status"] == "healthy")
        assert client.get("/health").json() | {"version": ""} == {
            "status": "healthy",
            "model_loaded": True,
            "vault_connected": True,
            "kafka_connected": True,
            "model_problem": "",
            "database_connected": True,
            "version": "",
            "model": load_scorer().name,
        }
        assert client.get("/health/ready").status_code == 200
        vault = client.get("/vault-status").json()
        assert (vault["connected"], vault["authenticated"], vault["sealed"]) == (True, True, False)
        assert vault["policies"] == ["serve"]
        assert vault["token_ttl_s"] > 0
        kafka = client.get("/kafka-status").json()
        assert (kafka["bootstrap_servers"], kafka["partitions"]) == (pipeline.broker.bootstrap_servers, 6)
        assert (kafka["feedback"]["topic"], kafka["feedback"]["partitions"]) == ("feedback", 6)


def test_a_stored_prediction_is_read_back(pipeline: Pipeline) -> None:
    with pipeline.serve() as (_, client), pipeline.daemon("consume"):
        found = client.post("/predict", json=REVIEW).json()
        until(lambda: client.get(f"/predictions/{found['id']}").status_code == 200)
        row = client.get(f"/predictions/{found['id']}").json()
        assert {field: row[field] for field in ("text", "summary", "prediction", "sentiment", "model")} == {
            **REVIEW,
            **{field: found[field] for field in ("prediction", "sentiment", "model")},
        }
        assert row["created_at"] == found["created_at"]
        assert row["position"]["topic"] == "predictions"
        assert found["id"] in [row["id"] for row in client.get("/predictions?limit=100").json()]


@pytest.mark.on_cluster
def test_a_broker_that_stops_and_comes_back_under_load(pipeline: Pipeline) -> None:
    """What was acknowledged is on it. One in memory comes back as another, and the loss of the one before is
    nobody's 200 of later; one that keeps its log has lost nothing.
    """
    stop = threading.Event()
    answers: list[tuple[float, int, str]] = []

    def load(client: httpx.Client) -> None:
        while not stop.is_set():
            answer = client.post("/predict", json=REVIEW)
            answers.append((time.monotonic(), answer.status_code, answer.json().get("id", "")))

    with pipeline.serve(**IMPATIENT) as (_, client), ThreadPoolExecutor(4) as pool:
        running = [pool.submit(load, client) for _ in range(4)]
        try:
            until(lambda: len(answers) > 50)
            pipeline.broker.stop()
            stopped = time.monotonic()
            until(lambda: sum(status == 503 for _, status, _ in answers) >= 4)
            assert min(at for at, status, _ in answers if status == 503) - stopped < IMPATIENT_S + 10
            before = {found for _, status, found in answers if status == 200}
            pipeline.broker.start()
            pipeline.announce_broker()
            recovered = len(answers)
            until(lambda: sum(status == 200 for _, status, _ in answers[recovered:]) > 50)
        finally:
            stop.set()
        for future in running:
            future.result()
        assert {status for _, status, _ in answers} == {200, 503}
        assert all(UUID(found) for _, status, found in answers if status == 503)
        lost = set() if pipeline.broker.keeps_log else before
        acknowledged = {found for _, status, found in answers if status == 200} - lost
        assert len(acknowledged) > 50
        records = on_topic(pipeline, acknowledged)
        keys = [(record.key or b"").decode() for record in records]
        assert all(keys.count(found) == 1 for found in acknowledged)


def test_an_absent_broker_does_not_keep_it_from_starting(pipeline: Pipeline) -> None:
    pipeline.broker.stop()
    with pipeline.serve(**IMPATIENT) as (_, client):
        started = time.monotonic()
        answer = client.post("/predict", json=REVIEW)
        assert answer.status_code == 503
        assert time.monotonic() - started < IMPATIENT_S + 10
        assert answer.headers["retry-after"]
        assert client.get("/health").status_code == 503
        assert client.get("/health/live").status_code == 200
        pipeline.broker.start()
        pipeline.announce_broker()
        until(lambda: predict(client) == 200)
        until(lambda: client.get("/health").json()["status"] == "healthy")


@pytest.mark.with_tls
def test_without_vault_and_database_it_goes_on_predicting(pipeline: Pipeline) -> None:
    with pipeline.serve() as (_, client):
        assert predict(client) == 200
        pipeline.vault.stop()
        pipeline.postgres.stop()
        until(lambda: client.get("/health").json()["status"] == "degraded")
        found = client.get("/health")
        assert (found.status_code, found.json()["vault_connected"]) == (200, False)
        assert found.json()["database_connected"] is False
        assert client.get("/vault-status").status_code == 503
        assert client.get("/predictions").status_code == 503
        assert client.get("/health/ready").status_code == 200
        assert predict(client) == 200
        pipeline.vault.start()
        pipeline.postgres.start()
        until(lambda: client.get("/health").json()["status"] == "healthy")
        until(lambda: client.get("/predictions").status_code == 200)


REFUSED = "the field 'text': maxLength is not given in the model's contract, and 999 in the database's contract"


@contextmanager
def other_contract(pipeline: Pipeline) -> Iterator[None]:
    """The database has the contract of other texts."""
    document = copy.deepcopy(review_contract().document)
    document["input"]["properties"]["text"]["maxLength"] = 999
    with closing(pipeline.database()) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE contracts SET document = %s", (json.dumps(document),))
    try:
        yield
    finally:
        pipeline.postgres.start()
        fits_again(pipeline)


def fits_again(pipeline: Pipeline) -> None:
    with closing(pipeline.database()) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE contracts SET document = %s", (json.dumps(review_contract().document),))


def test_a_model_that_does_not_fit_the_database_is_refused(pipeline: Pipeline) -> None:
    """At the start; and as soon as the database is there, if it was away then."""
    with other_contract(pipeline):
        for workers in ("1", "2"):
            done = pipeline.run("serve", "--port", "0", "--workers", workers)
            assert done.returncode == 1
            assert REFUSED in done.stderr
        pipeline.postgres.stop()
        with pipeline.serve() as (daemon, client):
            assert predict(client) == 200
            pipeline.postgres.start()
            daemon.wait_for("not ready: the model does not fit the database")
            answer = client.post("/predict", json=REVIEW)
            assert (answer.status_code, answer.json()["type"]) == (503, "urn:bdlab:problem:model-unfit")
            assert REFUSED in answer.json()["detail"]
            assert REFUSED in client.get("/health").json()["model_problem"]
            [problem] = client.get("/health/ready").json()["problems"]
            assert REFUSED in problem
            fits_again(pipeline)  # as after a `migrate` of the right model
            until(lambda: predict(client) == 200)
            assert client.get("/health/ready").status_code == 200


def test_it_waits_for_vault_and_then_gives_up(pipeline: Pipeline) -> None:
    pipeline.vault.stop()
    done = pipeline.run("serve", "--port", "0", "--startup-timeout", "1")
    assert done.returncode == 1
    assert "Vault" in done.stderr
    assert "Traceback" not in done.stderr
    with pipeline.daemon("serve", "--port", "0", "--startup-timeout", "30") as daemon:
        daemon.wait_for("waiting for Vault")
        pipeline.vault.start()
        assert daemon.url().startswith(f"{'https' if tls.ON else 'http'}://127.0.0.1:")


def test_a_refused_identity_fails_at_once(pipeline: Pipeline, tmp_path: Path) -> None:
    folder = tmp_path / "serve"
    folder.mkdir(mode=0o700)
    role_id = (pipeline.folder / "identity" / "serve" / "role_id").read_text()
    for name, content in (("role_id", role_id), ("secret_id", "00000000-0000-0000-0000-000000000000")):
        (folder / name).touch(0o600)
        (folder / name).write_text(content)
    started = time.monotonic()
    for workers in ("1", "2"):
        done = pipeline.run("serve", "--port", "0", "--workers", workers, BDLAB_VAULT_IDENTITY_DIR=str(tmp_path))
        assert done.returncode == 1
        assert "error: " in done.stderr
    assert time.monotonic() - started < 50


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_answers_what_is_in_flight(pipeline: Pipeline, workers: str) -> None:
    with (
        pipeline.serve("--workers", workers, BDLAB_KAFKA_DELIVERY_TIMEOUT_S="8") as (daemon, client),
        ThreadPoolExecutor(8) as pool,
    ):
        until(lambda: predict(client) == 200)
        pipeline.broker.stop()
        waiting = [pool.submit(httpx.post, f"{client.base_url}/predict", json=REVIEW, timeout=30) for _ in range(8)]
        until(lambda: _in_flight(client) == 8)
        daemon.process.send_signal(signal.SIGTERM)
        assert {future.result().status_code for future in waiting} == {503}
        assert daemon.ended() == 0


def _in_flight(client: httpx.Client) -> int:
    lines = client.get("/metrics").text.splitlines()
    return int(sum(float(line.split()[1]) for line in lines if line.startswith("bdlab_predictions_in_flight ")))


def _children(pid: int) -> list[int]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError):  # it has ended since, as one that was killed
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def _post_until(stop: threading.Event, url: str, acknowledged: list[str]) -> int:
    """Post reviews, add the ids of those that were acknowledged, and return how many got no answer."""
    failed = 0
    while not stop.is_set():
        try:
            answer = httpx.post(url, json=REVIEW, timeout=10)
        except httpx.TransportError:  # its worker was killed
            failed += 1
            continue
        assert answer.status_code == 200
        acknowledged.append(answer.json()["id"])
    return failed


def _check_even_spread(client: httpx.Client, *workers: int) -> None:
    """Open connections that send nothing: each of two workers gets a quarter of them at least."""

    def taken() -> list[int]:
        return [len(list(Path(f"/proc/{pid}/fd").iterdir())) - before[pid] for pid in workers]

    before = dict.fromkeys(workers, 0)
    before = dict(zip(workers, taken(), strict=True))
    address = client.base_url.host, client.base_url.port or 0
    with ExitStack() as connections:
        for _ in range(80):
            connections.enter_context(socket.create_connection(address))
        until(lambda: sum(taken()) >= 75)  # others may have ended meanwhile
        assert min(taken()) >= 20


def everywhere(client: httpx.Client, method: str, path: str, key: str) -> set[int]:
    """The statuses of requests by connections of their own, of which both workers get some."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = REVIEW if method == "POST" else None
    url = f"{client.base_url}{path}"
    ask = partial(
        httpx.request, method, url, json=body, headers=headers, timeout=10, trust_env=False, verify=tls.VERIFY
    )
    return {ask().status_code for _ in range(16)}


@pytest.mark.with_tls
def test_keys_of_the_command_open_both_workers_and_end_within_seconds(pipeline: Pipeline) -> None:
    """Those that were known go on while Vault is away."""
    anywhere = ("--host", "0.0.0.0", "--allowed-hosts", "localhost,127.0.0.1")  # noqa: S104 - so that keys are needed

    def made(name: str, *scopes: str) -> str:
        done = pipeline.run("api-key", "create", name, "--scope", ",".join(scopes))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    old = made("old", "predict", "read")
    with pipeline.serve("--workers", "2", *anywhere) as (_, client):
        assert everywhere(client, "GET", "/predictions", "") == {401}  # the default there
        assert everywhere(client, "POST", "/predict", "") == everywhere(client, "GET", "/health/live", "") == {200}
    with pipeline.serve("--workers", "2", *anywhere, BDLAB_HTTP_REQUIRE_KEY="all") as (daemon, client):
        assert everywhere(client, "POST", "/predict", old) == {200}
        key = made("shop", "predict")
        until(lambda: everywhere(client, "POST", "/predict", key) == {200}, timeout_s=5)
        assert everywhere(client, "GET", "/predictions", key) == {403}
        url = str(client.base_url).rstrip("/")
        drill = ("rotate", "approle", "--service", "predict", "--drill", "--seconds", "0.2", "--url", url)
        assert "HTTP 401" in pipeline.run(*drill).stderr
        reader = made("reader", "read")
        until(lambda: everywhere(client, "GET", "/predictions", reader) == {200}, timeout_s=5)
        assert "HTTP 403" in pipeline.run(*drill, BDLAB_API_KEY=reader).stderr
        pipeline.vault.stop()
        try:
            assert everywhere(client, "POST", "/predict", key) == {200}
            assert everywhere(client, "GET", "/predictions", old) == {200}
        finally:
            pipeline.vault.start()
        assert pipeline.run("api-key", "revoke", "shop").returncode == 0
        until(lambda: everywhere(client, "POST", "/predict", key) == {401}, timeout_s=5)
        assert pipeline.run("api-key", "revoke", "old").returncode == 0
        assert daemon.stop() == 0
        assert not [line for line in daemon.lines if key in line or old in line]


@pytest.mark.with_tls
def test_several_workers_share_the_port_and_the_metrics_and_one_may_be_killed(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    anywhere = ("--host", "0.0.0.0", "--allowed-hosts", "localhost,bdlab.test")  # noqa: S104 - its names tell
    with pipeline.serve("--workers", "2", *anywhere, TMPDIR=str(tmp_path)) as (daemon, client):
        for _ in range(40):
            # A connection each, so that both workers get some.
            for host, status in (("bdlab.test:8000", 200), ("evil.example", 421)):
                headers = {"Host": host}
                answer = httpx.post(f"{client.base_url}/predict", json=REVIEW, headers=headers, timeout=10)
                assert answer.status_code == status
        counted = 'bdlab_http_requests_total{method="POST",route="/predict",status="200"} 40.0'
        assert counted in client.get("/metrics").text

        first, second = _children(daemon.process.pid)
        _check_even_spread(client, first, second)
        taken = pipeline.run("serve", "--port", str(client.base_url.port), "--workers", "2", *anywhere)
        assert "cannot listen" in taken.stderr, "two servers share a port"
        os.kill(first, signal.SIGKILL)
        until(lambda: len(set(_children(daemon.process.pid)) - {first, second}) == 1)
        assert predict(client) == 200
        assert counted.replace("40.0", "41.0") in client.get("/metrics").text

        acknowledged: list[str] = []
        with ThreadPoolExecutor(4) as pool:
            stop = threading.Event()
            running = [pool.submit(_post_until, stop, f"{client.base_url}/predict", acknowledged) for _ in range(4)]
            try:
                until(lambda: len(acknowledged) > 40)
                os.kill(second, signal.SIGKILL)
                until(lambda: len(set(_children(daemon.process.pid)) - {first, second}) == 2)
                before = len(acknowledged)
                until(lambda: len(acknowledged) > before + 40)
            finally:
                stop.set()
            assert sum(future.result() for future in running) < 20
        keys = [(record.key or b"").decode() for record in on_topic(pipeline, set(acknowledged))]
        assert all(keys.count(prediction_id) == 1 for prediction_id in acknowledged)
        assert daemon.stop() == 0
        assert not any("Exception in callback" in line for line in daemon.lines)
    assert not list(tmp_path.iterdir()), "the workers' metrics are left behind"


def test_workers_end_with_their_parent(pipeline: Pipeline) -> None:
    with pipeline.serve("--workers", "2") as (daemon, client):
        workers = _children(daemon.process.pid)
        assert len(workers) == 2
        daemon.stop(signal.SIGKILL)

        def refused() -> bool:
            try:
                return client.get("/health/live", timeout=1).status_code == 0
            except httpx.HTTPError:
                return True

        until(refused)
        until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in workers))


def test_a_port_that_is_taken_is_named(pipeline: Pipeline) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = pipeline.run("serve", "--port", str(port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr


def test_wrong_options_are_wrong_usage(pipeline: Pipeline) -> None:
    assert pipeline.run("serve", "--port", "70000").returncode == 2
    assert pipeline.run("serve", "--workers", "0").returncode == 2
    assert pipeline.run("serve", "--tls-cert", "/dev/null", BDLAB_HTTP_TLS_KEY_FILE="").returncode == 2


def test_https(pipeline: Pipeline, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", str(key), "-out", str(cert),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    with pipeline.daemon("serve", "--port", "0", "--tls-cert", str(cert), "--tls-key", str(key)) as daemon:
        url = daemon.url()
        assert url.startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(base_url=url, verify=trusted, trust_env=False) as client:
            assert predict(client) == 200
        port = url.rpartition(":")[2]
        checked = pipeline.run(
            "status", "--check", "api", BDLAB_HTTP_TLS_CERT_FILE=str(cert), BDLAB_HTTP_CA_FILE="", BDLAB_HTTP_PORT=port
        )
        assert checked.returncode == 0, checked.stdout


def test_a_key_that_is_another_certificates_is_named(pipeline: Pipeline, tmp_path: Path) -> None:
    one, other = (temporary_certificates(["api"], ttl_s=60)["api"] for _ in range(2))
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_text(one.pem)
    key.write_text(other.key.reveal())
    for workers in ("1", "2"):
        options = ("--tls-cert", str(cert), "--tls-key", str(key), "--workers", workers)
        done = pipeline.run("serve", "--port", "0", *options)
        assert done.returncode == 2
        assert f"the certificate {cert} and the key {key} do not work" in done.stderr


@pytest.mark.long
def test_a_certificate_of_seconds_is_renewed_under_load(pipeline: Pipeline, tmp_path: Path) -> None:
    """From Vault's PKI engine, over two workers; new connections get the new one, and none fails."""
    life_s = 45
    renewal = ("server-certificate", "api", "--folder", str(tmp_path), "--ttl", str(life_s))
    for command in (("vault-init", "--authority", "servers"), renewal):
        done = pipeline.run(*command)
        assert done.returncode == 0, done.stderr
    server, ca_file = str(tmp_path / "api" / "server.pem"), str(tmp_path / "api" / "ca.pem")
    arguments = ("serve", "--port", "0", "--workers", "2", "--tls-cert", server, "--tls-key", server)
    with pipeline.daemon(*arguments) as daemon, ThreadPoolExecutor(2) as pool:
        url, stop, context = daemon.url(), threading.Event(), ssl.create_default_context(cafile=ca_file)
        before = sorted(_children(daemon.process.pid))

        def load() -> list[int]:
            found = []
            while not stop.wait(0.02):
                # A connection each. Raises where the certificate is not good any more.
                answer = httpx.post(f"{url}/predict", json=REVIEW, verify=context, timeout=30)
                found.append(answer.status_code)
            return found

        running = [pool.submit(load) for _ in range(2)]
        port, seen = int(url.rpartition(":")[2]), dict[bytes, float]()
        try:
            deadline = time.monotonic() + 4 * life_s
            # Until there is a second one, and the first has run out.
            while len(seen) < 2 or min(seen.values()) > time.time():
                assert time.monotonic() < deadline, seen
                assert not any(each.done() for each in running)
                done = pipeline.run(*renewal)
                assert done.returncode == 0, done.stderr
                shown = shown_certificate("127.0.0.1", port, ca_file=ca_file)
                seen[shown.der] = shown.ends_at
                stop.wait(1)  # most of these find that it is too early
        finally:
            stop.set()
        answers = [status for each in running for status in each.result()]
        assert set(answers) == {200}
        assert len(answers) > 20
        assert sorted(_children(daemon.process.pid)) == before
        # A file that does not fit is left alone.
        (tmp_path / "api" / "server.pem").write_text("nonsense")
        daemon.wait_for("the new certificate cannot be used")
        shown_certificate("127.0.0.1", port, ca_file=ca_file)
        assert daemon.stop() == 0
