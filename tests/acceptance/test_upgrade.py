"""An upgrade in the order of the runbook, under load, from the release whose schema was the first."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from bdlab.events import EventCodec
from bdlab.kafka.producer import Producer
from bdlab.postgres.contracts import expected_version
from bdlab.resources import models_dir
from tests.earlier import unpack
from tests.fix_kafka import kafka_login
from tests.fix_pipeline import BDLAB, Pipeline, running_pipeline
from tests.samples import later_event, later_reviews
from tests.static_credentials import StaticCredentials
from tests.waiting import until

pytestmark = pytest.mark.long

POST = {"text": "This product is terrible!", "summary": "Product review"}


class Load:
    """Posts one review after the other; `statuses` has what came back."""

    def __init__(self, url: object, body: Mapping[str, object] = POST) -> None:
        self._url = str(url)
        self._body = body
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._post)
        self.statuses: list[int] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _post(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30, trust_env=False, verify=False) as client:  # noqa: S501
            while not self._over.wait(0.05):
                self.statuses.append(client.post("/predict", json=self._body).status_code)

    def some_more(self) -> None:
        """Wait for 20 more answers."""
        count = len(self.statuses) + 20
        until(lambda: len(self.statuses) >= count)


def count(pipeline: Pipeline, table: str) -> int:
    with contextlib.closing(pipeline.database()) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")  # noqa: S608 - a name from below
        return int((cursor.fetchone() or (0,))[0])


#: `-P`: not the folder that it is started in, which may have another bdlab.
EARLIER = (sys.executable, "-P", "-m", "bdlab_cli")


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    """Of that release, with the dependencies of this one."""
    tree = unpack(tmp_path / "earlier")

    class Old(Pipeline):
        command = EARLIER

        def environment(self, **more: str) -> dict[str, str]:
            found = super().environment(BDLAB_KEYS_FILE=str(self.keys_file), **more)
            if self.command == EARLIER:
                found["PYTHONPATH"] = f"{tree / 'src'}:{tree / 'cli'}"
            return found

    with running_pipeline(tmp_path, kind=Old) as started:
        yield started


def test_migrate_then_consume_then_serve(pipeline: Pipeline) -> None:
    with pipeline.serve() as (_, client), pipeline.daemon("consume") as old_consumer, Load(client.base_url) as load:
        load.some_more()
        until(lambda: count(pipeline, "predictions") >= 20)
        pipeline.command = BDLAB
        for step in ("vault-init", "migrate"):
            done = pipeline.run(step)
            assert done.returncode == 0, done.stdout + done.stderr
        # Over the connection that it has the old consumer holds its batch; a new one it does not use.
        old_consumer.wait_for("column s.cluster_id does not exist")
        stored = count(pipeline, "predictions")
        load.some_more()
        assert old_consumer.stop() == 0
        pipeline.command = EARLIER
        refused = pipeline.run("consume", "--startup-timeout", "1")
        assert refused.returncode == 1
        assert f"is at version {expected_version()}, newer than this bdlab knows (1)" in refused.stderr
        pipeline.command = BDLAB
        assert count(pipeline, "predictions") == stored
        with pipeline.daemon("consume") as consumer:
            load.some_more()
            until(lambda: count(pipeline, "predictions") >= len(load.statuses))
            with pipeline.serve() as (_, newer):
                assert newer.post("/predict", json=POST).status_code == 200
            load.some_more()
            assert consumer.stop() == 0
    assert set(load.statuses) == {200}
    drained = pipeline.run("consume", "--until-idle")
    assert drained.returncode == 0, drained.stderr
    verified = pipeline.run("verify")
    assert verified.returncode == 0, verified.stdout
    assert count(pipeline, "predictions") == len(load.statuses) + 1
    assert count(pipeline, "dead_letters") == count(pipeline, "duplicates") == 0


def newer_card(folder: Path) -> Path:
    """The shipped model with the second contract, whose new field it does not read."""
    shutil.copytree(models_dir(), folder)
    card = folder / "reviews.card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"contract": later_reviews().document}))
    return card


def test_a_newer_contract_comes_under_load(tmp_path: Path) -> None:
    """Old replicas go on, no consumer is restarted, and events of both numbers are stored once."""
    newer = {"BDLAB_MODEL_PATH": str(newer_card(tmp_path / "model"))}
    early, acknowledged = later_event(EventCodec(later_reviews()), stars=9), threading.Event()
    with running_pipeline(tmp_path) as pipeline, contextlib.ExitStack() as running:
        consumers = [running.enter_context(pipeline.daemon("consume")) for _ in range(2)]
        urls = [running.enter_context(pipeline.serve())[1].base_url for _ in range(2)]
        with Load(urls[0]) as one, Load(urls[1]) as other:
            one.some_more()
            refused = pipeline.run("serve", "--port", "0", **newer)
            assert refused.returncode == 1
            why = "contract is number 2, with the field 'stars', and the database has number 1"
            assert why in refused.stderr
            broker = StaticCredentials(kafka=kafka_login(pipeline.broker.bootstrap_servers))
            with Producer(broker, client_id="test", source="/bdlab/serve") as producer:
                producer.publish(early, lambda _: acknowledged.set())
                assert acknowledged.wait(30)
            held = "the header bdlab-contract is 2, and the contract here is 1"
            until(lambda: any(held in line for consumer in consumers for line in consumer.lines))
            other.some_more()
            assert "contract: number 2, added stars" in pipeline.migrate(**newer)
            assert "contract: unchanged" in pipeline.migrate(**newer)
            _, client = running.enter_context(pipeline.serve(**newer))
            with Load(client.base_url, POST | {"stars": 7}) as third:
                third.some_more()
                one.some_more()
                other.some_more()
        posted = len(one.statuses) + len(other.statuses)
        assert {*one.statuses, *other.statuses, *third.statuses} == {200}
        until(lambda: count(pipeline, "predictions") == posted + len(third.statuses) + 1)
        assert "verified" in pipeline.run("verify", "--wait", "30").stdout
        with contextlib.closing(pipeline.database()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT stars, count(*) FROM predictions GROUP BY 1")
            assert dict(cursor.fetchall()) == {3: posted, 7: len(third.statuses), 9: 1}
        assert count(pipeline, "dead_letters") == count(pipeline, "duplicates") == 0
        assert [consumer.stop() for consumer in consumers] == [0, 0]
