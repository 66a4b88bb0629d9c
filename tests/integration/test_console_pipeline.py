"""The console's pages about the pipeline and about rotations, over real servers."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from html import unescape

import httpx
import msgspec
import pytest

from bdlab.credentials import KafkaLogin
from bdlab.settings import KafkaSettings, Layers
from bdlab.vault.rotation import Run
from bdlab.vault.rotation.kafka import rotate_kafka_users
from bdlab.vault.session import VaultSession
from tests.fix_console import Console, running_console
from tests.fix_pipeline import Daemon, Pipeline
from tests.leaks import TOKEN, Secrets
from tests.waiting import until

_PART = re.compile(r'<li class="part (\w+) at-(\w+)">(.*?)</li>', re.DOTALL)


class World(msgspec.Struct):
    """A pipeline with an API, and a console in front of it."""

    pipeline: Pipeline
    serve: Daemon
    api: httpx.Client
    console: Console

    def states(self) -> dict[str, str]:
        return {name: state for state, name, _ in _PART.findall(self.console.get("/pipeline").text)}

    def publish(self, count: int) -> None:
        for _ in range(count):
            assert self.api.post("/predict", json={"text": "Great taste."}).status_code == 200

    def lag(self) -> int:
        """Of the predictions, as the page shows it."""
        found = re.search(r"lag of predictions</dt><dd>([\d,]+) ", self.console.get("/pipeline").text)
        return int(found[1].replace(",", "")) if found else -1


@pytest.fixture(scope="module")
def world(_shared_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    pipeline = _shared_pipeline
    with pipeline.serve() as (serve, api):
        url = str(api.base_url).rstrip("/")
        with running_console(pipeline, tmp_path_factory.mktemp("console"), BDLAB_CONSOLE_API_URL=url) as console:
            yield World(pipeline, serve, api, console)


def test_each_part_has_its_state_and_what_waits_without_a_consumer_is_seen(world: World) -> None:
    until(
        lambda: (
            {"serve", "kafka", "postgres", "vault"} <= {one for one, at in world.states().items() if at == "healthy"}
        )
    )
    before = world.lag()
    world.publish(7)
    until(lambda: world.lag() == before + 7)
    until(lambda: world.states()["consume"] == "unhealthy", 20)
    shown = unescape(world.console.get("/pipeline").text)
    assert f"{before + 7} events wait, and none was stored in" in shown
    assert "Not healthy: bdlab consume (unhealthy)." in shown
    rows = re.findall(r'<td><bdi>predictions</bdi></td>(?:<td class="num">(\d+)</td>){4}', shown)
    assert sum(map(int, rows)) == before + 7
    assert "Vault token of the console" in shown
    assert "database lease of the console" in shown
    with world.pipeline.daemon("consume"):
        until(lambda: world.lag() == 0)
        until(lambda: world.states()["consume"] != "unhealthy")


def test_doctor_is_asked_once_a_minute_or_by_a_button(world: World) -> None:
    def looked() -> str:
        found = re.search(r"Looked at (<time .*?</time>), [\w ]+ ago", world.console.get("/pipeline").text)
        return found[1] if found else ""

    until(lambda: bool(looked()))
    first = looked()
    assert looked() == first
    world.console.post("/pipeline/doctor", form="/pipeline")
    until(lambda: looked() != first)
    page = world.console.get("/pipeline").text
    assert "<dt>librdkafka</dt>" in page
    assert world.console.client.post("/pipeline/doctor").status_code == 403  # without its token


def test_servers_that_stop_are_named_and_come_back_while_the_page_answers(world: World) -> None:
    servers = {"postgres": world.pipeline.postgres, "vault": world.pipeline.vault}

    def have(state: str) -> bool:
        return {world.states()[part] for part in servers} == {state}

    until(lambda: have("healthy"))
    for server in servers.values():
        server.stop()
    try:
        longest_s, ended = 0.0, time.monotonic() + 60
        while not have("unhealthy") and time.monotonic() < ended:
            began = time.monotonic()
            world.console.get("/pipeline")
            longest_s = max(longest_s, time.monotonic() - began)
            time.sleep(0.2)
        page = unescape(world.console.get("/pipeline").text)
        assert re.search(r"Not healthy: .*PostgreSQL \(unhealthy\), Vault \(unhealthy\)", page)
        for name in ("PostgreSQL", "Vault"):
            assert re.search(rf"<h2>{name}</h2>.*?Since <time ", page, re.DOTALL)
        assert longest_s < 2.5  # 0.8 s, on a slow machine
    finally:
        for server in reversed(servers.values()):
            server.start()
    until(lambda: have("healthy"))


def test_a_hundred_requests_are_one_look(world: World) -> None:
    def sessions() -> int:
        with closing(world.pipeline.database()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_stat_clear_snapshot(), sessions FROM pg_stat_database WHERE datname = 'bdlab'")
            ((_, found),) = cursor.fetchall()
            return int(found)

    before, began = sessions(), time.monotonic()
    for number in range(100):
        world.console.get("/rotation" if number % 2 else "/pipeline")
    looks = 2 + (time.monotonic() - began) / 5
    time.sleep(1.2)  # until PostgreSQL has counted them
    assert sessions() - before <= 1 + 4 * looks


class AnyBroker:
    """A broker of one test, which refuses a former password."""

    def put(self, service: str, login: KafkaLogin) -> None:
        pass

    def accepts(self, login: KafkaLogin) -> bool:
        return False


@contextlib.contextmanager
def _rotation(pipeline: Pipeline, *, force: bool) -> Iterator[Run]:
    vault = {"address": pipeline.vault.address, "ca_file": pipeline.vault.ca_file, "timeout_s": 5.0, "poll_s": 0.5}
    layers = Layers({}, {}, {"vault": {**vault, "identity_dir": str(pipeline.folder / "identity")}}, source="")
    with VaultSession(layers, service="rotate", database_role=None, kafka=False, daemon=False) as session:
        vault_of = layers.settings().vault
        yield Run(
            session=session, vault=vault_of, progress=lambda _: None, stop=threading.Event(), grace_s=1.0, force=force
        )


def test_a_rotation_is_seen_and_which_process_still_uses_the_former_login(world: World) -> None:
    def row() -> list[str]:
        """Of the Kafka logins, that of `serve`, as text."""
        found = re.search(
            r"<tr><td>serve</td>\s*<td class=\"num\">.*?</tr>", world.console.get("/rotation").text, re.DOTALL
        )
        assert found
        return [
            " ".join(re.sub("<[^>]+>", " ", cell).split()) for cell in re.findall(r"<td.*?</td>", found[0], re.DOTALL)
        ]

    def uses() -> list[str]:
        """How the processes of `serve` use it."""
        page = world.console.get("/rotation").text
        return re.findall(
            r'<tr><td>serve</td><td class="mono keep">.*?<span class="badge \w+">(\w+)</span>', page, re.DOTALL
        )

    def rotate(*, force: bool) -> str:
        with _rotation(world.pipeline, force=force) as run:
            (one,) = rotate_kafka_users(run, AnyBroker(), KafkaLogin(server=KafkaSettings()), ["serve"])
            return one.outcome

    until(lambda: "current" in uses())
    before = int(row()[1])
    # At a broker that asks for no user no process notices another one.
    assert rotate(force=False) == "incomplete"
    until(lambda: int(row()[1]) == before + 2)
    user = row()[3]
    assert re.fullmatch("bdlab-serve-[ab] bdlab-serve-[ab] still works", user)
    assert set(uses()) == {"former"}
    assert rotate(force=True) == "finished"
    until(lambda: int(row()[1]) == before + 4)
    assert row()[3] == user.split()[0]
    with world.pipeline.serve():
        until(lambda: sorted(uses()) == ["current", "former"])
    page = unescape(world.console.get("/rotation").text)
    assert f"{user.split()[0]} in use from here on" in page
    assert "bdlab rotate kafka --service serve" in page
    assert "v-approle-bdlab-re-" in page
    assert "bdlab console" in page


def test_no_answer_has_a_secret(world: World) -> None:
    secrets = Secrets()
    for file in world.pipeline.folder.glob("identity/*/*id"):
        secrets.add(f"{file.name} of {file.parent.name}", file.read_bytes().strip())
    with world.pipeline.root() as root:
        for name in ("serve", "consume", "console", "credentials"):
            secrets.add_fields(name, root.read_kv(f"kafka/{name}")[0])
    assert len(secrets.values()) > 10
    for path in ("/pipeline", "/rotation"):
        content = world.console.get(path).content
        assert [*secrets.leaks(path, content)] == []
        assert not TOKEN.search(content)
