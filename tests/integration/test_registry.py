"""`bdlab model`'s registry over a real Vault and Postgres, and `bdlab serve` that takes what is promoted."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fix_pipeline import Pipeline
from tests.fix_registry import TERMS, version_card
from tests.json_results import as_documented
from tests.waiting import until


class Registry:
    """The registry of a test, in a folder of its own, and empty tables."""

    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        self.pipeline, self.folder = pipeline, folder
        self.settings = {
            "BDLAB_MODEL_REGISTRY": str(folder / "registry"),
            "BDLAB_MODEL_CACHE_DIR": str(folder / "cache"),
            "BDLAB_MODEL_POLL_S": "0.5",
        }

    def model(self, *arguments: str, code: int = 0) -> str:
        """Run `bdlab model`; what it prints, its error if it is to fail."""
        done = self.pipeline.run("model", *arguments, **self.settings)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    def add(self, version: str, **changes: Any) -> Path:
        card = version_card(self.folder / version, version, **changes)
        self.model("add", str(card))
        return card

    def listed(self) -> dict[str, Any]:
        return {each["model"]: each for each in as_documented("model list", self.model("list", "--json"))}

    def promoted(self) -> list[str]:
        return [name for name, each in self.listed().items() if each["promoted"]]

    def file(self, version: str, name: str = TERMS) -> Path:
        return self.folder / "registry" / "reviews" / version / name


@pytest.fixture
def registry(pipeline: Pipeline, tmp_path: Path) -> Iterator[Registry]:
    yield Registry(pipeline, tmp_path)
    pipeline.postgres.start()
    with closing(pipeline.database()) as connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE model_promotions, model_versions")


def test_versions_are_added_promoted_and_rolled_back(registry: Registry) -> None:
    one = version_card(registry.folder / "one", "1.0.0")
    assert registry.model("add", str(one)) == f"reviews@1.0.0: added to {registry.folder}/registry\n"
    assert registry.model("add", str(one)) == "reviews@1.0.0: unchanged\n"
    as_documented("model add", registry.model("add", str(version_card(registry.folder / "two", "2.0.0")), "--json"))
    registry.add("3.0.0")
    assert registry.promoted() == []
    assert "no other version was promoted before" in registry.model("rollback", code=1)
    assert registry.model("promote", "reviews@1.0.0", "--why", "the first") == "reviews@1.0.0: promoted\n"
    assert registry.model("promote", "reviews@1.0.0") == "reviews@1.0.0: unchanged\n"
    for version in ("2.0.0", "3.0.0"):
        registry.model("promote", f"reviews@{version}")
    # Each goes one further back, and not to what was left before.
    assert registry.model("rollback") == "reviews@2.0.0: promoted\n"
    assert registry.model("rollback", "--why", "worse") == "reviews@1.0.0: promoted\n"
    assert "no other" in registry.model("rollback", code=1)
    assert registry.promoted() == ["reviews@1.0.0"]
    shown = as_documented("model show", registry.model("show", "reviews@1.0.0", "--json"))
    assert [each["why"] for each in shown["promotions"]] == ["the first", "worse"]
    assert shown["card"]["validation"]["metrics"]["star_mse"] > 0
    assert "@" in shown["added_by"]
    assert "promoted" in registry.model("show", "reviews@1.0.0")
    assert "reviews@3.0.0" in registry.model("list")


def test_a_version_never_changes(registry: Registry) -> None:
    registry.add("1.0.0")
    other = version_card(registry.folder / "other", "1.0.0", created_at="later")
    assert "is in the registry already, and is another model" in registry.model("add", str(other), code=2)
    # Also if the database does not know it yet: an `add` was killed before its row.
    registry.file("2.0.0").parent.mkdir(parents=True)
    shutil.copy(version_card(registry.folder / "killed", "2.0.0"), registry.file("2.0.0", "reviews.card.json"))
    other = version_card(registry.folder / "another", "2.0.0", created_at="later")
    assert "is another model" in registry.model("add", str(other), code=2)
    # The same one finishes what was begun.
    assert "added to" in registry.model("add", str(registry.folder / "killed"))
    registry.model("promote", "reviews@2.0.0")


def test_what_was_changed_in_the_registry_is_not_promoted(registry: Registry) -> None:
    card = registry.add("1.0.0")
    for name in (TERMS, "reviews.card.json"):
        original = registry.file("1.0.0", name).read_bytes()
        registry.file("1.0.0", name).write_bytes(original + b" ")
        assert f"{name} of reviews@1.0.0 was changed in the registry" in registry.model(
            "promote", "reviews@1.0.0", code=1
        )
        assert registry.model("add", str(card)) == "reviews@1.0.0: files written again\n"
        assert registry.file("1.0.0", name).read_bytes() == original
    registry.file("1.0.0").unlink()
    assert f"{TERMS} of reviews@1.0.0 is not in the registry" in registry.model("promote", "reviews@1.0.0", code=1)
    assert registry.promoted() == []


def test_what_the_registry_does_not_take_is_refused(registry: Registry) -> None:
    from bdlab.contract import review_contract
    from bdlab.resources import models_dir

    card = json.loads((models_dir() / "reviews.card.json").read_bytes())
    joblib = {name: file for name, file in card["files"].items() if file["role"] == "pipeline"}
    refused = version_card(registry.folder / "joblib", "1.0.0", files=joblib)
    assert "model.path" in registry.model("add", str(refused), code=1)
    hostile = version_card(registry.folder / "hostile", "../../x")
    assert "is not a model card" in registry.model("add", str(hostile), code=1)
    for name in ("../x@1", "reviews@../x", "reviews", "@"):
        assert "is not valid" in registry.model("promote", name, code=2)
    assert "reviews@9 is not in the registry" in registry.model("promote", "reviews@9", code=1)
    document = json.loads(json.dumps(review_contract().document))
    document["input"]["properties"]["text"]["maxLength"] = 999
    other = version_card(registry.folder / "other", "1.0.0", contract=document)
    assert "maxLength is 999 in the model's contract" in registry.model("add", str(other), code=1)
    assert not (registry.folder / "registry").exists()
    assert not [model for model, found in registry.listed().items() if found["added_at"]]


REVIEW = {"text": "This product is terrible!", "summary": "Product review"}


def ask(client: httpx.Client) -> Any:
    answer = client.post("/predict", json=REVIEW)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_every_worker_takes_what_is_promoted_and_no_request_fails(registry: Registry) -> None:
    """Under load, while versions are promoted, refused and rolled back."""
    answers, slowest, stop = list[tuple[float, str, str]](), list[float](), threading.Event()
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        registry.add(version)

    def load(url: httpx.URL) -> None:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            while not stop.is_set():
                began = time.monotonic()
                found = ask(client)
                slowest.append(time.monotonic() - began)
                answers.append((began, found["id"], found["model"]))

    def taken(model: str, since: float) -> float:
        """Wait until no worker answers with another; how long that took from when it was promoted."""
        until(lambda: {each[2] for each in answers if each[0] > time.monotonic() - 1} == {model}, 30)
        return max((each[0] for each in answers if each[2] != model), default=since) - since

    with (
        registry.pipeline.daemon("consume"),
        registry.pipeline.serve("--workers", "2", **registry.settings) as (daemon, client),
        ThreadPoolExecutor(4) as threads,
    ):
        shipped = client.get("/health").json()["model"]
        loads = [threads.submit(load, client.base_url) for _ in range(4)]
        try:
            for version in ("1.0.0", "2.0.0"):
                registry.model("promote", f"reviews@{version}")
                assert taken(f"reviews@{version}", time.monotonic()) < 5
            # Changed after the trial: each worker refuses it, says so once, and goes on.
            registry.model("promote", "reviews@1.0.0")
            taken("reviews@1.0.0", time.monotonic())
            with closing(registry.pipeline.database()) as connection, connection.cursor() as cursor:
                registry.file("3.0.0").write_bytes(b"tampered")
                cursor.execute("INSERT INTO model_promotions (name, version) VALUES ('reviews', '3.0.0')")
            until(lambda: len(daemon.events("promoted model refused")) == 2)
            health = client.get("/health").json()
            assert (health["status"], health["model"]) == ("degraded", "reviews@1.0.0")
            assert "was changed in the registry" in health["model_problem"]
            done = registry.pipeline.run("status", "--check", "api", "--api-url", str(client.base_url))
            assert "reviews@3.0.0 is promoted, and is refused" in done.stdout
            time.sleep(2)
            assert len(daemon.events("promoted model refused")) == 2
            registry.model("rollback")  # to the version that runs, and then to the one before
            until(lambda: client.get("/health").json()["status"] == "healthy")
            registry.model("promote", "reviews@2.0.0")
            assert taken("reviews@2.0.0", time.monotonic()) < 5
        finally:
            stop.set()
        for each in loads:
            each.result()
        metrics = client.get("/metrics").text
        assert 'model="reviews@2.0.0",version=' in metrics.replace(" ", "")
        asked = {id_: model for _, id_, model in answers}
        assert Counter(asked.values()).keys() == {shipped, "reviews@1.0.0", "reviews@2.0.0"}
        with closing(registry.pipeline.database()) as connection, connection.cursor() as cursor:

            def stored() -> dict[str, str]:
                cursor.execute("SELECT id::text, model FROM predictions WHERE id = ANY(%s::uuid[])", (list(asked),))
                return dict(cursor.fetchall())

            until(lambda: len(stored()) == len(asked))
            assert stored() == asked
        shares = {name: each["share"] for name, each in registry.listed().items()}
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["reviews@2.0.0"] > 0
        assert shares["reviews@3.0.0"] == 0
    slowest.sort()
    print(  # noqa: T201 - shown with -s
        f"{len(slowest)} requests, p50 {slowest[len(slowest) // 2]:.4f} p99 {slowest[len(slowest) * 99 // 100]:.4f}"
        f" max {slowest[-1]:.4f} s"
    )


def test_without_the_database_the_last_known_version_serves(registry: Registry) -> None:
    registry.add("1.0.0")
    registry.add("2.0.0")
    registry.model("promote", "reviews@1.0.0")
    with registry.pipeline.serve(**registry.settings) as (_, client):
        assert ask(client)["model"] == "reviews@1.0.0"
    predicted = registry.pipeline.run("predict", "--no-publish", "--json", "Great.", **registry.settings)
    assert json.loads(predicted.stdout)["model"] == "reviews@1.0.0"
    shutil.rmtree(registry.folder / "registry" / "reviews" / "1.0.0")  # the cache has it
    registry.pipeline.postgres.stop()
    with registry.pipeline.serve(**registry.settings) as (_, client):
        assert ask(client)["model"] == "reviews@1.0.0"
        registry.pipeline.postgres.start()
        registry.model("promote", "reviews@2.0.0")
        until(lambda: ask(client)["model"] == "reviews@2.0.0")
        # A version that is refused at the start leaves the one that served before.
        with closing(registry.pipeline.database()) as connection, connection.cursor() as cursor:
            registry.add("3.0.0")
            registry.file("3.0.0").unlink()
            cursor.execute("INSERT INTO model_promotions (name, version) VALUES ('reviews', '3.0.0')")
    with registry.pipeline.serve(**registry.settings) as (_, client):
        assert ask(client)["model"] == "reviews@2.0.0"
        assert "is not in the registry" in client.get("/health").json()["model_problem"]
    nothing_known = registry.settings | {"BDLAB_MODEL_CACHE_DIR": str(registry.folder / "another")}
    registry.pipeline.postgres.stop()
    done = registry.pipeline.run("serve", "--port", "0", "--startup-timeout", "1", **nothing_known)
    assert done.returncode == 1
    assert "PostgreSQL" in done.stderr
