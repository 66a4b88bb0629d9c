"""The installed commands on a secured cluster of three brokers, which loses its leaders and its majority."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from uuid import uuid4

import httpx
import pytest

from bdlab import settings
from bdlab.events import encode
from bdlab.kafka.connection import client_config
from bdlab.kafka.producer import Producer
from bdlab.vault.session import VaultSession
from tests.brokers import kill
from tests.fix_kafka import Acks
from tests.fix_pipeline import IMPATIENT, Pipeline, secured_pipeline
from tests.samples import event
from tests.servers.kafka_cluster import KafkaCluster
from tests.waiting import until

# One process has the servers that they share.
pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("secured_cluster")]

REVIEW = {"text": "This product is terrible!", "summary": "Product review"}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pipeline, KafkaCluster]]:
    with secured_pipeline(tmp_path_factory.mktemp("secured"), KafkaCluster) as ready:
        yield ready


class Load:
    """Clients that post reviews, each again with its key until it is acknowledged."""

    CLIENTS = 4

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self.acknowledged: list[str] = []
        self.refused: list[httpx.Response] = []
        self.wrong: list[httpx.Response] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(self.CLIENTS) as pool:
            posting = [pool.submit(self._post) for _ in range(self.CLIENTS)]
            try:
                yield
            finally:
                self._stop.set()
            for each in posting:
                each.result()

    def wait_for_more(self, count: int = 50) -> None:
        goal = len(self.acknowledged) + count
        until(lambda: len(self.acknowledged) >= goal, timeout_s=60)

    def _post(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30, trust_env=False) as client:
            while not self._stop.is_set():
                key = str(uuid4())
                # What was begun is brought to its end: nobody is left without a 200.
                while (answer := self._once(client, key)) is None:
                    time.sleep(0.2)
                self.acknowledged.append(answer)

    def _once(self, client: httpx.Client, key: str) -> str | None:
        answer = client.post("/predict", json=REVIEW, headers={"Idempotency-Key": key})
        if answer.status_code == 200:
            return str(answer.json()["id"])
        refused = answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
        (self.refused if refused else self.wrong).append(answer)
        return None


def check_all_stored(pipeline: Pipeline, client: httpx.Client, load: Load) -> None:
    """`verify` agrees, and each acknowledged prediction can be read back."""
    done = pipeline.run("verify", "--wait", "60", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert load.wrong == []
    assert len(set(load.acknowledged)) == len(load.acknowledged)
    missing = [found for found in load.acknowledged if client.get(f"/predictions/{found}").status_code != 200]
    assert missing == []


def leader_of(pipeline: Pipeline, partition: int) -> int:
    """The node that leads a partition of the topic; -1 where none does."""
    from confluent_kafka.admin import AdminClient

    with session(pipeline, "status") as status:
        client = AdminClient(client_config(status.kafka(), client_id="test"))
        topic = client.list_topics(timeout=20).topics["predictions"]
    return int(topic.partitions[partition].leader)


def led_by_another(pipeline: Pipeline, partition: int, node: int) -> bool:
    return leader_of(pipeline, partition) not in (-1, node)


def session(pipeline: Pipeline, service: str) -> VaultSession:
    layers = settings.load(environ=pipeline.environment())
    return VaultSession(layers, service=service, database_role=None, daemon=False)


def test_every_command_does_its_work_with_tls_logins_and_acls(secured: tuple[Pipeline, KafkaCluster]) -> None:
    pipeline, cluster = secured
    with pipeline.serve() as (_, client), pipeline.daemon("consume"):
        posted = client.post("/predict", json=REVIEW)
        assert posted.status_code == 200, posted.text
        done = pipeline.run("predict", "Great taste, will buy again.", "--json")
        assert done.returncode == 0, done.stderr
        ids = [posted.json()["id"], json.loads(done.stdout)["id"]]

        with session(pipeline, "predict") as predict, Producer(predict, client_id="test", source="/tests") as producer:
            acks = Acks()
            producer.publish_raw(b"k", b'{"id": "', [], acks)
            producer.publish_raw(*encode(event()), [], acks)
            acks.positions(2)
        report = json.loads(pipeline.run("verify", "--wait", "60", "--json").stdout)
        assert report["verified"], report
        assert [client.get(f"/predictions/{found}").status_code for found in ids] == [200, 200]

        listed = pipeline.run("dlq", "list", "--json")
        [letter] = [json.loads(line) for line in listed.stdout.splitlines()]
        assert "not UTF-8 JSON" in letter["reason"]
        replayed = pipeline.run("dlq", "replay", "--all", "--json")
        assert replayed.returncode == 1, replayed.stderr
        assert json.loads(replayed.stdout)["became"] == "dead"
        report = json.loads(pipeline.run("verify", "--wait", "60", "--json").stdout)
        assert report["verified"], report
        assert sum(one["dead_letters"] for one in report["partitions"]) == 2

        url = str(client.base_url)
        done = pipeline.run("status", "--json", "--wait-healthy", "--timeout", "30", "--api-url", url)
        assert done.returncode == 0, done.stdout
        checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
        assert checks["kafka.lag"]["detail"]["lag_events"] == 0
        assert client.get("/health").json()["status"] == "healthy"
        seen = client.get("/kafka-status").json()
        assert (seen["bootstrap_servers"], seen["brokers"]) == (cluster.bootstrap_servers, 3)
        # Least privilege: the API's user may not see the consumers' group.
        assert seen["consumer_lag"] is None
        assert "may not see group" in seen["problem"]
    done = pipeline.run("migrate", "--admin-servers", cluster.admin_servers)
    assert done.stdout.splitlines() == [
        "schema: unchanged",
        "contract: unchanged",
        "users and ACLs: unchanged",
        "topic predictions: unchanged",
        "topic feedback: unchanged",
    ]


def test_a_partition_leader_that_is_killed_under_load_costs_nothing(secured: tuple[Pipeline, KafkaCluster]) -> None:
    pipeline, cluster = secured
    with pipeline.serve() as (_, client), pipeline.daemon("consume"):
        load = Load(str(client.base_url))
        with load.running():
            for partition in (0, 3):
                load.wait_for_more()
                victim = cluster.brokers[leader_of(pipeline, partition)]
                kill(victim)
                until(partial(led_by_another, pipeline, partition, victim.node_id))
                load.wait_for_more()
                assert not victim.running
                victim.start()
        check_all_stored(pipeline, client, load)


def test_without_the_in_sync_majority_it_answers_503_and_recovers(secured: tuple[Pipeline, KafkaCluster]) -> None:
    pipeline, cluster = secured
    with pipeline.serve(**IMPATIENT) as (_, client), pipeline.daemon("consume"):
        load = Load(str(client.base_url))
        with load.running():
            load.wait_for_more()
            for node in (1, 2):
                kill(cluster.brokers[node])
            # Once all have been refused twice, nothing that was on its way is left to be acknowledged.
            until(lambda: len(load.refused) >= 2 * load.CLIENTS)
            before, refused = len(load.acknowledged), len(load.refused)
            until(lambda: len(load.refused) >= refused + 8)
            assert len(load.acknowledged) == before
            health = client.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
            assert client.get("/health/ready").status_code == 503
            cluster.start()
            load.wait_for_more()
        check_all_stored(pipeline, client, load)
        until(lambda: client.get("/health").json()["status"] == "healthy")
