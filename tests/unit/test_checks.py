"""From what probes found to named checks; each check made to fail."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from bdlab.certificates import CertificateFiles
from bdlab.errors import BdlabError, BrokerUnavailable, IdentityRefused
from bdlab.health import CHECKS, CachedProbe, CheckResult, Report, State
from bdlab.health.checks import broker_checks, compared_models, database_checks, log_check, unknown, vault_checks
from bdlab.health.remote import consumer_check
from bdlab.ledger import LogRange
from bdlab.log_identity import KnownLog
from bdlab.probes import BrokerState, DatabaseState, VaultState
from bdlab.sink.metrics import SinkMetrics
from bdlab.sink.metrics_server import MetricsServer
from bdlab.stack.tls import temporary_certificates

VAULT = VaultState(
    connected=True,
    authenticated=True,
    sealed=False,
    secrets_engine="kv v2 at kv/",
    token_ttl_s=60.4,
    policies=("default", "status"),
    credentials_valid=True,
)
BROKER = BrokerState(
    connected=True,
    bootstrap_servers="h:1",
    cluster_id="c",
    brokers=1,
    topic="predictions",
    partitions=6,
    consumer_lag=3,
)
DATABASE = DatabaseState(
    connected=True,
    server_version="18.1",
    schema_version=2,
    schema_expected=2,
    rows=7,
    open_dead_letters=2,
    ended_logins={},
)


def states(results: tuple[CheckResult, ...]) -> dict[str, str]:
    return {result.name: result.state for result in results}


def look_at_vault(state: VaultState, refusal: BdlabError | None = None) -> dict[str, str]:
    return states(vault_checks(state, service="status", refusal=refusal))


def test_a_broker_in_memory_is_remarked() -> None:
    brokers, *_ = broker_checks(msgspec.structs.replace(BROKER, cluster_id="tansu-1"))
    assert brokers.state == "healthy"
    assert brokers.message.endswith("in memory only: what is not stored yet is lost when it ends")
    assert "memory" not in broker_checks(BROKER)[0].message


def test_all_is_well() -> None:
    found = (
        vault_checks(VAULT, service="status", refusal=None)
        + broker_checks(BROKER)
        + database_checks(DATABASE, lease_ttl_s=3600.0)
    )
    assert set(states(found).values()) == {"healthy"}
    names = [*CHECKS["vault"], *CHECKS["kafka"], *CHECKS["postgres"]]
    assert [result.name for result in found] == names
    assert Report(found).state == "healthy"
    detail = {result.name: result.detail for result in found}
    assert detail["vault.token"] == {"ttl_s": 60}
    assert detail["kafka.lag"] == {"lag_events": 3}
    assert detail["postgres.rows"] == {"rows": 7, "feedback": 0}
    assert detail["postgres.dead_letters"] == {"open": 2}
    assert detail["postgres.lease"] == {"ttl_s": 3600}
    told = {result.name: result.message for result in found}
    # Of the several tokens and logins about, it says whose this is.
    assert told["vault.token"] == "that of this command, as service 'status', is valid for 60 s"
    assert told["postgres.lease"] == "that of this command's own login is valid for 3600 s"


def test_a_log_that_is_not_the_recorded_one() -> None:
    ranges = [LogRange("c", "t", number, 0, 5, "one") for number in range(3)]
    assert log_check(ranges, None, {}).message == "topic id one: none of it is recorded yet"
    check = log_check(ranges, KnownLog(topic_id="one", recorded=True), {})
    assert (check.state, check.message) == ("healthy", "topic id one: the recorded one")
    check = log_check(ranges, KnownLog(topic_id="", recorded=True), {1: "not proved", 2: "nor this"})
    assert (check.state, check.message) == ("unhealthy", "partition 1: not proved (and 1 more partitions)")


def test_vault_unreachable() -> None:
    found = look_at_vault(VaultState(connected=False, problem="refused"))
    assert found["vault.reachable"] == "unhealthy"
    assert {found[name] for name in CHECKS["vault"][1:]} == {"unknown"}


def test_vault_that_answers_and_is_of_no_use() -> None:
    state = VaultState(connected=False, sealed=False, problem="failed: disk full", hint="See its log.")
    reachable, *others = vault_checks(state, service="status", refusal=None)
    assert (reachable.state, reachable.message, reachable.hint) == ("unhealthy", "failed: disk full", "See its log.")
    assert {check.state for check in others} == {"unknown"}


def test_vault_sealed() -> None:
    found = look_at_vault(VaultState(connected=False, sealed=True, problem="sealed"))
    assert (found["vault.reachable"], found["vault.unsealed"]) == ("healthy", "unhealthy")


def test_no_token() -> None:
    refused = IdentityRefused("the secret id is refused")
    state = msgspec.structs.replace(VAULT, authenticated=False)
    assert look_at_vault(state, refused)["vault.token"] == "unknown"
    [token] = [r for r in vault_checks(state, service="status", refusal=refused) if r.name == "vault.token"]
    assert token.message == "the secret id is refused"


@pytest.mark.parametrize(
    ("state", "refusal"),
    [
        (msgspec.structs.replace(VAULT, policies=("default",)), None),
        (msgspec.structs.replace(VAULT, problem="permission denied for kv/data/kafka/credentials"), None),
        (VAULT, BdlabError("kafka/status is missing")),
    ],
)
def test_policies_that_do_not_do(state: VaultState, refusal: BdlabError | None) -> None:
    assert look_at_vault(state, refusal)["vault.policies"] == "unhealthy"


@pytest.mark.parametrize(
    ("here", "there", "state"),
    [("a@1", "a@1", "healthy"), ("a@1", "b@1", "unhealthy"), ("a@1", "", "healthy"), ("", "b@1", "healthy")],
)
def test_the_models_of_predict_and_of_the_api_are_one(here: str, there: str, state: str) -> None:
    """Where either is not known, nothing is said."""
    model = CheckResult(name="model", state="healthy", detail={"name": here} if here else {})
    api = CheckResult(name="api", state="healthy", detail={"model": there} if there else {})
    found = {check.name: check for check in compared_models([model, api])}
    assert (found["model"].state, found["api"].state) == (state, "healthy")
    if state == "unhealthy":
        assert here in found["model"].message
        assert there in found["model"].message


def test_a_problem_keeps_its_own_hint() -> None:
    refusal = BdlabError("PostgreSQL is starting up", hint="Wait for PostgreSQL.")
    found = vault_checks(VAULT, service="status", refusal=refusal)
    assert [check.hint for check in found if check.name == "vault.policies"] == ["Wait for PostgreSQL."]


@pytest.mark.parametrize(
    ("change", "name", "state"),
    [
        ({"connected": False}, "kafka.brokers", "unhealthy"),
        ({"partitions": 0}, "kafka.topic", "unhealthy"),
        ({"consumer_lag": None}, "kafka.lag", "unknown"),
    ],
)
def test_each_kafka_check_can_fail(change: dict[str, object], name: str, state: str) -> None:
    assert states(broker_checks(msgspec.structs.replace(BROKER, **change)))[name] == state


@pytest.mark.parametrize(
    ("change", "lease_ttl_s", "name", "state"),
    [
        ({"connected": False}, 60.0, "postgres.reachable", "unhealthy"),
        ({"schema_version": 1}, 60.0, "postgres.schema", "unhealthy"),
        ({"schema_version": None}, 60.0, "postgres.schema", "unhealthy"),
        ({"rows": None}, 60.0, "postgres.rows", "unknown"),
        ({"open_dead_letters": None}, 60.0, "postgres.dead_letters", "unknown"),
        ({}, None, "postgres.lease", "unknown"),
        ({}, 0.0, "postgres.lease", "unhealthy"),
        ({"ended_logins": None}, 60.0, "postgres.logins", "unknown"),
        ({"ended_logins": {"v-a": 0, "v-b": 1}}, 60.0, "postgres.logins", "unhealthy"),
        ({"ended_logins": {"v-a": 0}}, 60.0, "postgres.logins", "degraded"),
    ],
)
def test_each_postgres_check_can_fail(
    change: dict[str, object], lease_ttl_s: float | None, name: str, state: str
) -> None:
    found = states(database_checks(msgspec.structs.replace(DATABASE, **change), lease_ttl_s=lease_ttl_s))
    assert found[name] == state


@pytest.mark.parametrize(
    ("found", "worst", "healthy"),
    [
        ([], "unknown", False),
        (["healthy", "healthy"], "healthy", True),
        (["healthy", "degraded"], "degraded", True),
        (["unknown", "degraded"], "unknown", False),
        (["unknown", "unhealthy", "healthy"], "unhealthy", False),
    ],
)
def test_a_report_is_as_good_as_its_worst_check(found: list[State], worst: str, healthy: bool) -> None:
    report = Report(tuple(CheckResult(name=str(n), state=state) for n, state in enumerate(found)))
    assert (report.state, report.healthy) == (worst, healthy)


def test_a_group_that_is_not_checked_says_why_once() -> None:
    found = unknown("vault", "no login")
    assert [result.message for result in found] == ["no login", *["not checked"] * 3]


# Cached probes.


class Probe:
    def __init__(self) -> None:
        self.asked = 0
        self.go = threading.Event()
        self.go.set()
        self.error: BdlabError | None = None

    def __call__(self) -> str:
        self.asked += 1
        self.go.wait(10)
        if self.error is not None:
            raise self.error
        return f"state {self.asked}"


def watch(probe: Callable[[], str], *, max_age_s: float = 0.2, timeout_s: float = 0.2) -> CachedProbe[str]:
    return CachedProbe(probe, lambda why: f"absent: {why}", name="test", max_age_s=max_age_s, timeout_s=timeout_s)


def test_many_askers_are_one_question() -> None:
    probe = Probe()
    looked = watch(probe, max_age_s=60, timeout_s=5)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: asyncio.run(looked.get_async()), range(100))) == {"state 1"}
    assert probe.asked == 1


def test_an_old_state_is_asked_for_again() -> None:
    probe = Probe()
    looked = watch(probe, max_age_s=0.01, timeout_s=5)
    assert asyncio.run(looked.get_async()) == "state 1"
    threading.Event().wait(0.05)
    assert asyncio.run(looked.get_async()) == "state 2"


def test_a_probe_that_hangs_is_absent_and_is_not_asked_again() -> None:
    probe = Probe()
    probe.go.clear()
    looked = watch(probe)
    started = time.monotonic()
    assert {asyncio.run(looked.get_async()) for _ in range(5)} == {"absent: no answer within 0.2 s"}
    assert time.monotonic() - started < 10
    assert probe.asked == 1
    probe.go.set()


def test_a_problem_that_is_raised_is_a_state_too() -> None:
    probe = Probe()
    probe.error = BrokerUnavailable("no broker")
    assert asyncio.run(watch(probe, timeout_s=20).get_async()) == "absent: no broker"


@pytest.mark.parametrize("tls", [False, True])
def test_a_consumer_with_stopped_partitions_is_unhealthy(tmp_path: Path, tls: bool) -> None:
    files = CertificateFiles(tmp_path)
    files.write(temporary_certificates(["sink"], ttl_s=600)["sink"], [], ttl_s=600)
    pair = dict.fromkeys(("cert_file", "key_file"), str(files.server_file) if tls else "")
    metrics = SinkMetrics()
    with MetricsServer(metrics.registry, lambda: True, host="127.0.0.1", port=0, **pair) as server:
        url = server.url
        assert url.startswith("https:") is tls
        assert consumer_check([url], ca_file=str(files.ca_file)).state == "healthy"
        metrics.stopped({3: 'the "end" is 7'})
        found = consumer_check([url], ca_file=str(files.ca_file))
    assert found.state == "unhealthy"
    assert found.message == f'partition 3 is stopped at {url}: the "end" is 7'
    assert found.detail["stopped_partitions"] == {url: {"3": 'the "end" is 7'}}
