"""`bdlab rotate` as an operator runs it, with `serve` and `consume` as daemons."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bdlab.services import KAFKA_SERVICES, NOT_ROTATED, SERVICES
from tests import brokers
from tests.fix_pipeline import IMPATIENT, Daemon, Pipeline
from tests.fix_up import Up, shell

_DEADLINE_S = 60
#: No measure of speed: longer than a busy machine stands still, and shorter than any time-out.
PAUSE_MS = 10_000


@pytest.fixture
def url(pipeline: Pipeline) -> Iterator[str]:
    """Of an API with two workers; two consumers run beside it."""
    with (
        pipeline.serve("--workers", "2") as (_, client),
        pipeline.daemon("consume") as one,
        pipeline.daemon("consume") as other,
    ):
        for consumer in (one, other):
            consumer.wait_for("partitions assigned")
        yield str(client.base_url)


def drill(pipeline: Pipeline, url: str, *more: str) -> dict[str, Any]:
    done = pipeline.run("rotate", "--drill", "--json", "--url", url, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.on_cluster
@pytest.mark.with_tls
def test_a_drill_rotates_everything_and_no_request_fails(pipeline: Pipeline, url: str) -> None:
    letters = pipeline.run("dlq", "list", "--json").stdout
    found = drill(pipeline, url, "--leases", "--seconds", "6", "--requests-per-second", "40")
    load = found["load"]
    assert (load["failed"], load["failures"]) == (0, {})
    assert load["sent"] >= 240
    assert 0 < load["p50_ms"] <= load["p99_ms"]
    assert 0 < load["longest_pause_ms"] < PAUSE_MS
    assert found["verified"] is True
    outcomes = {(one["what"], one["service"]): one["outcome"] for one in found["rotations"]}
    (kafka,) = (one for one in found["rotations"] if one["what"] == "kafka")
    assert kafka["outcome"] == "unchanged"
    assert "nothing to rotate: the broker asks for no user (PLAINTEXT)" in kafka["detail"]
    renewed = {("approle", name): outcomes.pop(("approle", name)) for name in ("migrate", "backup", "api-key", "model")}
    assert set(renewed.values()) == {"unchanged"}
    assert {outcome for (what, _), outcome in outcomes.items() if what != "kafka"} == {"rotated"}
    assert {service for what, service in outcomes if what == "approle"} == set(SERVICES) - set(NOT_ROTATED)
    assert {service for what, service in outcomes if what == "database"} > {"manager", "bdlab-writer"}
    assert pipeline.run("dlq", "list", "--json").stdout == letters


def test_a_drill_in_which_requests_failed_ends_with_10(pipeline: Pipeline) -> None:
    with (
        pipeline.serve(**IMPATIENT) as (serve, client),
        pipeline.daemon("consume"),
        pipeline.daemon("rotate", "database", "--drill", "--url", str(client.base_url), "--seconds", "8") as running,
    ):
        running.wait_for("posting 50 reviews a second")
        with brokers.frozen(pipeline.broker):
            serve.wait_for("not published")
        running.wait_for("verifying every offset")
        assert running.ended(within_s=90) == 10
        shown = "\n".join(_lines(running))
    assert "HTTP 503" in shown
    assert "requests failed" in shown


def _lines(daemon: Daemon) -> Iterator[str]:
    while not daemon.output.empty():
        yield daemon.output.get()


def test_a_service_that_does_not_answer_keeps_what_it_has(pipeline: Pipeline) -> None:
    with pipeline.daemon("consume") as consumer:
        consumer.wait_for("partitions assigned")
        consumer.process.send_signal(signal.SIGSTOP)
        done = pipeline.run("rotate", "approle", "--service", "consume", "--grace", "1")
        assert done.returncode == 1, done.stdout + done.stderr
        assert "incomplete" in done.stdout
        assert "Run it again to finish" in done.stderr
        assert "waiting for consume client" in done.stderr
        consumer.process.send_signal(signal.SIGCONT)
        again = pipeline.run("rotate", "approle", "--service", "consume", "--json")
        assert again.returncode == 0, again.stderr
        assert [one["outcome"] for one in json.loads(again.stdout)] == ["finished"]
        consumer.wait_for("logged in with another secret id", _DEADLINE_S)
        assert consumer.stop() == 0


def test_a_dry_run_says_what_it_would_do_and_does_not_do_it(pipeline: Pipeline) -> None:
    files = {
        file: file.stat().st_mtime_ns
        for file in (pipeline.folder / "identity").rglob("*")
        if file.is_file() and "rotate" not in file.parts
    }
    done = pipeline.run("rotate", "--dry-run", "--leases", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {one["outcome"] for one in found} == {"would rotate", "unchanged"}
    assert {file: file.stat().st_mtime_ns for file in files} == files


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--service", "nobody"), "there is no such service"),
        (("--drill", "--dry-run"), "give one of them"),
        (("--drill", "--url", "ftp://x"), "is no http(s) URL"),
    ],
)
def test_wrong_usage(pipeline: Pipeline, arguments: tuple[str, ...], said: str) -> None:
    done = pipeline.run("rotate", *arguments)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_a_drill_without_an_api_says_so_and_rotates_nothing(pipeline: Pipeline) -> None:
    accessor = (pipeline.folder / "identity" / "dlq" / "delivery.json").read_bytes()
    done = pipeline.run("rotate", "--drill", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "does not predict: ConnectError" in done.stderr
    assert (pipeline.folder / "identity" / "dlq" / "delivery.json").read_bytes() == accessor


@pytest.mark.kafka
def test_a_drill_on_a_secured_kafka_rotates_all_three(tmp_path: Path, start_up: Callable[..., Up]) -> None:
    up = start_up(tmp_path / "stack", "--consumers", "2")
    evaluate = up.wait_for(r'^ +(eval "\$\(bdlab env .*\)")$')[1]
    for _ in range(2):  # there and back again
        done = shell(f"{evaluate}\nbdlab rotate --drill --leases --json")
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        assert (found["load"]["failed"], found["verified"]) == (0, True)
        assert found["load"]["longest_pause_ms"] < PAUSE_MS
        assert {one["service"] for one in found["rotations"] if one["outcome"] != "rotated"} == set(NOT_ROTATED) & set(
            SERVICES
        )
        users = {one["service"]: one["after"] for one in found["rotations"] if one["what"] == "kafka"}
        assert set(users) == set(KAFKA_SERVICES)
    assert users["serve"].startswith("bdlab-serve-a ")
    without = shell(f"{evaluate}\nunset BDLAB_KAFKA_ADMIN_SERVERS\nbdlab rotate kafka")
    assert without.returncode == 2
    assert "--admin-servers" in without.stderr
    assert shell(f"{evaluate}\nbdlab migrate && bdlab status").returncode == 0
