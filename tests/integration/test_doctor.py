"""`bdlab doctor` and `bdlab config` over real servers: healthy, with something broken, and with each server away."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from confluent_kafka import Producer

from bdlab.health.findings import Diagnosis
from tests.brokers import KIND, frozen
from tests.fix_pipeline import Pipeline
from tests.leaks import TOKEN, Secrets
from tests.waiting import until

TEXT = "PRIVATE-WORDS-OF-A-CUSTOMER"
#: What it may take, and as much again for the start of a process on a busy machine.
WITHIN_S = 30.0


def diagnosis(done: subprocess.CompletedProcess[str]) -> Diagnosis:
    return msgspec.json.decode(done.stdout, type=Diagnosis)


def doctor(pipeline: Pipeline, *arguments: str, **more: str) -> tuple[int, Diagnosis]:
    began = time.monotonic()
    done = pipeline.run("doctor", "--json", "--data-dir", str(pipeline.folder / "none"), *arguments, **more)
    assert time.monotonic() - began < WITHIN_S
    return done.returncode, diagnosis(done)


def gravities(found: Diagnosis) -> dict[str, str]:
    return {each.name: each.gravity for each in found.findings}


def predict(pipeline: Pipeline) -> None:
    done = pipeline.run("predict", "It unwraps its secret id.")
    assert done.returncode == 0, done.stderr


@contextmanager
def consumer(pipeline: Pipeline) -> Iterator[str]:
    """A running consumer; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with pipeline.daemon("consume", "--metrics-port", port):
        url = f"http://127.0.0.1:{port}"
        until(lambda: pipeline.run("status", "--check", "consumer", BDLAB_SINK_URLS=url).returncode == 0)
        yield url


@pytest.mark.on_cluster
@pytest.mark.with_tls
def test_a_healthy_pipeline_and_its_dead_letters(pipeline: Pipeline) -> None:
    producer = Producer({"bootstrap.servers": pipeline.broker.bootstrap_servers})
    producer.produce("predictions", key=b"k", value=f'{{"{TEXT}": 1, "{TEXT}": 2}}'.encode())
    producer.flush(30)
    with pipeline.serve() as (_, client), consumer(pipeline) as url:
        predict(pipeline)
        until(lambda: '"lag_events":0' in pipeline.run("status", "--json", "--check", "kafka.lag").stdout)
        known = {"BDLAB_SINK_URLS": url, "BDLAB_DOCTOR_API_URL": str(client.base_url)}
        code, found = doctor(pipeline, **known)
        shown = pipeline.run("doctor", "--data-dir", str(pipeline.folder), **known)
    assert (code, found.state, shown.returncode) == (0, "healthy", 0), found.findings
    assert "critical" not in gravities(found).values()
    assert gravities(found)["dead_letters"] == "notice"
    assert set(found.facts.clocks_ms) == {"Vault", "PostgreSQL", "the API"}
    assert max(abs(ms) for ms in found.facts.clocks_ms.values()) < 2000
    assert (found.facts.members is None) == (KIND == "tansu")  # which does not tell of a group
    members = found.facts.members or [("", list(range(found.facts.partitions)))]
    assert sorted(number for _, own in members for number in own) == list(range(found.facts.partitions))
    assert (found.facts.lag, found.facts.lag_per_s) == (0, 0)
    of_feedback = found.facts.feedback
    assert (of_feedback.partitions, of_feedback.lag, of_feedback.lag_per_s) == (6, 0, 0)
    assert (of_feedback.members is None) == (KIND == "tansu")
    assert {"bdlab", "librdkafka", "libpq", "Vault", "Python", "machine"} <= set(found.facts.versions)
    sources = {each["name"]: each["from"] for each in found.facts.settings}
    assert sources["kafka.bootstrap_servers"] == "Vault"
    assert sources["vault.poll_s"] == "the environment (BDLAB_VAULT_POLL_S)"
    assert found.facts.dead_letters
    # It may be pasted anywhere.
    secrets = Secrets()
    secrets.add("text", TEXT)
    for file in (pipeline.folder / "identity").glob("*/*"):
        if file.is_file() and file.name in {"secret_id", "role_id", "wrapped_secret_id"}:
            secrets.add(file.name, file.read_bytes().strip())
    keys = json.loads(pipeline.keys_file.read_bytes())
    secrets.add_fields("keys", keys)
    for number, key in enumerate((*keys["unseal_keys"], *keys["recovery_keys"])):
        secrets.add(f"key {number}", key)
    said = (shown.stdout + shown.stderr + msgspec.json.encode(found).decode()).encode()
    assert len(secrets.values()) > 5
    assert not list(secrets.leaks("doctor", said))
    assert not TOKEN.search(said)
    assert "No secret and no text of a user is in this output" in shown.stdout


@pytest.mark.skipif(KIND == "tansu", reason="it does not tell of a group")
def test_without_a_consumer_the_waiting_events_are_critical(pipeline: Pipeline) -> None:
    predict(pipeline)
    until(lambda: doctor(pipeline)[1].facts.members == [])  # one of another test leaves the group
    code, found = doctor(pipeline)
    assert code == 10
    assert gravities(found)["group.empty"] == "critical"
    assert (found.facts.lag or 0) > 0


@pytest.mark.parametrize(
    ("name", "critical", "unseen"),
    [
        ("vault", "vault.reachable", {"postgres", "clock_of_vault", "group"}),
        ("broker", "kafka.brokers", {"group", "lag"}),
        ("postgres", "postgres.reachable", {"postgres"}),
    ],
)
def test_with_a_server_away(pipeline: Pipeline, name: str, critical: str, unseen: set[str]) -> None:
    getattr(pipeline, name).stop()
    code, found = doctor(pipeline)
    assert code == 10
    assert gravities(found)[critical] == "critical"
    assert unseen <= set(found.not_looked_at), found.not_looked_at


@pytest.mark.parametrize("name", ["vault", "broker", "postgres"])
def test_with_a_server_that_hangs(pipeline: Pipeline, name: str) -> None:
    with frozen(getattr(pipeline, name)):
        code, found = doctor(pipeline)
    assert code == 10
    assert {"vault": "clock_of_vault", "broker": "group", "postgres": "postgres"}[name] in found.not_looked_at


def test_the_settings_have_a_layer_in_vault(pipeline: Pipeline) -> None:
    done = pipeline.run("config", "show", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["vault_not_read"]) == (0, ""), done.stderr
    sources = {each["name"]: each["from"] for each in found["settings"]}
    assert (sources["postgres.host"], sources["postgres.dbname"]) == ("Vault", "Vault")
    done = pipeline.run("config", "check", "--json")
    assert done.returncode == 0, done.stdout
    assert [each["name"] for each in json.loads(done.stdout)["findings"]] == ["kafka.session_timeout_s"]
