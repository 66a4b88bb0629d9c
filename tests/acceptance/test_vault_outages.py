"""The services as processes while Vault fails, in each way that it can.

They go on with what they hold, say so in few lines, and recover by themselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from bdlab.settings import VaultSettings
from bdlab.vault.client import VaultClient
from tests.chaos.vault_faults import VaultProxy
from tests.fix_pipeline import Daemon, Pipeline, running_pipeline
from tests.fix_vault import ShamirOpenBao
from tests.waiting import until

BEGINS = "credentials cannot be renewed from Vault; the present ones stay in use"
ENDS = "credentials are renewed from Vault again"
REVIEW = {"text": "This product is terrible!", "summary": "Product review"}


@pytest.fixture(scope="module")
def own_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Its Vault stays sealed until its key is given."""
    with running_pipeline(tmp_path_factory.mktemp("outages"), vault=ShamirOpenBao) as pipeline:
        yield pipeline


@dataclass
class Services:
    """`serve` and `consume`, which reach Vault through a proxy."""

    pipeline: Pipeline
    proxy: VaultProxy
    serve: Daemon
    consume: Daemon
    client: httpx.Client

    def predict(self) -> str:
        answer = self.client.post("/predict", json=REVIEW)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def stored(self, prediction_id: str) -> bool:
        return self.client.get(f"/predictions/{prediction_id}").status_code == 200

    def health(self) -> dict[str, Any]:
        answer = self.client.get("/health")
        return {"code": answer.status_code, **answer.json()}

    def vault_status(self) -> dict[str, Any]:
        answer = self.client.get("/vault-status")
        return {"code": answer.status_code, **answer.json()}

    def lines(self, event: str) -> list[int]:
        """How often `serve` and `consume` have logged it."""
        return [len(daemon.events(event)) for daemon in (self.serve, self.consume)]

    def checks(self) -> tuple[int, dict[str, Any]]:
        """Exit code and checks of `bdlab status --check vault`."""
        done = self.pipeline.run("status", "--json", "--check", "vault", VAULT_ADDR=self.proxy.address)
        return done.returncode, {check["name"]: check for check in json.loads(done.stdout)["checks"]}


@contextlib.contextmanager
def running_services(pipeline: Pipeline) -> Iterator[Services]:
    with ExitStack() as opened:
        proxy = opened.enter_context(VaultProxy(pipeline.vault.address))
        through = {"VAULT_ADDR": proxy.address, "BDLAB_VAULT_TIMEOUT_S": "2"}
        serve, client = opened.enter_context(pipeline.serve(**through))
        consume = opened.enter_context(pipeline.daemon("consume", **through))
        services = Services(pipeline, proxy, serve, consume, client)
        first = services.predict()
        until(lambda: services.stored(first))
        yield services


def unseal(pipeline: Pipeline) -> None:
    keys = json.loads(pipeline.keys_file.read_text())["unseal_keys"]
    client = VaultClient(VaultSettings(address=pipeline.vault.address, timeout_s=5))
    for key in keys:
        client.request("put", "sys/unseal", {"key": key})
    until(lambda: client.health().active)
    client.close()


# -- the faults ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def sealed(services: Services) -> Iterator[None]:
    with services.pipeline.root() as root:
        root.request("put", "sys/seal", {})
        try:
            yield
        finally:
            unseal(services.pipeline)


@contextlib.contextmanager
def killed(services: Services) -> Iterator[None]:
    vault = services.pipeline.vault
    assert vault.pid
    os.kill(vault.pid, signal.SIGKILL)
    try:
        yield
    finally:
        vault.start()
        unseal(services.pipeline)


@contextlib.contextmanager
def rate_limited(services: Services) -> Iterator[None]:
    """By Vault's own quota: 429."""
    with services.pipeline.root() as root:
        root.write("sys/quotas/rate-limit/test", {"rate": 0.001, "interval": "60s", "path": "kv/"})
        try:
            yield
        finally:
            root.request("delete", "sys/quotas/rate-limit/test")


@contextlib.contextmanager
def audit_disk_full(services: Services) -> Iterator[None]:
    """Every write of the audit log fails with ENOSPC, and Vault answers 500 to all but its health."""
    vault = services.pipeline.vault
    log, aside = vault.folder / "audit.log", vault.folder / "audit.aside"
    assert vault.pid
    log.rename(aside)
    fill(log)
    try:
        os.kill(vault.pid, signal.SIGHUP)  # it opens its log anew
        yield
    finally:
        log.unlink()
        aside.rename(log)
        os.kill(vault.pid, signal.SIGHUP)


def fill(path: Path) -> None:
    """A file on which there is no room."""
    if os.geteuid() != 0:
        path.symlink_to("/dev/full")
        return
    # A device of its own: the server changes the mode of its log, and root's would change that of /dev/full.
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 7))
    except PermissionError as error:
        pytest.skip(f"no device can be made here: {error}")


@contextlib.contextmanager
def unreachable(services: Services) -> Iterator[None]:
    services.proxy.drop()
    try:
        yield
    finally:
        services.proxy.heal()


@contextlib.contextmanager
def silent(services: Services) -> Iterator[None]:
    services.proxy.stall()
    try:
        yield
    finally:
        services.proxy.heal()


@contextlib.contextmanager
def failing_gateway(services: Services) -> Iterator[None]:
    services.proxy.answer(502)
    try:
        yield
    finally:
        services.proxy.heal()


#: What `bdlab status` says of each, in which check, and a word of what it advises.
FAULTS = {
    sealed: ("vault.unsealed", "is sealed", "Unseal it"),
    killed: ("vault.reachable", "is unreachable", "Check that it runs"),
    rate_limited: ("vault.reachable", "too many requests", "quota"),
    audit_disk_full: ("vault.reachable", "failed at", "full disk"),
    unreachable: ("vault.reachable", "is unreachable", "Check that it runs"),
    silent: ("vault.reachable", "timed out", "Check that it runs"),
    failing_gateway: ("vault.reachable", "is no Vault", "Check the setting"),
}


@pytest.mark.long
def test_every_outage_is_outlived_and_told_once(own_pipeline: Pipeline) -> None:
    with running_services(own_pipeline) as services, ThreadPoolExecutor(1) as beside:
        for count, (fault, (check, problem, advice)) in enumerate(FAULTS.items(), start=1):
            with fault(services):
                status = beside.submit(services.checks)
                until(lambda: services.lines(BEGINS) == [count, count])  # noqa: B023 - called at once
                until(lambda: services.health()["status"] == "degraded")
                health = services.health()
                assert (health["code"], health["vault_connected"]) == (200, False), fault
                assert (health["kafka_connected"], health["database_connected"]) == (True, True), fault
                until(lambda: problem in services.vault_status()["problem"])  # noqa: B023
                status_now = services.vault_status()
                assert (status_now["code"], status_now["connected"]) == (503, False), fault
                assert services.client.get("/health/ready").status_code == 200, fault
                code, found = status.result()
                assert (code, found[check]["state"]) == (10, "unhealthy"), (fault, found)
                assert problem in found[check]["message"], fault
                assert advice in found[check]["hint"], fault
                during = services.predict()
                until(lambda: services.stored(during))  # noqa: B023
            until(lambda: services.health()["status"] == "healthy")
            until(lambda: services.lines(ENDS) == [count, count])  # noqa: B023
            assert services.lines(BEGINS) == [count, count], fault
            after = services.predict()
            until(lambda: services.stored(after))  # noqa: B023
        # What was held was good all along, so that there was nothing else to say.
        assert services.lines("batch not stored yet") == [0, 0]
        for daemon in (services.serve, services.consume):
            assert daemon.stop() == 0
            warnings = [json.loads(line) for line in daemon.lines if '"level": "warning"' in line]
            # On a busy machine the broker may be slow to answer, which is another story.
            told = [line["event"] for line in warnings if "Vault" in json.dumps(line)]
            assert told == [BEGINS] * len(FAULTS)


def test_starting_while_vault_is_sealed(own_pipeline: Pipeline) -> None:
    """A command gives up in time and says what to do; a daemon starts as soon as Vault is opened."""
    with own_pipeline.root() as root:
        root.request("put", "sys/seal", {})
        for command in (["predict", "good"], ["serve", "--port", "0"]):
            done = own_pipeline.run(*command, "--startup-timeout", "1")
            assert done.returncode == 1
            assert re.search(r"is sealed \(waited \d+ s\)\nUnseal it: ", done.stderr)
        with own_pipeline.daemon("consume") as consume:
            waits = json.loads(consume.wait_for("waiting for Vault"))
            assert "is sealed" in waits["problem"]
            assert waits["timeout_s"] == 60
            unseal(own_pipeline)
            consume.wait_for("partitions start")
            assert len(consume.events("waiting for Vault")) == 1
            assert len(consume.events("Vault is there")) == 1
            assert consume.stop() == 0


def test_leases_run_out_while_vault_is_sealed(own_pipeline: Pipeline) -> None:
    """Predicting needs no lease. Storing goes on over the open connection, breaks off when the opened Vault
    ends it, and goes on with a new login: nothing is lost, and nothing is stored twice.
    """
    with own_pipeline.root() as root:
        before = {role: root.read(f"database/roles/{role}") for role in ("bdlab-writer", "bdlab-reader")}
        for role, fields in before.items():
            root.write(f"database/roles/{role}", {**fields, "default_ttl": 5, "max_ttl": 10})
        for name in ("serve", "consume"):
            root.write(f"auth/approle/role/{name}", {"token_period": 5})
    try:
        with running_services(own_pipeline) as services:
            with sealed(services):
                until(lambda: services.lines(BEGINS) == [1, 1])
                time.sleep(6)  # every lease has run out by now
                ids = [services.predict() for _ in range(5)]
                assert services.health()["status"] == "degraded"
                assert services.client.get("/vault-status").json()["token_ttl_s"] == 0
                assert services.client.get("/health/ready").status_code == 200
            until(lambda: services.health()["status"] == "healthy")
            ids += [services.predict() for _ in range(5)]
            until(lambda: all(services.stored(each) for each in ids))
            until(lambda: services.lines(ENDS) == [1, 1])
            assert services.lines(BEGINS) == [1, 1]
            # One line for each kind of error that the sink met, however often it tried.
            assert services.lines("batch not stored yet")[1] <= 2
            assert services.consume.stop() == 0
        done = own_pipeline.run("verify")
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        with own_pipeline.root() as root:
            for role, fields in before.items():
                root.write(f"database/roles/{role}", fields)
            for name in ("serve", "consume"):
                root.write(f"auth/approle/role/{name}", {"token_period": 3600})


def test_what_is_mended_at_once_is_no_outage(own_pipeline: Pipeline) -> None:
    """A restart of Vault; and a token that was revoked, which is worth another try, unlike a denial."""
    with running_services(own_pipeline) as services:
        own_pipeline.vault.stop()
        own_pipeline.vault.start()
        unseal(own_pipeline)
        until(lambda: services.health()["status"] == "healthy")
        until(lambda: services.lines(BEGINS) == services.lines(ENDS))
        told = services.lines(BEGINS)
        assert max(told) <= 1
        with own_pipeline.root() as root:
            root.write("sys/leases/revoke-prefix/auth/approle")
        until(lambda: services.lines("the token is dead; logging in again") == [1, 1])
        ids = [services.predict() for _ in range(3)]
        until(lambda: all(services.stored(each) for each in ids))
        until(lambda: services.health()["status"] == "healthy")
        assert services.lines(BEGINS) == told
        assert services.lines("the token is dead; logging in again") == [1, 1]
