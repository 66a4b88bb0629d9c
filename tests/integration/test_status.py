"""`bdlab status` over real servers: the table, the exit codes, and each check made to fail."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bdlab.health import CHECKS
from bdlab.resources import models_dir
from tests import tls
from tests.fix_pipeline import Pipeline
from tests.waiting import until

EVERYTHING = [
    name for group in ("vault", "kafka", "feedback", "postgres", "log", "model", "api") for name in CHECKS[group]
]
if tls.ON:
    EVERYTHING += ["vault.certificate", "postgres.certificate", "api.certificate"]


def report(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """The checks by their names."""
    found = json.loads(done.stdout)
    assert found["state"] in ("healthy", "degraded", "unknown", "unhealthy")
    return {check["name"]: check for check in found["checks"]}


def states(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {name: check["state"] for name, check in report(done).items()}


def sql(pipeline: Pipeline, statement: str) -> None:
    """Run one statement as the server's administrator."""
    with closing(pipeline.database()) as connection, connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.plaintext("about a pipeline without a certificate")
def test_where_nothing_speaks_tls_no_certificate_is_checked(pipeline: Pipeline) -> None:
    done = pipeline.run("status", "--check", "certificates")
    assert (done.returncode, done.stdout) == (1, "Nothing to check: no server that was found speaks TLS.\n")


def test_without_vault_nobody_knows_of_certificates(pipeline: Pipeline) -> None:
    pipeline.vault.stop()
    found = states(pipeline.run("status", "--json", "--check", "certificates"))
    assert (found["kafka.certificate"], found["postgres.certificate"]) == ("unknown", "unknown")


@pytest.mark.on_cluster
@pytest.mark.on_zookeeper
@pytest.mark.with_tls
def test_all_checks_of_a_running_pipeline(pipeline: Pipeline) -> None:
    with pipeline.serve() as (_, client):
        url = str(client.base_url)
        done = pipeline.run("status", "--api-url", url, "--wait-healthy")
        assert done.returncode == 0, done.stdout
        assert all(name in done.stdout for name in EVERYTHING)

        done = pipeline.run("status", "--json", "--api-url", url)
    assert done.returncode == 0, done.stdout
    found = report(done)
    assert list(found) == EVERYTHING
    assert {check["state"] for check in found.values()} == {"healthy"}
    assert found["vault.policies"]["detail"] == {"policies": ["status"]}
    assert found["vault.token"]["detail"]["ttl_s"] > 0
    assert found["kafka.topic"]["detail"] == {"topic": "predictions", "partitions": 6}
    assert found["postgres.lease"]["detail"]["ttl_s"] > 0
    assert found["model"]["detail"]["name"].startswith("reviews@")
    assert len(found["model"]["detail"]["sha256"]) == 64


def test_without_the_broker(pipeline: Pipeline) -> None:
    pipeline.broker.stop()
    done = pipeline.run("status", "--json", "--check", "kafka", "--check", "vault", "--check", "postgres")
    assert done.returncode == 10
    found = states(done)
    assert found["kafka.brokers"] == "unhealthy"
    assert {found[name] for name in (*CHECKS["vault"], *CHECKS["postgres"])} == {"healthy"}


def test_without_postgres(pipeline: Pipeline) -> None:
    pipeline.postgres.stop()
    done = pipeline.run("status", "--json", "--check", "kafka", "--check", "vault", "--check", "postgres")
    found = states(done)
    assert done.returncode == 10
    assert found["postgres.reachable"] == "unhealthy"
    assert "nothing takes connections at" in report(done)["postgres.reachable"]["message"]
    assert {found[name] for name in (*CHECKS["vault"], *CHECKS["kafka"])} == {"healthy"}


def test_with_a_postgres_that_takes_nobody_now(pipeline: Pipeline) -> None:
    """As while it recovers: its port is open, and Vault makes no user."""
    sql(pipeline, "ALTER ROLE bdlab_manager CONNECTION LIMIT 0")
    sql(pipeline, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'bdlab_manager'")
    try:
        done = pipeline.run("status", "--json", "--check", "vault", "--check", "postgres")
        lone = pipeline.run("verify", BDLAB_STARTUP_TIMEOUT="1")
    finally:
        sql(pipeline, "ALTER ROLE bdlab_manager CONNECTION LIMIT -1")
    found = report(done)
    assert done.returncode == 10
    assert found["postgres.reachable"]["state"] == "unhealthy"
    assert "too many connections" in found["postgres.reachable"]["message"]
    assert {found[name]["state"] for name in CHECKS["vault"]} == {"healthy"}
    assert lone.returncode == 1
    assert "too many connections" in lone.stderr
    for hint in (found["postgres.reachable"]["hint"], lone.stderr):
        assert "PostgreSQL runs and takes connections" in hint
        assert "audit" not in hint


def test_without_vault(pipeline: Pipeline) -> None:
    pipeline.vault.stop()
    done = pipeline.run("status", "--json", "--check", "vault", "--check", "kafka", "--check", "postgres")
    assert done.returncode == 10
    found = states(done)
    assert found.pop("vault.reachable") == "unhealthy"
    assert set(found.values()) == {"unknown"}


def test_without_an_identity_it_could_not_check(pipeline: Pipeline, tmp_path: Path) -> None:
    done = pipeline.run(
        "status", "--json", "--check", "vault", "--check", "kafka", BDLAB_VAULT_IDENTITY_DIR=str(tmp_path)
    )
    assert done.returncode == 1
    found = states(done)
    assert (found["vault.reachable"], found["vault.unsealed"]) == ("healthy", "healthy")
    assert (found["vault.token"], found["kafka.brokers"]) == ("unknown", "unknown")


def test_without_the_topic(pipeline: Pipeline) -> None:
    done = pipeline.run("status", "--json", "--check", "kafka", BDLAB_KAFKA_TOPIC="another")
    assert done.returncode == 10
    assert states(done)["kafka.topic"] == "unhealthy"


def test_with_another_schema(pipeline: Pipeline) -> None:
    sql(pipeline, "INSERT INTO schema_migrations (version, name, checksum) VALUES (99, 'later', '')")
    try:
        done = pipeline.run("status", "--json", "--check", "postgres.schema", "--check", "postgres.rows")
    finally:
        sql(pipeline, "DELETE FROM schema_migrations WHERE version = 99")
    assert done.returncode == 10
    assert states(done) == {"postgres.schema": "unhealthy", "postgres.rows": "healthy"}
    assert report(done)["postgres.schema"]["detail"]["version"] == 99


@pytest.mark.parametrize("damage", ["tampered", "missing"])
def test_with_a_bad_model(pipeline: Pipeline, tmp_path: Path, damage: str) -> None:
    shutil.copytree(models_dir(), tmp_path / "models")
    [terms] = (tmp_path / "models").glob("*.terms.json.gz")
    if damage == "tampered":
        terms.write_bytes(terms.read_bytes()[:-1] + b"x")
    else:
        shutil.rmtree(tmp_path / "models")
    card = str(tmp_path / "models" / "reviews.card.json")
    done = pipeline.run("status", "--json", "--check", "model", BDLAB_MODEL_PATH=card)
    assert done.returncode == 10
    found = report(done)["model"]
    assert found["state"] == "unhealthy"
    assert ("reviews.terms.json.gz" if damage == "tampered" else "reviews.card.json") in found["message"]


@pytest.mark.with_tls
def test_the_api_away_unhealthy_and_well(pipeline: Pipeline) -> None:
    with pipeline.serve() as (daemon, client):
        url = str(client.base_url)
        assert pipeline.run("status", "--check", "api", "--api-url", url, "--wait-healthy").returncode == 0
        pipeline.broker.stop()
        until(lambda: client.get("/health").status_code == 503)
        done = pipeline.run("status", "--json", "--check", "api", "--api-url", url)
        assert done.returncode == 10
        assert report(done)["api"]["detail"]["kafka_connected"] is False
        daemon.stop()
    done = pipeline.run("status", "--json", "--check", "api", "--api-url", url)
    assert done.returncode == 10
    assert "no answer" in report(done)["api"]["message"]


def test_what_answers_and_is_not_bdlab(pipeline: Pipeline) -> None:
    done = pipeline.run("status", "--json", "--check", "api", "--api-url", pipeline.vault.address)
    assert done.returncode == 10
    assert "not as bdlab does" in report(done)["api"]["message"]


def test_the_consumer_by_its_port(pipeline: Pipeline) -> None:
    port = str(pipeline.postgres.ports.choose("consumer"))
    with pipeline.daemon("consume", "--metrics-port", port):
        done = pipeline.run("status", "--check", "consumer", "--wait-healthy", BDLAB_SINK_METRICS_PORT=port)
        assert done.returncode == 0, done.stdout
        two = pipeline.run(
            "status", "--json", "--check", "consumer",
            BDLAB_SINK_URLS=f"http://127.0.0.1:{port}, http://127.0.0.1:1",
        )  # fmt: skip
        assert two.returncode == 0, two.stdout
        assert report(two)["consumer"]["state"] == "degraded"
        assert "no answer from http://127.0.0.1:1:" in report(two)["consumer"]["message"]
    done = pipeline.run("status", "--check", "consumer", BDLAB_SINK_METRICS_PORT=port)
    assert done.returncode == 10
    assert pipeline.run("status", "--check", "consumer").returncode == 1


def test_waiting_until_all_is_healthy(pipeline: Pipeline) -> None:
    pipeline.broker.stop()
    started = time.monotonic()
    done = pipeline.run("status", "--check", "kafka", "--wait-healthy", "--timeout", "1")
    assert done.returncode == 10
    assert time.monotonic() - started < 50

    with pipeline.daemon("status", "--json", "--check", "kafka", "--wait-healthy", "--timeout", "240") as waiting:
        threading.Event().wait(0.5)
        pipeline.broker.start()
        pipeline.announce_broker()
        assert waiting.ended(within_s=240) == 0
        assert json.loads(waiting.output.get())["state"] == "healthy"


def test_watching_until_interrupted(pipeline: Pipeline) -> None:
    arguments = ("status", "--json", "--check", "model", "--watch", "--interval", "0.1")
    with pipeline.daemon(*arguments) as watching:
        for _ in range(3):
            assert json.loads(watching.output.get(timeout=60))["state"] == "healthy"
        assert watching.stop() == 0


def test_watching_tells_how_fast_the_counts_change(pipeline: Pipeline) -> None:
    arguments = ("status", "--json", "--check", "postgres", "--watch", "--interval", "0.5")
    with pipeline.daemon(*arguments) as watching:

        def rows() -> dict[str, Any]:
            checks = json.loads(watching.output.get(timeout=60))["checks"]
            return next(check for check in checks if check["name"] == "postgres.rows")

        first = rows()
        assert first["message"] == f"{first['detail']['rows']} predictions, 0 feedback"
        assert rows()["detail"]["rows_per_s"] == 0
        assert pipeline.run("predict", "One more.").returncode == 0
        assert pipeline.run("consume", "--until-idle").returncode == 0
        seen: list[dict[str, Any]] = []

        def stored() -> bool:
            seen.append(rows())
            return bool(seen[-1]["detail"]["rows"] > first["detail"]["rows"])

        until(stored, 60)
        assert 0 < seen[-1]["detail"]["rows_per_s"] <= 3
        assert re.search(r"\(\+\d\.\d/s\)$", seen[-1]["message"])
        assert watching.stop() == 0


def test_wrong_names_are_wrong_usage(pipeline: Pipeline) -> None:
    done = pipeline.run("status", "--check", "kafka.nothing")
    assert done.returncode == 2
    assert "'kafka.nothing'" in done.stderr
    assert "kafka.lag" in done.stderr
